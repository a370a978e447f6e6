//! The environment document: the storages that the apps of an environment may show as volumes.
//!
//! It has the shape of `Microsoft.App/managedEnvironments`, so that `skerry`, `tags` and the rest stand where a person
//! expects them. Whether the board's owner allows what it names is not said here: that is beyond the document.

use std::collections::BTreeMap;

use super::app_reader::Parts;
use super::fields::Fields;
use super::rules;
use super::support::Place;
use super::template::{check_unique, warn_of_options};
use crate::model::EnvironmentName;
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::storage::{MountOptions, OptionRemark, StorageSource};

pub(super) const ENVIRONMENT: &str = "Microsoft.App/managedEnvironments";
/// Storages of one environment. Azure's quota does not apply; this catches slips of the pen.
const MAX_STORAGES: usize = 64;

/// `Microsoft.App/managedEnvironments`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentDocument {
    /// Its name, where it gives one.
    pub name: Option<EnvironmentName>,
    /// Resource tags.
    pub tags: BTreeMap<String, String>,
    /// Folders and devices, each with a name of its own.
    pub storages: Vec<Storage>,
    /// Must rise, if given.
    pub generation: Option<u64>,
    /// Forget what was said of the environment.
    pub absent: bool,
}

/// A storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// What volumes name it by.
    pub name: String,
    /// The folder or device.
    pub source: StorageSource,
    /// `mountOptions`, and `readOnly`.
    pub options: MountOptions,
    /// Where in the document the folder or device is named.
    pub found_at: String,
}

/// Reads an environment. Whether it is refused is for the findings to say.
pub(super) fn read(mut top: Fields<'_>) -> EnvironmentDocument {
    let properties = top.inner("properties", Place::EnvironmentProperties);
    let name = top.parsed::<EnvironmentName>("name");
    top.asked("type");
    let tags = top.pairs("tags");
    let (generation, absent) =
        top.inner("skerry", Place::EnvironmentSkerry).map_or((None, false), |mut skerry| {
            let generation = skerry.whole("generation", 0..=u64::MAX);
            let absent = skerry.flag("absent").unwrap_or(false);
            skerry.close();
            (generation, absent)
        });
    let mut parts = Parts { top, properties };
    // Known and kept with the document's bytes; nobody reads what they say yet.
    let holder = parts.holder("certificates");
    if !holder.list("certificates").is_empty() {
        holder.later("certificates", "certificates");
    }
    let holder = parts.holder("daprComponents");
    if !holder.list("daprComponents").is_empty() {
        holder.later("daprComponents", "daprComponents");
    }
    let holder = parts.holder("httpRouteConfigs");
    if !holder.list("httpRouteConfigs").is_empty() {
        holder.later("httpRouteConfigs", "httpRouteConfigs");
    }
    let storages = storages(parts.holder("storages"));
    parts.close();
    EnvironmentDocument { name, tags, storages, generation, absent }
}

fn storages(fields: &mut Fields<'_>) -> Vec<Storage> {
    let all = fields.each("storages", Place::Storage);
    if MAX_STORAGES < all.len() {
        fields.error("storages", Reason::InvalidValue, format!("at most {MAX_STORAGES} storages"));
    }
    let storages: Vec<Storage> = all.into_iter().take(MAX_STORAGES).filter_map(storage).collect();
    check_unique(fields, "storages", storages.iter().map(|storage| storage.name.as_str()));
    storages
}

fn storage(mut fields: Fields<'_>) -> Option<Storage> {
    if !fields.has("name") {
        fields.missing("name", "volumes name a storage by it");
    }
    let name = fields.ruled("name", rules::storage_name).unwrap_or_default();
    let path = fields.ruled("path", rules::storage_path);
    let device = fields.ruled("device", rules::storage_device);
    let (key, source) = match (path, device) {
        (Some(path), None) => ("path", Some(StorageSource::Path(plain(&path)))),
        (None, Some(device)) => ("device", Some(StorageSource::Device(plain(&device)))),
        (Some(_), Some(_)) => {
            let message = "a storage is a path or a device, and this one is both";
            fields.error("device", Reason::InvalidValue, message);
            ("device", None)
        }
        (None, None) => {
            if !fields.has("path") && !fields.has("device") {
                fields.missing("path", "a storage is a folder of the board, or else a device");
            }
            ("path", None)
        }
    };
    let read_only = fields.flag("readOnly").unwrap_or(false);
    let mut options = mount_options(&mut fields);
    options.read_only |= read_only;
    let found_at = fields.at(key);
    fields.close();
    Some(Storage { name, source: source?, options, found_at })
}

fn mount_options(fields: &mut Fields<'_>) -> MountOptions {
    let Some(text) = fields.name("mountOptions") else { return MountOptions::default() };
    let (options, remarks) = MountOptions::read(&text);
    let (broken, idle): (Vec<_>, Vec<_>) =
        remarks.into_iter().partition(|remark| remark.reason == Reason::InvalidValue);
    for OptionRemark { reason, message } in broken {
        fields.error("mountOptions", reason, message);
    }
    warn_of_options(fields, idle);
    options
}

/// The same place, written in the one way that texts can be compared by.
fn plain(place: &str) -> String {
    if !place.starts_with('/') {
        return place.to_owned();
    }
    let parts = place.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.fold(String::new(), |path, part| path + "/" + part)
}

impl Storage {
    /// What is to be said where the board's owner does not allow it.
    pub fn forbidden(&self) -> Trouble {
        let details =
            format!("{:?} is not allowed by [storage] allow in agent.toml", self.source.text());
        Trouble { reason: Reason::StorageNotAllowed, details }
    }
}

impl EnvironmentDocument {
    /// The storage of this name.
    pub fn storage(&self, name: &str) -> Option<&Storage> {
        self.storages.iter().find(|storage| storage.name == name)
    }
}

/// Whether it is an environment; `usual` counts where it does not say so itself.
pub(super) fn is_environment(top: &Fields<'_>, usual: bool) -> bool {
    top.peek("type").map_or(usual, |kind| kind.eq_ignore_ascii_case(ENVIRONMENT))
}
