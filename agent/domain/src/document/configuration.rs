//! Reads `properties.configuration` of an app, and what it has in common with that of a job.

use std::collections::BTreeSet;

use super::app::{
    Configuration, Dapr, DaprAppHealth, DaprProtocol, IdentitySetting, Registry, RevisionsMode,
    SecretEntry,
};
use super::fields::Fields;
use super::findings::quoted;
use super::ingress;
use super::rules;
use super::scale::identity;
use super::support::Place;
use super::template::check_unique;
use crate::reason::Reason;
use crate::replica::Secret;

/// Reads the configuration of an app and closes it.
pub(super) fn read(mut fields: Fields<'_>) -> Configuration {
    const MODES: &[(&str, RevisionsMode)] = &[
        ("Single", RevisionsMode::Single),
        ("Multiple", RevisionsMode::Multiple),
        ("Labels", RevisionsMode::Labels),
    ];
    let secrets = secrets(&mut fields);
    let active_revisions_mode = fields.choice("activeRevisionsMode", MODES).unwrap_or_default();
    let ingress = ingress::read(&mut fields, active_revisions_mode);
    let registries = registries(&mut fields);
    let dapr = fields.inner("dapr", Place::Dapr).map(dapr);
    let java_metrics = java_metrics(&mut fields);
    let max_inactive_revisions = fields.count("maxInactiveRevisions", 0..=10_000);
    let service = service(&mut fields);
    let identity_settings = identity_settings(&mut fields);
    let target_label = fields.ruled("targetLabel", rules::traffic_label);
    fields.close();
    Configuration {
        secrets,
        active_revisions_mode,
        ingress,
        registries,
        dapr,
        java_metrics,
        max_inactive_revisions,
        service,
        identity_settings,
        target_label,
    }
}

/// Reads `secrets` and remembers their names, so that references can be checked from here on.
pub(super) fn secrets(fields: &mut Fields<'_>) -> Vec<SecretEntry> {
    let read = |mut inner: Fields<'_>| {
        if !inner.has("name") {
            inner.missing("name", "every secret has a name");
        }
        let name = inner.ruled("name", rules::secret_name);
        let value = inner.secret("value").map(Secret);
        let key_vault_url = inner.name("keyVaultUrl");
        if key_vault_url.is_some() {
            let message = "Azure Key Vault is not asked; set the value with `skerry secret set`";
            inner.warning("keyVaultUrl", Reason::Unsupported, message);
        }
        let identity = inner.name("identity");
        inner.close();
        Some(SecretEntry { name: name?, value, key_vault_url, identity })
    };
    let secrets: Vec<SecretEntry> =
        fields.each("secrets", Place::Secret).into_iter().filter_map(read).collect();
    check_unique(fields, "secrets", secrets.iter().map(|secret| secret.name.as_str()));
    let names: BTreeSet<String> = secrets.iter().map(|secret| secret.name.clone()).collect();
    fields.found.secrets.replace(Some(names));
    secrets
}

/// Reads `registries`.
pub(super) fn registries(fields: &mut Fields<'_>) -> Vec<Registry> {
    fields.each("registries", Place::Registry).into_iter().filter_map(registry).collect()
}

fn registry(mut fields: Fields<'_>) -> Option<Registry> {
    if !fields.has("server") {
        fields.missing("server", "the registry's host, or host:port");
    }
    let server = fields.ruled("server", rules::registry).map(|server| {
        // Some write the URL; the reference of an image has only the host.
        let host = server.trim_start_matches("https://").trim_end_matches('/');
        host.to_owned()
    });
    let username = fields.name("username");
    let password_secret_ref = fields.name("passwordSecretRef");
    if let Some(name) = &password_secret_ref {
        let (path, at) = (fields.at("passwordSecretRef"), fields.position("passwordSecretRef"));
        fields.found.check_secret(&path, at, name);
    }
    match (&username, &password_secret_ref) {
        (Some(_), None) if !fields.has("passwordSecretRef") => {
            fields.missing("passwordSecretRef", "username needs a password");
        }
        (None, Some(_)) if !fields.has("username") => {
            fields.missing("username", "passwordSecretRef needs a username");
        }
        (Some(_) | None, Some(_) | None) => (),
    }
    let identity = identity(&mut fields);
    fields.close();
    Some(Registry { server: server?, username, password_secret_ref, identity })
}

/// Reads `identitySettings`.
pub(super) fn identity_settings(fields: &mut Fields<'_>) -> Vec<IdentitySetting> {
    const STAGES: &[(&str, &str)] =
        &[("None", "None"), ("Main", "Main"), ("Init", "Init"), ("All", "All")];
    let read = |mut inner: Fields<'_>| {
        let identity = inner.name("identity").unwrap_or_default();
        let lifecycle = inner.choice("lifecycle", STAGES).map(str::to_owned);
        inner.close();
        IdentitySetting { identity, lifecycle }
    };
    let settings: Vec<IdentitySetting> =
        fields.each("identitySettings", Place::IdentitySetting).into_iter().map(read).collect();
    if !settings.is_empty() {
        let message = "managed identities are Azure's; ignored";
        fields.warning("identitySettings", Reason::NoMeaningHere, message);
    }
    settings
}

fn java_metrics(fields: &mut Fields<'_>) -> Option<bool> {
    let mut runtime = fields.inner("runtime", Place::Runtime)?;
    let mut metrics = None;
    if let Some(mut java) = runtime.inner("java", Place::RuntimeJava) {
        metrics = java.flag("enableMetrics");
        if metrics == Some(true) {
            java.warning(
                "enableMetrics",
                Reason::Unsupported,
                "no metrics are collected from Java",
            );
        }
        java.close();
    }
    runtime.close();
    metrics
}

fn service(fields: &mut Fields<'_>) -> Option<String> {
    let mut service = fields.inner("service", Place::Service)?;
    let kind = service.name("type");
    service.close();
    if let Some(kind) = &kind {
        let message =
            format!("the development service {} is Azure's; run it as an app", quoted(kind));
        fields.warning("service", Reason::Unsupported, message);
    }
    kind
}

fn dapr(mut fields: Fields<'_>) -> Dapr {
    const PROTOCOLS: &[(&str, DaprProtocol)] =
        &[("http", DaprProtocol::Http), ("grpc", DaprProtocol::Grpc)];
    const LEVELS: &[(&str, &str)] =
        &[("info", "info"), ("debug", "debug"), ("warn", "warn"), ("error", "error")];
    let enabled = fields.flag("enabled").unwrap_or(false);
    if enabled {
        fields.later("dapr", "enabled");
    }
    let dapr = Dapr {
        enabled,
        app_id: fields.name("appId"),
        app_protocol: fields.choice("appProtocol", PROTOCOLS).unwrap_or_default(),
        app_port: fields.port("appPort", 0).filter(|port| *port != 0),
        http_read_buffer_size: fields.count("httpReadBufferSize", 0..=u32::MAX),
        http_max_request_size: fields.count("httpMaxRequestSize", 0..=u32::MAX),
        log_level: fields.choice("logLevel", LEVELS).map(str::to_owned),
        enable_api_logging: fields.flag("enableApiLogging").unwrap_or(false),
        app_health: fields.inner("appHealth", Place::DaprAppHealth).map(app_health),
        max_concurrency: fields.count("maxConcurrency", 0..=u32::MAX),
    };
    fields.close();
    dapr
}

fn app_health(mut fields: Fields<'_>) -> DaprAppHealth {
    let health = DaprAppHealth {
        enabled: fields.flag("enabled").unwrap_or(false),
        path: fields.name("path"),
        probe_interval_seconds: fields.count("probeIntervalSeconds", 1..=u32::MAX),
        probe_timeout_milliseconds: fields.count("probeTimeoutMilliseconds", 1..=u32::MAX),
        threshold: fields.count("threshold", 1..=u32::MAX),
    };
    fields.close();
    health
}
