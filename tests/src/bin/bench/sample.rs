//! Figures of one kind, and what may be said of them.

use std::time::Duration;

/// Measured values of one kind, in the order of measuring.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Ratios of what was measured in turns: each value to the one measured right beside it.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Milliseconds: the median, and where the middle half lies.
    pub(crate) fn millis(&self) -> String {
        format!("{:.0} ms ({:.0}–{:.0})", self.median(), self.at(0.25), self.at(0.75))
    }

    /// Milliseconds: the median, and what one of a hundred exceeds.
    pub(crate) fn quantiles(&self) -> String {
        format!("p50 {:.1} ms, p99 {:.1} ms", self.at(0.5), self.at(0.99))
    }

    /// A ratio: the median, and where the middle half lies.
    pub(crate) fn ratio(&self) -> String {
        format!("{:.2} × ({:.2}–{:.2})", self.median(), self.at(0.25), self.at(0.75))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a place in a short list"
    )]
    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }
}
