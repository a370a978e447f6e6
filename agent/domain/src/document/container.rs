//! Reads a container: its image, command, environment, resources, mounts and probes.

use std::collections::BTreeSet;

use super::app::{
    Container, ContainerProbe, EnvValue, EnvVar, ProbeAction, Resources, VolumeMount,
};
use super::fields::Fields;
use super::findings::quoted;
use super::node::Position;
use super::quantity;
use super::rules;
use super::support::Place;
use super::template::{MAX_GRACE_SECS, at_most, secret_ref};
use crate::probe::ProbeKind;
use crate::reason::Reason;

/// Mounts of volumes in one container.
const MAX_MOUNTS: usize = 64;

/// When a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Init,
    Main,
}

/// Where something stands in the document.
pub(super) type Spot = (String, Position);

/// Reads a container and closes it. A name that breaks a rule reads as empty. Where it says how much it may write goes
/// to `sizes`: that follows from the cores of all containers.
pub(super) fn read(
    mut fields: Fields<'_>,
    stage: Stage,
    volumes: &BTreeSet<&str>,
    sizes: &mut Vec<Spot>,
) -> Container {
    if !fields.has("name") {
        fields.missing("name", "every container has a name of its own");
    }
    if !fields.has("image") {
        fields.missing("image", "the image that the container runs");
    }
    let name = fields.ruled("name", rules::label).unwrap_or_default();
    let image = fields.ruled("image", rules::image).unwrap_or_default();
    let command = fields.texts("command");
    let args = fields.texts("args");
    let env = environment(&mut fields);
    let resources = fields
        .inner("resources", Place::Resources)
        .map(|inner| resources(inner, sizes))
        .unwrap_or_default();
    let mounts = at_most(&mut fields, "volumeMounts", Place::VolumeMount, MAX_MOUNTS);
    let volume_mounts = mounts.filter_map(|inner| mount(inner, volumes)).collect();
    let probes = match stage {
        Stage::Main => probes(&mut fields),
        Stage::Init => {
            if fields.has("probes") {
                fields.warning(
                    "probes",
                    Reason::Unsupported,
                    "init containers have no probes; ignored",
                );
            }
            fields.asked("probes");
            Vec::new()
        }
    };
    fields.close();
    Container { name, image, command, args, env, resources, volume_mounts, probes }
}

/// Of two variables with one name the last wins, as in Azure.
fn environment(fields: &mut Fields<'_>) -> Vec<EnvVar> {
    let mut env: Vec<EnvVar> = Vec::new();
    let mut seen = BTreeSet::new();
    for mut inner in fields.each("env", Place::EnvVar) {
        if !inner.has("name") {
            inner.missing("name", "the name of the variable");
        }
        let name = inner.ruled("name", rules::variable);
        let secret = secret_ref(&mut inner);
        let plain = inner.text("value");
        let value = match (secret, plain) {
            (Some(_), Some(text)) if !text.is_empty() => {
                inner.error(
                    "secretRef",
                    Reason::InvalidValue,
                    "value and secretRef exclude one another",
                );
                continue;
            }
            (Some(secret), _) => EnvValue::Secret(secret),
            (None, plain) => EnvValue::Plain(plain.unwrap_or_default()),
        };
        if let Some(name) = name {
            if !seen.insert(name.clone()) {
                let message = format!("{} is given twice; the last one wins", quoted(&name));
                inner.warning("name", Reason::InvalidValue, message);
            }
            env.push(EnvVar { name, value });
        }
        inner.close();
    }
    let mut kept: Vec<EnvVar> =
        env.into_iter().rev().filter(|variable| seen.remove(&variable.name)).collect();
    kept.reverse();
    kept
}

fn resources(mut fields: Fields<'_>, sizes: &mut Vec<Spot>) -> Resources {
    const SIZE: &str = "ephemeralStorage";
    if fields.name(SIZE).is_some() {
        sizes.push((fields.at(SIZE), fields.position(SIZE)));
    }
    let usual = Resources::default();
    let mut read = |key, usual: u64, rule: fn(&str) -> Result<u64, &'static str>| {
        let Some(text) = fields.name(key) else { return usual };
        rule(&text).unwrap_or_else(|broken| {
            let message = format!("{} is not valid here: {broken}", quoted(&text));
            fields.error(key, Reason::InvalidValue, message);
            usual
        })
    };
    let cpu =
        read("cpu", u64::from(usual.cpu_millis), |text| quantity::cpu_millis(text).map(u64::from));
    let memory_bytes = read("memory", usual.memory_bytes, quantity::memory_bytes);
    fields.close();
    Resources { cpu_millis: u32::try_from(cpu).unwrap_or(usual.cpu_millis), memory_bytes }
}

fn mount(mut fields: Fields<'_>, volumes: &BTreeSet<&str>) -> Option<VolumeMount> {
    for (key, what) in
        [("volumeName", "the name of a volume"), ("mountPath", "where the volume appears")]
    {
        if !fields.has(key) {
            fields.missing(key, what);
        }
    }
    let volume_name = fields.name("volumeName");
    if let Some(name) = volume_name.as_deref().filter(|name| !volumes.contains(name)) {
        let message = format!("no volume named {} is listed under template.volumes", quoted(name));
        fields.error("volumeName", Reason::InvalidValue, message);
    }
    let mount_path = fields.ruled("mountPath", rules::mount_path);
    let sub_path = fields.ruled("subPath", rules::relative_path).unwrap_or_default();
    fields.close();
    Some(VolumeMount { volume_name: volume_name?, mount_path: mount_path?, sub_path })
}

fn probes(fields: &mut Fields<'_>) -> Vec<ContainerProbe> {
    let mut probes: Vec<ContainerProbe> = Vec::new();
    for inner in fields.each("probes", Place::Probe) {
        let (path, at) = (inner.at("type"), inner.position("type"));
        let Some(probe) = probe(inner) else { continue };
        if probes.iter().any(|known| known.kind == probe.kind) {
            let message = format!("a container has at most one {:?} probe", probe.kind);
            fields.found.error(path, at, Reason::InvalidValue, message);
        }
        probes.push(probe);
    }
    probes
}

fn probe(mut fields: Fields<'_>) -> Option<ContainerProbe> {
    const KINDS: &[(&str, ProbeKind)] = &[
        ("Liveness", ProbeKind::Liveness),
        ("Readiness", ProbeKind::Readiness),
        ("Startup", ProbeKind::Startup),
    ];
    if !fields.has("type") {
        fields.missing("type", "Liveness, Readiness or Startup");
    }
    let kind = fields.choice("type", KINDS);
    let most_successes = match kind {
        Some(ProbeKind::Liveness | ProbeKind::Startup) => 1,
        Some(ProbeKind::Readiness) | None => 10,
    };
    let http = fields.inner("httpGet", Place::HttpGet).map(http_get);
    let tcp = fields.inner("tcpSocket", Place::TcpSocket).map(tcp_socket);
    match (&http, &tcp) {
        (Some(_), Some(_)) => {
            fields.error(
                "tcpSocket",
                Reason::InvalidValue,
                "httpGet and tcpSocket exclude one another",
            );
        }
        (None, None) if !fields.has("httpGet") && !fields.has("tcpSocket") => {
            fields.missing("httpGet", "a probe has httpGet or tcpSocket");
        }
        (Some(_), None) | (None, Some(_) | None) => (),
    }
    let initial_delay_secs = fields.count("initialDelaySeconds", 0..=60).unwrap_or(0);
    let period_secs = fields.count("periodSeconds", 1..=240).unwrap_or(10);
    let timeout_secs = fields.count("timeoutSeconds", 1..=240).unwrap_or(1);
    let success_threshold = fields.count("successThreshold", 1..=most_successes).unwrap_or(1);
    // The schema's text says 10 at most, and the platform's own default is 240.
    let failure_threshold = fields.count("failureThreshold", 1..=100_000).unwrap_or(3);
    let termination_grace_period_secs =
        fields.count("terminationGracePeriodSeconds", 0..=MAX_GRACE_SECS);
    fields.close();
    Some(ContainerProbe {
        kind: kind?,
        action: http.flatten().or(tcp.flatten())?,
        initial_delay_secs,
        period_secs,
        timeout_secs,
        success_threshold,
        failure_threshold,
        termination_grace_period_secs,
    })
}

fn probe_port(fields: &mut Fields<'_>) -> Option<u16> {
    if !fields.has("port") {
        fields.missing("port", "the number of the port that is asked");
    }
    fields.port("port", 1)
}

fn http_get(mut fields: Fields<'_>) -> Option<ProbeAction> {
    let host = fields.ruled("host", rules::host_name);
    let port = probe_port(&mut fields);
    let path = fields.ruled("path", rules::request_path).unwrap_or_default();
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let https = fields.choice("scheme", &[("HTTP", false), ("HTTPS", true)]).unwrap_or(false);
    let headers = fields.each("httpHeaders", Place::HttpHeader);
    let headers = headers.into_iter().filter_map(header).collect();
    fields.close();
    Some(ProbeAction::Http { host, port: port?, path, https, headers })
}

fn header(mut fields: Fields<'_>) -> Option<(String, String)> {
    for (key, what) in [("name", "the header's name"), ("value", "the header's value")] {
        if !fields.has(key) {
            fields.missing(key, what);
        }
    }
    let name = fields.ruled("name", rules::header_name);
    let value = fields.ruled("value", rules::header_value).unwrap_or_default();
    fields.close();
    Some((name?, value))
}

fn tcp_socket(mut fields: Fields<'_>) -> Option<ProbeAction> {
    let host = fields.ruled("host", rules::host_name);
    let port = probe_port(&mut fields);
    fields.close();
    Some(ProbeAction::Tcp { host, port: port? })
}
