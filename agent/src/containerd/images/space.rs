//! Room for an image: summed up before its first byte is fetched, so that a pull that cannot end does not begin, and
//! fills no disk that others write to.
//!
//! What a layer takes unpacked nobody says. It is guessed from its packed size; where the guess does not fit, the last
//! bytes of each layer are fetched, where gzip has put its true size.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use domain::keep::Disk;
use domain::model::Moment;
use domain::reason::Reason;
use domain::replica::Trouble;
use tracing::debug;

use super::content::Content;
use super::disk::{Roots, measure};
use super::manifest::{Descriptor, Selected, chain_ids};
use super::name::ImageName;
use super::registry::Registry;
use super::{Images, trouble};
use crate::runtime::RuntimeError;

/// Left free for all who write to the same disk: a fiftieth of it, and within these bounds.
const LEAST_RESERVE: u64 = 4 << 20;
const MOST_RESERVE: u64 = 64 << 20;

/// A packed layer unpacks to about this many halves of its size: programs and libraries do.
const UNPACKED_HALVES: u64 = 5;

/// So long a shortage is believed without asking the registry again: the tag may stand for a smaller image by then.
const BELIEVED: Duration = Duration::from_mins(10);

/// Names whose image had no room and that are remembered.
const SHORT_KEPT: usize = 32;

/// What was found of an image that has no room.
#[derive(Debug, Clone)]
struct Shortage {
    need: Need,
    at: Moment,
}

/// Images that have no room, by name.
#[derive(Debug, Default)]
pub(super) struct Shortages(BTreeMap<String, Shortage>);

impl Shortages {
    /// What must be free for the one that asks for most of it.
    pub(super) fn most(&self) -> u64 {
        self.0.values().map(|short| short.need.total()).max().unwrap_or(0)
    }

    /// Forgets those that nobody wants any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| wanted(name));
    }

    fn note(&mut self, name: String, short: Shortage) {
        self.0.insert(name, short);
        if SHORT_KEPT < self.0.len() {
            self.0.pop_first();
        }
    }
}

/// Bytes that are still to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Need {
    fetched: u64,
    unpacked: u64,
    /// Kept free of both.
    reserve: u64,
}

impl Need {
    fn total(self) -> u64 {
        self.fetched.saturating_add(self.unpacked).saturating_add(self.reserve)
    }

    /// None where it fits: one disk for both, or one for each.
    fn lacks(self, content: Disk, snapshots: Option<Disk>) -> Option<Disk> {
        let fits = |bytes: u64, disk: Disk| bytes == 0 || bytes + self.reserve <= disk.free;
        match snapshots {
            None => (!fits(self.fetched + self.unpacked, content)).then_some(content),
            Some(_) if !fits(self.fetched, content) => Some(content),
            Some(snapshots) => (!fits(self.unpacked, snapshots)).then_some(snapshots),
        }
    }

    fn trouble(self, name: &str, disk: Disk) -> RuntimeError {
        let Self { fetched, unpacked, reserve } = self;
        let details = format!(
            "{name} needs {} to be fetched and about {} unpacked, {} are kept free, and of containerd's disk {} are",
            mib(fetched),
            mib(unpacked),
            mib(reserve),
            mib(disk.free)
        );
        trouble(Reason::ImageNoSpace, details)
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn reserve(disk: Disk) -> u64 {
    (disk.total / 50).clamp(LEAST_RESERVE, MOST_RESERVE)
}

/// What a layer takes unpacked, as far as its packed form lets guess.
fn guess(layer: &Descriptor) -> u64 {
    let packed = ["gzip", "zstd"].iter().any(|packing| layer.media_type.contains(packing));
    if packed { layer.size.saturating_mul(UNPACKED_HALVES) / 2 } else { layer.size }
}

impl Images {
    /// Refuses a pull that has no room.
    pub(super) async fn check_room(
        &self,
        name: &ImageName,
        image: &Selected,
        registry: &Registry,
    ) -> Result<(), RuntimeError> {
        let Some(roots) = self.roots().await? else { return Ok(()) };
        let Some((content, snapshots)) = disks(&roots) else { return Ok(()) };
        let (fetched, packed) = self.missing(image).await?;
        let unpacked: u64 = packed.iter().map(|layer| guess(layer)).sum();
        let mut need = Need { fetched, unpacked, reserve: reserve(content) };
        if need.lacks(content, snapshots).is_some() {
            need.unpacked = 0;
            for layer in &packed {
                let size = registry.unpacked_size(layer).await;
                debug!(layer = %layer.digest, packed = layer.size, ?size, "what it takes unpacked");
                need.unpacked += size.unwrap_or_else(|| guess(layer));
            }
        }
        let Some(disk) = need.lacks(content, snapshots) else {
            self.shortages().retain(|known| known != name.to_string());
            return Ok(());
        };
        let short = Shortage { need, at: self.clock.now() };
        self.shortages().note(name.to_string(), short);
        Err(need.trouble(&name.to_string(), disk))
    }

    /// Refuses what had no room a moment ago and has none now: nobody need be asked for that.
    pub(super) fn recall_shortage(&self, name: &ImageName) -> Result<(), RuntimeError> {
        let name = name.to_string();
        let Some(Shortage { need, at }) = self.shortages().0.get(&name).cloned() else {
            return Ok(());
        };
        let disks = self.roots.get().and_then(disks);
        let short = disks.and_then(|(content, snapshots)| need.lacks(content, snapshots));
        match short {
            Some(disk) if self.clock.now().since(at) < BELIEVED => Err(need.trouble(&name, disk)),
            Some(_) | None => Ok(()),
        }
    }

    /// Bytes of layers that are not here, and the layers that are not unpacked.
    async fn missing<'a>(
        &self,
        image: &'a Selected,
    ) -> Result<(u64, Vec<&'a Descriptor>), RuntimeError> {
        let content = Content(self.connection.clone());
        let snapshots = self.snapshots(&self.connection);
        let mut fetched = BTreeMap::new();
        let mut packed = Vec::new();
        let layers = image.manifest.layers.iter().zip(chain_ids(&image.diff_ids));
        for (layer, chain) in layers {
            if let Entry::Vacant(place) = fetched.entry(layer.digest) {
                place.insert(content.lacking(layer).await?);
            }
            if !snapshots.contains(&chain.to_string()).await? {
                packed.push(layer);
            }
        }
        Ok((fetched.into_values().sum(), packed))
    }
}

/// The disk of the blobs, and that of the unpacked layers where it is another one; none where they cannot be asked.
fn disks(roots: &Roots) -> Option<(Disk, Option<Disk>)> {
    let device = |path| std::fs::metadata(path).ok().map(|found| found.dev());
    let content = measure(&roots.content)?;
    let same = device(&roots.content) == device(&roots.snapshots);
    Some((content, if same { None } else { measure(&roots.snapshots) }))
}

/// A disk that ran full below an image: told as such, wherever it was met.
pub(super) fn no_space(error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::Failed(Trouble { reason: Reason::StorageFull, details }) => {
            trouble(Reason::ImageNoSpace, details)
        }
        RuntimeError::Failed(_) | RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_) => {
            error
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::model::Digest;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(free: u64) -> Disk {
        Disk { total: 1000 * MIB, free }
    }

    #[test]
    fn one_disk_takes_both_and_two_take_one_each() {
        let need = Need { fetched: 30 * MIB, unpacked: 70 * MIB, reserve: 20 * MIB };
        let lacks = |content: u64, snapshots: Option<u64>| {
            need.lacks(disk(content * MIB), snapshots.map(|free| disk(free * MIB))).is_some()
        };
        assert!(lacks(119, None) && !lacks(120, None));
        assert!(lacks(49, Some(900)) && lacks(900, Some(89)) && !lacks(50, Some(90)));
        let nothing = Need { reserve: 20 * MIB, ..Need::default() };
        assert_eq!(nothing.lacks(disk(0), None), None, "what needs nothing fits a full disk");
    }

    #[test]
    fn a_packed_layer_grows_and_a_plain_one_does_not() {
        let layer = |kind: &str| {
            Descriptor::plain(
                &format!("application/vnd.oci.image.layer.v1.{kind}"),
                Digest::of(b""),
                100,
            )
        };
        let guesses = ["tar", "tar+gzip", "tar+zstd"].map(|kind| guess(&layer(kind)));
        assert_eq!(guesses, [100, 250, 250]);
    }

    #[test]
    fn a_full_disk_is_told_as_no_room_for_the_image_and_all_else_as_it_is() {
        let told = |reason| no_space(trouble(reason, String::new())).trouble().reason;
        assert_eq!(told(Reason::StorageFull), Reason::ImageNoSpace);
        assert_eq!(told(Reason::ImageCorrupt), Reason::ImageCorrupt);
    }
}
