//! The statuses of environments.

use std::collections::BTreeMap;

use crate::allowances::Allowances;
use crate::document::{Finding, Storage};
use crate::model::{EnvironmentName, WallTime};
use crate::state::{AppRecord, EnvironmentRecord, State};
use crate::status::{EnvironmentStatus, Source, StorageStatus};
use crate::storage::StorageSource;

/// Every environment that has a document or an app.
pub fn environments(state: &State, allowances: &Allowances) -> BTreeMap<String, EnvironmentStatus> {
    let mut statuses = BTreeMap::new();
    for record in state.environments.values() {
        if let Some(status) = documented(record, allowances) {
            statuses.insert(record.name.to_string(), status);
        }
    }
    for document in state.apps.values().filter_map(AppRecord::document) {
        let name = document.environment.to_string();
        let status = statuses.entry(name).or_insert_with_key(|name| empty(name, None));
        status.apps += 1;
    }
    statuses
}

/// Environments whose document was taken back.
pub fn removed_environments(state: &State) -> impl Iterator<Item = &EnvironmentName> {
    state.environments.values().filter(|record| record.removed).map(|record| &record.name)
}

/// The status of a name whose first document was refused.
pub fn refused_environment(name: &str, source: Source, finding: Finding) -> EnvironmentStatus {
    EnvironmentStatus { error: Some(finding), ..empty(name, Some(source)) }
}

fn documented(record: &EnvironmentRecord, allowances: &Allowances) -> Option<EnvironmentStatus> {
    let accepted = record.accepted.as_ref()?;
    let storages = accepted.document.storages.iter();
    Some(EnvironmentStatus {
        generation: record.generation,
        digest: Some(accepted.digest),
        storages: storages.map(|storage| storage_status(storage, allowances)).collect(),
        warnings: accepted.warnings.clone(),
        ..empty(record.name.as_str(), Some(record.source))
    })
}

/// A document is refused for what is not allowed; the owner may have changed that since.
fn storage_status(storage: &Storage, allowances: &Allowances) -> StorageStatus {
    let name = storage.name.clone();
    if !allowances.permits_storage(&storage.source) {
        let trouble = storage.forbidden();
        return StorageStatus { name, reason: Some(trouble.reason), details: trouble.details };
    }
    let access = if storage.options.read_only { ", read only" } else { "" };
    let details = match &storage.source {
        StorageSource::Path(path) => format!("{path}{access}"),
        StorageSource::Device(device) => format!("device {device}{access}"),
    };
    StorageStatus { name, reason: None, details }
}

fn empty(name: &str, source: Option<Source>) -> EnvironmentStatus {
    EnvironmentStatus {
        environment: name.to_owned(),
        generation: 0,
        digest: None,
        source,
        storages: Vec::new(),
        apps: 0,
        warnings: Vec::new(),
        error: None,
        updated: WallTime::default(),
    }
}
