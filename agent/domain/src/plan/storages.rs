//! Storages of a replica: what its volumes show of its environment.

use std::collections::BTreeMap;

use super::{World, trouble};
use crate::document::{Storage, Template, Volume, VolumeSource};
use crate::model::EnvironmentName;
use crate::reason::Reason;
use crate::replica::{StoragePlace, Trouble};
use crate::storage::MountOptions;

/// Every storage that a template names must be there, and the board's owner must still allow it. What comes later
/// heals this by itself.
pub(super) fn check(
    environment: &EnvironmentName,
    template: &Template,
    world: World<'_>,
) -> Result<(), Trouble> {
    for (volume, name) in named(template) {
        let Some(storage) = find(environment, name, world) else {
            let details = format!(
                "volume {} needs the storage {name:?}, which the environment {environment} does not have",
                volume.name
            );
            return Err(trouble(Reason::StorageMissing, details));
        };
        if !world.settings.allowances.permits_storage(&storage.source) {
            return Err(storage.forbidden());
        }
    }
    Ok(())
}

/// Where those storages are that are there, by name.
pub(super) fn places(
    environment: &EnvironmentName,
    template: &Template,
    world: World<'_>,
) -> BTreeMap<String, StoragePlace> {
    let mut places = BTreeMap::new();
    for (volume, name) in named(template) {
        let Some(storage) = find(environment, name, world) else { continue };
        // Each volume that reads only sees to it itself: another one of the same storage may write.
        let asked = MountOptions { read_only: false, ..volume.options() };
        let MountOptions { read_only, options } = storage.options.under(&asked);
        let source = storage.source.clone();
        places.insert(name.to_owned(), StoragePlace { source, read_only, options });
    }
    places
}

fn named(template: &Template) -> impl Iterator<Item = (&Volume, &str)> {
    template.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Storage { storage_name } => Some((volume, storage_name.as_str())),
        VolumeSource::EmptyDir | VolumeSource::Secret { .. } => None,
    })
}

fn find<'a>(environment: &EnvironmentName, name: &str, world: World<'a>) -> Option<&'a Storage> {
    world.environments.get(environment)?.storage(name)
}
