//! Reads the top-level `skerry` block: what a device needs and ACA lacks.

use std::collections::BTreeMap;

use super::app::{
    Capabilities, Device, Extras, SkerryBlock, Standby, Template, UpdateStrategy, UpdateWindow,
};
use super::capability;
use super::fields::{Fields, scalar};
use super::findings::{nearest, quoted};
use super::node::{Position, Value};
use super::rules;
use super::support::Place;
use crate::probe::ProbeKind;
use crate::reason::Reason;

/// A day, in seconds: what takes longer is not an update any more.
const MAX_DEADLINE_SECS: u32 = 86_400;
/// A week, in minutes.
const MAX_WINDOW_MINUTES: u32 = 10_080;

/// Reads the block and closes it.
pub(super) fn read(mut fields: Fields<'_>) -> SkerryBlock {
    const STRATEGIES: &[(&str, UpdateStrategy)] =
        &[("surge", UpdateStrategy::Surge), ("recreate", UpdateStrategy::Recreate)];
    const STANDBYS: &[(&str, Standby)] =
        &[("none", Standby::None), ("created", Standby::Created), ("frozen", Standby::Frozen)];
    let usual = SkerryBlock::default();
    let generation = fields.whole("generation", 0..=u64::MAX);
    let absent = fields.flag("absent").unwrap_or(false);
    let force = fields.flag("force").unwrap_or(false);
    let update_strategy = fields.choice("updateStrategy", STRATEGIES).unwrap_or_default();
    let ready_deadline = fields.count("readyDeadlineSeconds", 1..=MAX_DEADLINE_SECS);
    let probation = fields.count("probationSeconds", 0..=MAX_DEADLINE_SECS);
    let standby = fields.choice("standby", STANDBYS).unwrap_or_default();
    let block = SkerryBlock {
        generation,
        absent,
        force,
        update_strategy,
        ready_deadline_secs: ready_deadline.unwrap_or(usual.ready_deadline_secs),
        probation_secs: probation.unwrap_or(usual.probation_secs),
        standby,
        update_window: update_window(&mut fields),
        extras: extras(&mut fields),
    };
    fields.close();
    block
}

/// What is part of the template's snapshot.
pub(super) fn extras(fields: &mut Fields<'_>) -> Extras {
    Extras {
        devices: devices(fields),
        capabilities: capabilities(fields),
        exec_probes: exec_probes(fields),
    }
}

fn update_window(fields: &mut Fields<'_>) -> Option<UpdateWindow> {
    let mut inner = fields.inner("updateWindow", Place::UpdateWindow)?;
    for (key, what) in
        [("cron", "when it begins, in five fields"), ("durationMinutes", "how long it lasts")]
    {
        if !inner.has(key) {
            inner.missing(key, what);
        }
    }
    let cron = inner.ruled("cron", rules::cron);
    let minutes = inner.count("durationMinutes", 1..=MAX_WINDOW_MINUTES);
    let time_zone = inner.ruled("timeZone", rules::time_zone).unwrap_or_else(|| "UTC".to_owned());
    inner.close();
    Some(UpdateWindow { cron: cron?, duration_minutes: minutes?, time_zone })
}

fn devices(fields: &mut Fields<'_>) -> Vec<Device> {
    let read = |mut inner: Fields<'_>| {
        if !inner.has("hostPath") {
            inner.missing("hostPath", "the device on the board, such as /dev/ttyUSB0");
        }
        let host_path = inner.ruled("hostPath", rules::absolute_path);
        let container_path = inner.ruled("containerPath", rules::absolute_path);
        let permissions = inner.ruled("permissions", rules::permissions);
        inner.close();
        let host_path = host_path?;
        Some(Device {
            container_path: container_path.unwrap_or_else(|| host_path.clone()),
            host_path,
            permissions: permissions.unwrap_or_else(|| "rw".to_owned()),
        })
    };
    fields.each("devices", Place::Device).into_iter().filter_map(read).collect()
}

fn capabilities(fields: &mut Fields<'_>) -> Capabilities {
    let Some(mut inner) = fields.inner("capabilities", Place::Capabilities) else {
        return Capabilities::default();
    };
    let mut names = |key, rule: fn(&str) -> Result<String, &'static str>| {
        let (found, listed) = (inner.found, inner.list(key));
        let mut names = Vec::new();
        for (path, node) in listed {
            let Some(text) = scalar(found, path.clone(), node, "a text") else { continue };
            match rule(&text) {
                Ok(name) => names.push(name),
                Err(broken) => {
                    let message = format!("{} is not valid here: {broken}", quoted(&text));
                    found.error(path, node.at, Reason::InvalidValue, message);
                }
            }
        }
        names
    };
    let add = names("add", capability::added);
    let drop = names("drop", capability::dropped);
    inner.close();
    Capabilities { add, drop }
}

fn exec_probes(fields: &mut Fields<'_>) -> BTreeMap<String, BTreeMap<ProbeKind, Vec<String>>> {
    let Some(containers) = fields.inner("probes", Place::Free) else { return BTreeMap::new() };
    let found = fields.found;
    let mut all = BTreeMap::new();
    for (name, node) in containers.entries() {
        let Some(mut inner) = Fields::of(node, containers.at(name), Place::SkerryProbe, found)
        else {
            continue;
        };
        let kinds = [
            ("startup", ProbeKind::Startup),
            ("readiness", ProbeKind::Readiness),
            ("liveness", ProbeKind::Liveness),
        ];
        let mut probes = BTreeMap::new();
        for (key, kind) in kinds {
            if let Some(command) = exec(&mut inner, key) {
                probes.insert(kind, command);
            }
        }
        inner.close();
        all.insert(name.clone(), probes);
    }
    all
}

/// Refuses the exec probes of containers that `template` does not have; `top` is the mapping that the block lies in.
pub(super) fn check_probes(top: &Fields<'_>, extras: &Extras, template: &Template) {
    let names = || template.containers.iter().map(|container| container.name.as_str());
    // A name that broke a rule was refused already, and may be the one that is meant.
    if names().any(str::is_empty) {
        return;
    }
    let unknown = extras.exec_probes.keys().filter(|name| names().all(|known| known != *name));
    for name in unknown {
        let init = template.init_containers.iter().any(|container| container.name == *name);
        let hint = match nearest(name, names()) {
            _ if init => "; init containers have no probes".to_owned(),
            Some(known) => format!("; did you mean {known:?}?"),
            None => String::new(),
        };
        let at = position(top, ["skerry", "probes", name]);
        let message = format!("the template has no container named {}{hint}", quoted(name));
        top.found.error(
            top.at(&format!("skerry.probes.{name}")),
            at,
            Reason::InvalidValue,
            message,
        );
    }
}

/// Where the value at the end of `keys` stands.
fn position(top: &Fields<'_>, keys: [&str; 3]) -> Position {
    let (mut entries, mut at) = (top.entries(), None);
    for key in keys {
        let (_, node) = entries.iter().find(|(known, _)| known == key)?;
        at = node.at;
        entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::List(_) => &[],
        };
    }
    at
}

fn exec(fields: &mut Fields<'_>, kind: &'static str) -> Option<Vec<String>> {
    let mut probe = fields.inner(kind, Place::SkerryProbe)?;
    if !probe.has("exec") {
        probe.missing("exec", "a probe of this block runs a command");
    }
    let mut exec = probe.inner("exec", Place::Exec)?;
    let command = exec.texts("command");
    if command.is_empty() {
        exec.error(
            "command",
            Reason::MissingValue,
            "command is required: the program and its arguments",
        );
    }
    exec.close();
    probe.close();
    Some(command)
}
