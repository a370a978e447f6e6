//! How far pulls have come, as two levels: a brisk one for whoever looks on, and a slow one for statuses, which go over
//! the same line as the images.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::replica::{PullProgress, PullStage, Pulls};
use tokio::sync::watch;
use tokio::time::Instant;

use super::manifest::Descriptor;

/// Between two looks of somebody at a terminal.
const BRISK: Duration = Duration::from_millis(500);
/// Between two statuses for the sake of progress alone.
const SLOW: Duration = Duration::from_secs(5);
/// Pulls that were broken off and are remembered.
const BROKEN_KEPT: usize = 16;

/// Both levels.
#[derive(Debug)]
pub(super) struct Progress {
    brisk: watch::Sender<Arc<Pulls>>,
    slow: watch::Sender<Arc<Pulls>>,
}

impl Default for Progress {
    fn default() -> Self {
        let channel = || watch::Sender::new(Arc::default());
        Self { brisk: channel(), slow: channel() }
    }
}

impl Progress {
    pub(super) fn brisk(&self) -> watch::Receiver<Arc<Pulls>> {
        self.brisk.subscribe()
    }

    pub(super) fn slow(&self) -> watch::Receiver<Arc<Pulls>> {
        self.slow.subscribe()
    }

    /// A pull begins. What it is told of comes from [`Advance`]; dropped unfinished, that says that it was broken off.
    pub(super) fn begin(&self, reference: &str, layers: &[&Descriptor]) -> Advance<'_> {
        let pull = PullProgress {
            layers: u32::try_from(layers.len()).unwrap_or(u32::MAX),
            bytes: layers.iter().map(|layer| layer.size).sum(),
            ..PullProgress::default()
        };
        let told = Told {
            here: vec![0; layers.len()],
            pull,
            came: 0,
            since: Instant::now(),
            slow_at: Instant::now(),
            end: End::Broken,
        };
        let advance = Advance {
            progress: self,
            reference: reference.to_owned(),
            sizes: layers.iter().map(|layer| layer.size).collect(),
            told: Mutex::new(told),
        };
        self.tell(reference, Some(pull), Pace::Slow);
        advance
    }

    fn tell(&self, reference: &str, pull: Option<PullProgress>, pace: Pace) {
        self.brisk.send_modify(|pulls| {
            let pulls = Arc::make_mut(pulls);
            match pull {
                Some(pull) => drop(pulls.insert(reference.to_owned(), pull)),
                None => drop(pulls.remove(reference)),
            }
            let broken: Vec<String> = pulls
                .iter()
                .filter(|(_, pull)| !pull.is_active())
                .map(|(reference, _)| reference.clone())
                .collect();
            for reference in broken.iter().skip(BROKEN_KEPT) {
                pulls.remove(reference);
            }
        });
        if pace == Pace::Slow {
            let now = Arc::clone(&self.brisk.borrow());
            self.slow.send_replace(now);
        }
    }
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Those who look on.
    Brisk,
    /// The statuses too.
    Slow,
}

/// One pull as it goes on.
#[derive(Debug)]
pub(super) struct Advance<'a> {
    progress: &'a Progress,
    reference: String,
    sizes: Vec<u64>,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    /// Bytes that are here, of each layer.
    here: Vec<u64>,
    pull: PullProgress,
    /// Bytes that came since it was told.
    came: u64,
    since: Instant,
    /// When the statuses were told.
    slow_at: Instant,
    /// How it ends, if it ends now.
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Broken,
    Whole,
}

impl Told {
    /// Adds up what is here of the layers.
    fn count(&mut self, sizes: &[u64]) {
        let whole = self.here.iter().zip(sizes).filter(|(here, size)| here == size);
        self.pull.layers_done = u32::try_from(whole.count()).unwrap_or(u32::MAX);
        self.pull.bytes_done = self.here.iter().sum();
    }
}

impl Advance<'_> {
    /// So much of a layer is here, of earlier tries or by now.
    pub(super) fn here(&self, layer: usize, bytes: u64) {
        self.note(layer, bytes, 0);
    }

    /// So much of a layer is here, and so many of these bytes came just now.
    pub(super) fn came(&self, layer: usize, bytes: u64, now: usize) {
        self.note(layer, bytes, now as u64);
    }

    /// All layers are here.
    pub(super) fn unpacking(&self) {
        let pull = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.count(&self.sizes);
            told.pull.stage = PullStage::Unpacking;
            told.pull.bytes_per_second = 0;
            told.pull
        };
        self.progress.tell(&self.reference, Some(pull), Pace::Slow);
    }

    /// It is over, and there is nothing to tell of it any more.
    pub(super) fn finish(self) {
        // The drop that follows tells it.
        self.told.lock().unwrap_or_else(PoisonError::into_inner).end = End::Whole;
    }

    fn note(&self, layer: usize, bytes: u64, came: u64) {
        let (pull, pace) = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(here) = told.here.get_mut(layer) else { return };
            *here = bytes;
            told.came += came;
            let since = told.since.elapsed();
            if since < BRISK {
                return;
            }
            told.count(&self.sizes);
            let rate = u128::from(told.came) * 1000 / since.as_millis();
            told.pull.bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
            (told.came, told.since) = (0, Instant::now());
            let pace = if SLOW <= told.slow_at.elapsed() { Pace::Slow } else { Pace::Brisk };
            if pace == Pace::Slow {
                told.slow_at = Instant::now();
            }
            (told.pull, pace)
        };
        self.progress.tell(&self.reference, Some(pull), pace);
    }
}

impl Drop for Advance<'_> {
    fn drop(&mut self) {
        let told = self.told.get_mut().unwrap_or_else(PoisonError::into_inner);
        told.count(&self.sizes);
        told.pull.bytes_per_second = 0;
        told.pull.stage = PullStage::Broken;
        let pull = (told.end == End::Broken).then_some(told.pull);
        self.progress.tell(&self.reference, pull, Pace::Slow);
    }
}

#[cfg(test)]
mod tests {
    use domain::model::Digest;

    use super::*;

    fn layer(size: u64) -> Descriptor {
        Descriptor::plain("", Digest::of(&size.to_le_bytes()), size)
    }

    fn of(level: &watch::Receiver<Arc<Pulls>>) -> Option<PullProgress> {
        level.borrow().get("a:1").copied()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_at_two_paces_and_what_was_broken_off_stays() {
        let progress = Progress::default();
        let (brisk, slow) = (progress.brisk(), progress.slow());
        let (one, two) = (layer(1000), layer(3000));
        let advance = progress.begin("a:1", &[&one, &two]);
        assert_eq!(of(&slow).map(|pull| (pull.bytes, pull.layers)), Some((4000, 2)));
        advance.here(0, 1000);
        tokio::time::sleep(Duration::from_secs(1)).await;
        advance.came(1, 500, 500);
        let seen = of(&brisk).unwrap();
        assert_eq!((seen.bytes_done, seen.layers_done, seen.bytes_per_second), (1500, 1, 500));
        assert_eq!(of(&slow).unwrap().bytes_done, 0, "too early for a status");
        tokio::time::sleep(SLOW).await;
        advance.came(1, 1500, 1000);
        assert_eq!(of(&slow).unwrap().bytes_done, 2500);
        drop(advance);
        assert_eq!(of(&slow).unwrap().stage, PullStage::Broken);

        let advance = progress.begin("a:1", &[&one, &two]);
        advance.here(0, 1000);
        advance.here(1, 3000);
        advance.unpacking();
        let seen = of(&slow).unwrap();
        assert_eq!(
            (seen.stage, seen.bytes_done, seen.layers_done),
            (PullStage::Unpacking, 4000, 2)
        );
        advance.finish();
        assert_eq!((of(&slow), of(&brisk)), (None, None));
    }
}
