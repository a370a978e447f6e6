//! The room that a replica has for files that go when it goes: ACA's table, and how large an `EmptyDir` is on a board.

use super::app::{Template, Volume, VolumeSource};
use super::quantity;

const GIB: u64 = 1 << 30;

/// Below this no file system is worth its name.
const MIN_VOLUME: u64 = 1 << 20;

/// ACA's table: what a replica of so many thousandths of a core may write, all its containers together.
pub fn ephemeral_bytes(cpu_millis: u64) -> u64 {
    match cpu_millis {
        0..=250 => GIB,
        251..=500 => 2 * GIB,
        501..=1000 => 4 * GIB,
        1001.. => 8 * GIB,
    }
}

impl Template {
    /// Thousandths of a core of all containers that run together.
    pub fn cpu_millis(&self) -> u64 {
        self.containers.iter().map(|container| u64::from(container.resources.cpu_millis)).sum()
    }

    /// Bytes of an `EmptyDir` of this template: what it asks for, else half of the replica's memory, and never more
    /// than ACA's table gives.
    ///
    /// It lies in memory, and what is in it counts as the memory of the container that wrote it: with half of that a
    /// full volume is an error that a program can handle, before it is the end of the program. All of a replica's
    /// together have half of the memory of the `board` (0: unknown), each its share.
    pub fn empty_dir_bytes(&self, volume: &Volume, board: u64) -> u64 {
        let own = self.asked_bytes(volume);
        let all = self.volumes.iter().filter(|volume| volume.source == VolumeSource::EmptyDir);
        let sum = all.map(|volume| self.asked_bytes(volume)).fold(0, u64::saturating_add);
        let most = board / 2;
        if board == 0 || sum <= most {
            return own;
        }
        let share = u128::from(own) * u128::from(most) / u128::from(sum);
        u64::try_from(share).unwrap_or(own).max(MIN_VOLUME)
    }

    fn asked_bytes(&self, volume: &Volume) -> u64 {
        let most = ephemeral_bytes(self.cpu_millis());
        let asked = volume.mount_options.as_deref().and_then(asked_size).and_then(Result::ok);
        let memory = |sum: u64, bytes| sum.saturating_add(bytes);
        let memory = self.containers.iter().map(|one| one.resources.memory_bytes).fold(0, memory);
        asked.unwrap_or(memory / 2).clamp(MIN_VOLUME, most)
    }
}

/// The `size=` among mount options, if there is one.
pub(super) fn asked_size(options: &str) -> Option<Result<u64, &'static str>> {
    let size = options.split(',').find_map(|option| option.trim().strip_prefix("size="))?;
    Some(quantity::memory_bytes(size))
}

/// The first of the mount options that means nothing to an `EmptyDir`.
pub(super) fn strange_option(options: &str) -> Option<&str> {
    let known = |option: &&str| {
        option.is_empty() || option.eq_ignore_ascii_case("ro") || option.starts_with("size=")
    };
    options.split(',').map(str::trim).find(|option| !known(option))
}

/// `2Gi`, for messages about the table.
pub(super) fn gibibytes(bytes: u64) -> String {
    format!("{}Gi", bytes / GIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Container, Resources, VolumeSource};

    #[test]
    fn the_table_is_that_of_aca() {
        let of = |millis| gibibytes(ephemeral_bytes(millis));
        let table = [(250, "1Gi"), (260, "2Gi"), (500, "2Gi"), (750, "4Gi"), (1000, "4Gi")];
        for (millis, size) in table.into_iter().chain([(1250, "8Gi"), (4000, "8Gi")]) {
            assert_eq!(of(millis), size, "{millis}");
        }
    }

    #[track_caller]
    fn check(cpu_millis: u32, memory_mib: u64, options: Option<&str>, expected_mib: u64) {
        let resources = Resources { cpu_millis, memory_bytes: memory_mib << 20 };
        let container = Container { resources, ..Container::default() };
        let template = Template { containers: vec![container], ..Template::default() };
        let volume = Volume {
            name: "v".to_owned(),
            source: VolumeSource::EmptyDir,
            mount_options: options.map(str::to_owned),
        };
        assert_eq!(template.empty_dir_bytes(&volume, 0) >> 20, expected_mib, "{options:?}");
    }

    #[test]
    fn an_empty_dir_has_half_of_the_memory_or_what_it_asks_for_within_the_table() {
        check(250, 512, None, 256);
        check(250, 512, Some("ro"), 256);
        check(250, 512, Some("ro, size=64Mi"), 64);
        check(250, 512, Some("size=800Mi"), 800);
        check(250, 512, Some("size=3Gi"), 1024);
        check(500, 512, Some("size=3Gi"), 2048);
        check(250, 8192, None, 1024);
        check(250, 512, Some("size=nonsense"), 256);
    }

    #[test]
    fn all_of_a_replica_share_half_of_the_boards_memory() {
        let volume = |name: &str, size: &str| Volume {
            name: name.to_owned(),
            source: VolumeSource::EmptyDir,
            mount_options: Some(format!("size={size}")),
        };
        let volumes = vec![volume("a", "100Mi"), volume("b", "300Mi"), volume("c", "1Mi")];
        let template = Template { volumes, ..Template::default() };
        let mebibytes = |board: u64| {
            let of = |volume| template.empty_dir_bytes(volume, board << 20) >> 20;
            template.volumes.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(mebibytes(802), [100, 300, 1]);
        assert_eq!(mebibytes(401), [50, 150, 1]);
        assert_eq!(mebibytes(0), [100, 300, 1]);
    }
}
