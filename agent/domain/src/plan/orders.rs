//! Orders: all that an adapter needs to know to do one thing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Memory, ReplicaView, World, fleet, storages, trouble};
use crate::document::AppDocument;
use crate::ipam;
use crate::model::ReplicaName;
use crate::reason::Reason;
use crate::replica::{FetchOrder, Place, RegistryLogin, ReplicaOrder, Trouble};
use crate::secrets;
use crate::state::{AppRecord, RevisionRecord};

/// The images of a revision.
pub(super) fn fetch(record: &AppRecord, revision: &RevisionRecord) -> FetchOrder {
    let template = &revision.template;
    let images: BTreeSet<String> = template.images().map(str::to_owned).collect();
    let document = record.document_of(revision);
    let logins = document.map(|document| logins(record, document)).unwrap_or_default();
    FetchOrder { revision: revision.name.clone(), images: images.into_iter().collect(), logins }
}

fn logins(record: &AppRecord, document: &AppDocument) -> Vec<RegistryLogin> {
    let secrets = secrets::known(record, document);
    let login = |registry: &crate::document::Registry| {
        Some(RegistryLogin {
            server: registry.server.clone(),
            username: registry.username.clone()?,
            password: secrets.get(registry.password_secret_ref.as_ref()?)?.clone(),
        })
    };
    document.configuration.registries.iter().filter_map(login).collect()
}

/// What a replica needs that lies elsewhere and may come later: secrets, storages, what the board's owner allows.
pub(crate) fn check(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
) -> Result<(), Trouble> {
    let Some(document) = record.document_of(revision) else { return Ok(()) };
    check_secrets(record, document, revision)?;
    world.settings.allowances.still_permit(&revision.template.extras)?;
    storages::check(&document.environment, &revision.template, world)
}

/// A new replica with a place of its own; none while its environment has no network.
pub(super) fn fresh(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
    memory: &mut Memory,
) -> Result<Option<ReplicaOrder>, Trouble> {
    let Some(document) = record.document_of(revision) else { return Ok(None) };
    let Some(subnet) = world.subnets.get(&document.environment) else {
        return world.network.map_or(Ok(None), |trouble| Err(trouble.clone()));
    };
    check(record, revision, world)?;
    let mut taken = fleet::addresses(world);
    taken.extend(memory.last_address(&document.environment));
    let last = memory.last_address(&document.environment);
    let address = ipam::allocate(*subnet, &taken, last).ok_or_else(|| {
        trouble(Reason::AddressPoolExhausted, format!("every address of {subnet} is taken"))
    })?;
    let name = ReplicaName::new(&revision.name, memory.ticket());
    memory.give(&document.environment, &name, address);
    Ok(order(record, revision, name, address, world))
}

/// The order that a running replica was made by, to start one of its containers afresh. That container is as new as one
/// of a new replica: it gets nothing that the owner has taken back, and is not ended where it could not start again.
pub(super) fn existing(
    record: &AppRecord,
    revision: &RevisionRecord,
    replica: &ReplicaView<'_>,
    world: World<'_>,
) -> Result<Option<ReplicaOrder>, Trouble> {
    check(record, revision, world)?;
    Ok(as_made(record, revision, replica, world))
}

/// The same, whatever has been taken back since: nothing is to be started.
pub(super) fn as_made(
    record: &AppRecord,
    revision: &RevisionRecord,
    replica: &ReplicaView<'_>,
    world: World<'_>,
) -> Option<ReplicaOrder> {
    let mark = replica.observed.map_or(revision.mark(), |observed| observed.template_digest);
    let order = order(record, revision, replica.name.clone(), replica.address, world);
    // A container that is started afresh stays one of its replica, be that from before a restart.
    order.map(|order| ReplicaOrder { template_digest: mark, ..order })
}

fn order(
    record: &AppRecord,
    revision: &RevisionRecord,
    replica: ReplicaName,
    address: std::net::Ipv4Addr,
    world: World<'_>,
) -> Option<ReplicaOrder> {
    let document = record.document_of(revision)?;
    let environment = &document.environment;
    let subnet = *world.subnets.get(environment)?;
    let suffix = world.settings.suffix(environment);
    Some(ReplicaOrder {
        revision: revision.name.clone(),
        app: record.name.clone(),
        environment: environment.clone(),
        template: Arc::clone(&revision.template),
        template_digest: revision.mark(),
        images: revision.images.clone(),
        variables: variables(document, revision, &record.name, &replica, &suffix),
        secrets: secrets::known(record, document),
        storages: storages::places(environment, &revision.template, world),
        place: Place {
            bridge: environment.bridge(),
            subnet,
            gateway: ipam::gateway(subnet),
            address,
            netns: world.settings.netns_dir.join(replica.as_str()),
        },
        dns_search: suffix,
        boot: world.settings.boot.clone(),
        replica,
    })
}

/// ACA's built-in variables of apps.
fn variables(
    document: &AppDocument,
    revision: &RevisionRecord,
    app: &crate::model::AppName,
    replica: &ReplicaName,
    suffix: &str,
) -> Vec<(String, String)> {
    let mut variables = vec![
        ("CONTAINER_APP_NAME", app.to_string()),
        ("CONTAINER_APP_REVISION", revision.name.to_string()),
        ("CONTAINER_APP_REPLICA_NAME", replica.to_string()),
        ("CONTAINER_APP_ENV_DNS_SUFFIX", suffix.to_owned()),
    ];
    if let Some(ingress) = &document.configuration.ingress {
        variables.push(("CONTAINER_APP_HOSTNAME", format!("{}.{suffix}", revision.name)));
        variables.push(("CONTAINER_APP_PORT", ingress.target_port.to_string()));
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Secrets that a container needs must have values; one that comes later heals this by itself.
fn check_secrets(
    record: &AppRecord,
    document: &AppDocument,
    revision: &RevisionRecord,
) -> Result<(), Trouble> {
    let missing: Vec<String> = secrets::missing(record, document, &revision.template)
        .into_iter()
        .map(|need| format!("{} needs the secret {:?}", need.what, need.secret))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(trouble(Reason::SecretValueMissing, missing.join("; ")))
}
