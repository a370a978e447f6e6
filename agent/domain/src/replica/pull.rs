//! How far a pull has come, and the words for it.

use std::collections::BTreeMap;
use std::fmt;

/// Pulls that are under way or were broken off, by the reference that the template gives.
pub type Pulls = BTreeMap<String, PullProgress>;

/// What a pull is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullStage {
    /// Layers are on their way.
    #[default]
    Fetching,
    /// They are all here, and become a file system.
    Unpacking,
    /// It failed, and goes on later from where it stopped.
    Broken,
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// What it is at.
    pub stage: PullStage,
    /// Layers of the image.
    pub layers: u32,
    /// Those that are here whole.
    pub layers_done: u32,
    /// Bytes of all layers as they are sent.
    pub bytes: u64,
    /// Those that are here, of earlier tries too.
    pub bytes_done: u64,
    /// Lately.
    pub bytes_per_second: u64,
}

impl PullProgress {
    /// Whether something is being done, rather than waited for.
    pub fn is_active(&self) -> bool {
        self.stage != PullStage::Broken
    }

    /// Whole quarters of the bytes that are here, 0 to 4.
    pub fn quarters(&self) -> u8 {
        let quarters = self.bytes_done.saturating_mul(4).checked_div(self.bytes).unwrap_or(4);
        u8::try_from(quarters.min(4)).unwrap_or(4)
    }
}

/// `12.0 of 40.1 MiB, 1 of 3 layers, 1.2 MiB/s`
impl fmt::Display for PullProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, layers, layers_done, bytes, bytes_done, bytes_per_second } = *self;
        let (done, all, per_second) = (mib(bytes_done), mib(bytes), mib(bytes_per_second));
        write!(f, "{done} of {all} MiB, {layers_done} of {layers} layers")?;
        match stage {
            PullStage::Fetching if bytes_per_second == 0 => Ok(()),
            PullStage::Fetching => write!(f, ", {per_second} MiB/s"),
            PullStage::Unpacking => f.write_str(", unpacking"),
            PullStage::Broken => f.write_str(", broken off"),
        }
    }
}

/// With one digit after the point, or two where there would be none to see.
fn mib(bytes: u64) -> String {
    let hundredths = bytes.saturating_mul(100) >> 20;
    if hundredths < 10 {
        return format!("{}.{:02}", hundredths / 100, hundredths % 100);
    }
    format!("{}.{}", hundredths / 100, hundredths % 100 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_people_count() {
        let mut pull = PullProgress {
            stage: PullStage::Fetching,
            layers: 3,
            layers_done: 1,
            bytes: 42 << 20,
            bytes_done: 12 << 20,
            bytes_per_second: 50 << 10,
        };
        assert_eq!(pull.to_string(), "12.0 of 42.0 MiB, 1 of 3 layers, 0.04 MiB/s");
        assert_eq!((pull.quarters(), pull.is_active()), (1, true));
        pull = PullProgress { bytes_done: 42 << 20, layers_done: 3, bytes_per_second: 0, ..pull };
        assert_eq!(pull.to_string(), "42.0 of 42.0 MiB, 3 of 3 layers");
        pull.stage = PullStage::Unpacking;
        assert_eq!(pull.to_string(), "42.0 of 42.0 MiB, 3 of 3 layers, unpacking");
        assert_eq!(pull.quarters(), 4);
        pull.stage = PullStage::Broken;
        assert!(!pull.is_active());
        assert_eq!(PullProgress::default().quarters(), 4, "nothing to fetch is all of it");
    }
}
