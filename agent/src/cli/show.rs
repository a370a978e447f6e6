//! Apps, revisions and replicas as a person likes to read them: tables, and the tree of one app.

use std::fmt::Write as _;

use domain::model::WallTime;
use domain::reason::Reason;
use skerry_proto::v1::{
    AppStatus, DeviceReply, EnvironmentStatus, Finding, Image, KnownSecret, ReplicaStatus,
    RevisionStatus,
};

use super::age::age;
use super::error::finding;
use super::table::Table;

/// `skerry apps`.
pub(super) fn apps(apps: &[AppStatus], now: WallTime) -> String {
    if apps.is_empty() {
        return "no apps\n".to_owned();
    }
    let mut table =
        Table::new(["APP", "STATUS", "READY", "REVISION", "HOST", "SOURCE", "UPDATED", "REASON"]);
    for app in apps {
        table.row([
            app.app.clone(),
            app.running_status.clone(),
            ready_of(app),
            short_name(&app.latest_revision_name).to_owned(),
            host(app).to_owned(),
            app.source.clone(),
            age(&app.updated_time, now),
            reason_of(app).to_owned(),
        ]);
    }
    table.render()
}

/// `skerry revisions`.
pub(super) fn revisions(revisions: &[RevisionStatus]) -> String {
    if revisions.is_empty() {
        return "no revisions\n".to_owned();
    }
    let mut table = Table::new([
        "REVISION", "ACTIVE", "PHASE", "TRAFFIC", "LABELS", "READY", "STATE", "HEALTH", "REASON",
    ]);
    for revision in revisions {
        table.row([
            revision.name.clone(),
            yes(revision.active),
            revision.phase.clone(),
            percent(revision.traffic_weight),
            revision.labels.join(","),
            format!("{}/{}", revision.ready_replicas, revision.replicas),
            revision.running_state.clone(),
            revision.health_state.clone(),
            revision.reason.clone(),
        ]);
    }
    table.render()
}

/// `skerry replicas`.
pub(super) fn replicas(replicas: &[ReplicaStatus]) -> String {
    if replicas.is_empty() {
        return "no replicas\n".to_owned();
    }
    let mut table = Table::new(["REPLICA", "STATE", "READY", "ADDRESS", "RESTARTS", "REASON"]);
    for replica in replicas {
        table.row([
            replica.name.clone(),
            replica.running_state.clone(),
            yes(replica.ready),
            replica.address.clone(),
            replica.restart_count.to_string(),
            replica.reason.clone(),
        ]);
    }
    table.render()
}

/// `skerry environments`.
pub(super) fn environments(environments: &[EnvironmentStatus], now: WallTime) -> String {
    if environments.is_empty() {
        return "no environments\n".to_owned();
    }
    let mut table = Table::new(["ENVIRONMENT", "APPS", "STORAGES", "SOURCE", "UPDATED", "REASON"]);
    for one in environments {
        let storages: Vec<&str> = one.storages.iter().map(|one| one.name.as_str()).collect();
        let of_error = one.error.iter().map(|error| error.reason.as_str());
        let mut reasons = of_error.chain(one.storages.iter().map(|one| one.reason.as_str()));
        table.row([
            one.environment.clone(),
            one.apps.to_string(),
            storages.join(","),
            one.source.clone(),
            age(&one.updated_time, now),
            reasons.find(|reason| !reason.is_empty()).unwrap_or_default().to_owned(),
        ]);
    }
    table.render()
}

/// `skerry images`.
pub(super) fn images(images: &[Image], now: WallTime) -> String {
    if images.is_empty() {
        return "no images\n".to_owned();
    }
    let header = ["IMAGE", "DIGEST", "SIZE", "PLATFORM", "AGE", "FROM", "USED BY"];
    let mut table = Table::new(header);
    for image in images {
        table.row([
            image.name.clone(),
            image.digest.chars().take("sha256:".len() + 12).collect(),
            if image.size_bytes == 0 { String::new() } else { size(image.size_bytes) },
            image.platform.clone(),
            age(&image.created_time, now),
            match (image.preloaded, image.imported) {
                (true, _) => "preloaded",
                (false, true) => "imported",
                (false, false) => "registry",
            }
            .to_owned(),
            image.apps.join(","),
        ]);
    }
    table.render()
}

/// `skerry secret ls`.
pub(super) fn secrets(secrets: &[KnownSecret]) -> String {
    if secrets.is_empty() {
        return "no secrets\n".to_owned();
    }
    let mut table = Table::new(["SECRET", "VALUE", "LISTED"]);
    for secret in secrets {
        let value = if secret.has_value { "set" } else { "missing" };
        table.row([secret.name.clone(), value.to_owned(), yes(secret.listed)]);
    }
    table.render()
}

/// Bytes as a person reads them.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, one) in UNITS {
        if one <= bytes {
            return format!("{}.{} {unit}", bytes / one, bytes % one * 10 / one);
        }
    }
    format!("{bytes} B")
}

/// `skerry status`.
pub(super) fn device(reply: &DeviceReply) -> String {
    let status = reply.status.clone().unwrap_or_default();
    let tags: Vec<String> =
        status.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let control_plane = match (reply.control_plane.as_str(), status.online) {
        ("", _) => "none, local only".to_owned(),
        (url, true) => format!("{url}, connected (epoch {})", status.epoch),
        (url, false) => format!("{url}, not connected"),
    };
    let mut lines = vec![
        ("device", reply.device.clone()),
        ("tags", tags.join(" ")),
        ("agent", format!("{} on {}", status.agent_version, status.architecture)),
        ("control plane", control_plane),
        ("public key", status.public_key.clone()),
        ("apps", format!("{}, {} running", reply.apps, reply.running)),
    ];
    for trouble in &status.troubles {
        lines.push(("trouble", finding(trouble)));
        lines.extend(fix(&trouble.reason, "APP").map(|fix| ("hint", fix)));
    }
    lines.retain(|(_, value)| !value.is_empty());
    let mut text = String::new();
    for (name, value) in lines {
        line(&mut text, &format!("{name:<15}"), &value);
    }
    text
}

/// `skerry show`: the app, its revisions, their replicas, and what is wrong where.
pub(super) fn tree(app: &AppStatus, now: WallTime) -> String {
    let mut text = String::new();
    let generation = match app.generation {
        0 => String::new(),
        n => format!(", generation {n}"),
    };
    let age = age(&app.updated_time, now);
    let head =
        format!("{}  {}{generation}, by {}, {age} ago", app.app, app.running_status, app.source);
    line(&mut text, "", &head);
    for host in [&app.lan_name, &app.fqdn].into_iter().filter(|host| !host.is_empty()) {
        let url = match app.exposed_port {
            0 => format!("http://{host}"),
            port => format!("tcp://{host}:{port}"),
        };
        line(&mut text, "  ", &url);
    }
    if !app.scale_target.is_empty() {
        line(&mut text, "  ", &format!("scale target {}", app.scale_target));
    }
    let last = app.revisions.len().saturating_sub(1);
    for (n, revision) in app.revisions.iter().enumerate() {
        of_revision(&mut text, revision, &Branch::new(n == last));
    }
    for warning in &app.warnings {
        line(&mut text, "warning: ", &finding(warning));
    }
    if let Some(error) = app.error.as_ref().filter(|error| !error.reason.is_empty()) {
        line(&mut text, "error: ", &finding(error));
        if let Some(fix) = fix(&error.reason, &app.app) {
            line(&mut text, "hint: ", &fix);
        }
    }
    text
}

/// How a line of the tree begins, and how those below it do.
struct Branch {
    head: &'static str,
    below: &'static str,
}

impl Branch {
    fn new(last: bool) -> Self {
        if last {
            return Self { head: "└─ ", below: "   " };
        }
        Self { head: "├─ ", below: "│  " }
    }
}

fn of_revision(text: &mut String, revision: &RevisionStatus, branch: &Branch) {
    let Branch { head, below } = branch;
    let mut words = vec![revision.name.clone(), revision.running_state.clone()];
    if revision.active {
        words.push(format!("{}/{} ready", revision.ready_replicas, revision.replicas));
        words.push(format!("{} traffic", percent(revision.traffic_weight)));
    } else {
        words.push("inactive".to_owned());
    }
    words.push(revision.phase.clone());
    words.extend(revision.labels.iter().map(|label| format!("label {label}")));
    line(text, head, &words.join("  "));
    if revision.active && !revision.image.is_empty() {
        line(text, below, &format!("image {}", revision.image));
    }
    if !revision.standby.is_empty() {
        let held = match revision.standby_memory_bytes {
            0 => String::new(),
            bytes => format!(", which holds {}", size(bytes)),
        };
        line(text, below, &format!("standby {}{held}", revision.standby));
    }
    why(text, below, &revision.name, &revision.reason, &revision.details);
    let last = revision.replica_list.len().saturating_sub(1);
    for (n, replica) in revision.replica_list.iter().enumerate() {
        of_replica(text, replica, below, &Branch::new(n == last));
    }
}

fn of_replica(text: &mut String, replica: &ReplicaStatus, above: &str, branch: &Branch) {
    let ready = if replica.ready { "ready" } else { "not ready" };
    let mut words = vec![replica.name.as_str(), &replica.running_state, ready];
    if !replica.address.is_empty() {
        words.push(&replica.address);
    }
    let restarts = match replica.restart_count {
        0 => String::new(),
        1 => "  1 restart".to_owned(),
        n => format!("  {n} restarts"),
    };
    line(text, &format!("{above}{}", branch.head), &format!("{}{restarts}", words.join("  ")));
    why(
        text,
        &format!("{above}{}", branch.below),
        &replica.name,
        &replica.reason,
        &replica.details,
    );
}

/// The reason, the details and the fix, where there is a reason. `name` is that of a revision or replica.
fn why(text: &mut String, indent: &str, name: &str, reason: &str, details: &str) {
    let app = name.split("--").next().unwrap_or(name);
    match (reason, details) {
        ("", _) => return,
        (reason, "") => line(text, indent, reason),
        (reason, details) => line(text, indent, &format!("{reason}: {details}")),
    }
    if let Some(fix) = fix(reason, app) {
        line(text, indent, &format!("hint: {fix}"));
    }
}

/// One line. What containers and registries say may hold anything; a terminal gets no control characters of theirs.
fn line(text: &mut String, start: &str, rest: &str) {
    let rest: String = rest.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    writeln!(text, "{start}{}", rest.trim_end()).expect("a string takes all text");
}

/// What to do about it, unless it is nothing; commands in it name the app, so that they can be copied.
pub(super) fn fix(reason: &str, app: &str) -> Option<String> {
    advice(reason.parse::<Reason>().ok()?.fix(), app)
}

/// A fix, unless it is nothing to do, with the app's name in it.
pub(super) fn advice(fix: &str, app: &str) -> Option<String> {
    let named = || {
        let logs = format!("`skerry logs {app}`");
        let explain = format!("`skerry explain {app}`");
        let fix = fix.replace("APP", app);
        fix.replace("`skerry logs`", &logs).replace("`skerry explain`", &explain)
    };
    (fix != "Nothing to do.").then(|| named().trim_end_matches('.').to_owned())
}

/// The reason that a list has room for: the document's, else the newest revision's, else one of its replicas'.
pub(super) fn reason_of(app: &AppStatus) -> &str {
    let of_error = app.error.iter().map(|Finding { reason, .. }| reason);
    let newest = app.revisions.iter().take(1);
    let of_revision = newest.clone().map(|revision| &revision.reason);
    let of_replicas = newest.flat_map(|revision| &revision.replica_list).map(|r| &r.reason);
    let mut reasons = of_error.chain(of_revision).chain(of_replicas);
    reasons.find(|reason| !reason.is_empty()).map_or("", String::as_str)
}

fn ready_of(app: &AppStatus) -> String {
    let active = app.revisions.iter().filter(|revision| revision.active);
    let (ready, all) = active.fold((0, 0), |(ready, all), revision| {
        (ready + revision.ready_replicas, all + revision.replicas)
    });
    format!("{ready}/{all}")
}

/// The suffix alone: the app's name stands beside it.
fn short_name(revision: &str) -> &str {
    revision.split_once("--").map_or(revision, |(_, suffix)| suffix)
}

fn host(app: &AppStatus) -> &str {
    if app.lan_name.is_empty() { &app.fqdn } else { &app.lan_name }
}

fn percent(weight: u32) -> String {
    format!("{weight} %")
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_by_is_told_with_what_it_holds() {
        let told = |standby: &str, standby_memory_bytes| {
            let standby = standby.to_owned();
            let revision = RevisionStatus { standby, standby_memory_bytes, ..Default::default() };
            let mut text = String::new();
            of_revision(&mut text, &revision, &Branch::new(true));
            text.lines().nth(1).unwrap_or_default().trim().to_owned()
        };
        assert_eq!(told("frozen", 12 << 20), "standby frozen, which holds 12.0 MiB");
        assert_eq!(told("prepared", 0), "standby prepared");
        assert_eq!(told("", 0), "");
    }
}
