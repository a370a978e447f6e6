//! Reads `properties.template`.

use std::collections::{BTreeMap, BTreeSet};

use super::app::{Extras, SecretItem, ServiceBind, Template, Volume, VolumeSource};
use super::container::{self, Spot, Stage};
use super::ephemeral::{self, ephemeral_bytes};
use super::fields::{Fields, scalar};
use super::findings::{Findings, quoted};
use super::quantity::cpu_text;
use super::rules;
use super::scale;
use super::support::Place;
use crate::reason::Reason;
use crate::storage::{MountOptions, OptionRemark, StorageOptions};

/// Seconds; an hour, as for probes.
pub(super) const MAX_GRACE_SECS: u32 = 3600;
/// Containers of each kind. Azure has no number; a board has one.
const MAX_CONTAINERS: usize = 64;
/// Volumes of a template: each is a mount of the board.
const MAX_VOLUMES: usize = 64;

/// Reads a template and closes it.
pub(super) fn read(mut fields: Fields<'_>) -> Template {
    let revision_suffix = fields.parsed("revisionSuffix");
    let termination_grace_period_secs =
        fields.count("terminationGracePeriodSeconds", 0..=MAX_GRACE_SECS);
    let (volumes, spots): (Vec<Volume>, Vec<Spot>) =
        at_most(&mut fields, "volumes", Place::Volume, MAX_VOLUMES).map(volume).unzip();
    check_unique(&fields, "volumes", volumes.iter().map(|volume| volume.name.as_str()));
    warn_of_other_options(&fields, &volumes);
    let known: BTreeSet<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    let mut sizes = Vec::new();
    let mut containers = |key, stage| {
        let all = at_most(&mut fields, key, Place::Container, MAX_CONTAINERS);
        all.map(|inner| container::read(inner, stage, &known, &mut sizes)).collect::<Vec<_>>()
    };
    let init_containers = containers("initContainers", Stage::Init);
    let main_containers = containers("containers", Stage::Main);
    if main_containers.is_empty() {
        fields.missing("containers", "a template has at least one container");
    }
    let names = main_containers.iter().chain(&init_containers).map(|c| c.name.as_str());
    check_unique(&fields, "containers", names);
    let scale = scale::read(&mut fields);
    let service_binds: Vec<ServiceBind> =
        fields.each("serviceBinds", Place::ServiceBind).into_iter().map(service_bind).collect();
    if !service_binds.is_empty() {
        fields.warning(
            "serviceBinds",
            Reason::Unsupported,
            "development services are Azure's; run them as apps",
        );
    }
    let found = fields.found;
    fields.close();
    let template = Template {
        revision_suffix,
        termination_grace_period_secs,
        init_containers,
        containers: main_containers,
        scale,
        volumes,
        service_binds,
        extras: Extras::default(),
    };
    warn_of_sizes(&template, found, sizes, &spots);
    template
}

/// The mappings of a list. One that is too long is an error, and its rest is not read.
pub(super) fn at_most<'f>(
    fields: &mut Fields<'f>,
    key: &'static str,
    place: Place,
    most: usize,
) -> impl Iterator<Item = Fields<'f>> + use<'f> {
    let all = fields.each(key, place);
    if most < all.len() {
        fields.error(key, Reason::InvalidValue, format!("at most {most} {key}"));
    }
    all.into_iter().take(most)
}

/// How much may be written follows from the cores, so what is said of it is told what it comes to.
fn warn_of_sizes(template: &Template, found: &Findings, given: Vec<Spot>, volumes: &[Spot]) {
    let cores = cpu_text(u32::try_from(template.cpu_millis()).unwrap_or(u32::MAX));
    let most = ephemeral_bytes(template.cpu_millis());
    let size = ephemeral::gibibytes(most);
    for (path, at) in given {
        let message = format!("ignored: it follows from the cores, {size} for {cores} of them");
        found.warning(path, at, Reason::ReadOnly, message);
    }
    for (volume, (path, at)) in template.volumes.iter().zip(volumes) {
        let asked = volume.mount_options.as_deref().and_then(ephemeral::asked_size);
        if asked.and_then(Result::ok).is_some_and(|asked| most < asked) {
            let message = format!("taken as {size}, the most for {cores} cores");
            found.warning(path, *at, Reason::InvalidValue, message);
        }
    }
}

/// Refuses a name that is used twice. Names that were refused already are empty here.
pub(super) fn check_unique<'n>(
    fields: &Fields<'_>,
    key: &str,
    names: impl Iterator<Item = &'n str>,
) {
    let mut seen = BTreeSet::new();
    for name in names.filter(|name| !name.is_empty()) {
        if !seen.insert(name) {
            fields.error(
                key,
                Reason::InvalidValue,
                format!("the name {} is used twice", quoted(name)),
            );
        }
    }
}

fn service_bind(mut fields: Fields<'_>) -> ServiceBind {
    let service_id = fields.name("serviceId").unwrap_or_default();
    let name = fields.name("name").unwrap_or_default();
    for key in ["clientType", "customizedKeys"] {
        fields.asked(key);
    }
    fields.close();
    ServiceBind { service_id, name }
}

#[derive(Clone, Copy)]
enum StorageType {
    EmptyDir,
    Secret,
    Shared,
}

/// A volume, and where its options stand.
fn volume(mut fields: Fields<'_>) -> (Volume, Spot) {
    const TYPES: &[(&str, StorageType)] = &[
        ("EmptyDir", StorageType::EmptyDir),
        ("Secret", StorageType::Secret),
        ("AzureFile", StorageType::Shared),
        ("NfsAzureFile", StorageType::Shared),
        ("Smb", StorageType::Shared),
    ];
    if !fields.has("name") {
        fields.missing("name", "containers mount a volume by its name");
    }
    let name = fields.ruled("name", rules::label).unwrap_or_default();
    let storage_type = fields.choice("storageType", TYPES).unwrap_or(StorageType::EmptyDir);
    let storage_name = fields.name("storageName");
    let mount_options = fields.name("mountOptions");
    if let Some(options) = &mount_options {
        warn_of_options(&fields, MountOptions::read(options).1);
    }
    let items =
        fields.each("secrets", Place::SecretItem).into_iter().filter_map(secret_item).collect();
    let source = match storage_type {
        StorageType::EmptyDir => {
            check_empty_dir(&fields, mount_options.as_deref().unwrap_or_default());
            VolumeSource::EmptyDir
        }
        StorageType::Secret => VolumeSource::Secret { items },
        StorageType::Shared => {
            if storage_name.is_none() {
                fields.missing("storageName", "the name of a storage of the environment");
            }
            VolumeSource::Storage { storage_name: storage_name.unwrap_or_default() }
        }
    };
    let spot = (fields.at("mountOptions"), fields.position("mountOptions"));
    fields.close();
    (Volume { name, source, mount_options }, spot)
}

fn check_empty_dir(fields: &Fields<'_>, options: &str) {
    if let Some(Err(broken)) = ephemeral::asked_size(options) {
        let message = format!("{} is not valid here: size= takes {broken}", quoted(options));
        fields.error("mountOptions", Reason::InvalidValue, message);
    }
    if let Some(strange) = ephemeral::strange_option(options) {
        let message = format!("{} means nothing to an EmptyDir; ro and size= do", quoted(strange));
        fields.warning("mountOptions", Reason::Unsupported, message);
    }
}

/// Warns of options of a mount that have no effect, once for each kind.
pub(super) fn warn_of_options(fields: &Fields<'_>, remarks: Vec<OptionRemark>) {
    let mut messages: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for remark in remarks {
        messages.entry(remark.reason).or_default().push(remark.message);
    }
    for (reason, messages) in messages {
        fields.warning("mountOptions", reason, messages.join("; "));
    }
}

/// A storage is mounted once for a replica, so that its volumes share the options.
fn warn_of_other_options(fields: &Fields<'_>, volumes: &[Volume]) {
    let mut known: BTreeMap<&str, StorageOptions> = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let VolumeSource::Storage { storage_name } = &volume.source else { continue };
        let options = volume.options().options;
        if known.get(storage_name.as_str()).is_some_and(|known| *known != options) {
            let message = format!(
                "another volume mounts {} with other options; those of the last one count",
                quoted(storage_name)
            );
            fields.warning(
                &format!("volumes[{index}].mountOptions"),
                Reason::InvalidValue,
                message,
            );
        }
        known.insert(storage_name, options);
    }
}

fn secret_item(mut fields: Fields<'_>) -> Option<SecretItem> {
    let secret_ref = secret_ref(&mut fields);
    if secret_ref.is_none() && !fields.has("secretRef") {
        fields.missing("secretRef", "the name of a secret");
    }
    let path = fields.ruled("path", rules::relative_path);
    fields.close();
    let secret_ref = secret_ref?;
    Some(SecretItem { path: path.unwrap_or_else(|| secret_ref.clone()), secret_ref })
}

/// A `secretRef`, which must name a secret of the document.
pub(super) fn secret_ref(fields: &mut Fields<'_>) -> Option<String> {
    let node = fields.take("secretRef")?;
    let path = fields.at("secretRef");
    let name =
        scalar(fields.found, path.clone(), node, "a text").filter(|name| !name.is_empty())?;
    fields.found.check_secret(&path, node.at, &name);
    Some(name)
}
