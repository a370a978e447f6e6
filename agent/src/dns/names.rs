//! Which name of an environment stands for what. Pure: a zone and a name in, an answer out.
//!
//! ```text
//!   hello · hello.<suffix> · hello.internal.<suffix>          the gateway, where the ingress picks a replica
//!   hello--0000002.<suffix> · hello---blue.<suffix>            the same, and the ingress knows which revision
//!   replicas.hello[.<suffix>]                                  the ready replicas themselves
//!   10-213-0-5.replicas.hello.<suffix>                         one of them, as SRV names it
//!   _http._tcp.hello[.<suffix>]                                SRV: port and replicas
//!   host.<suffix>                                              the board, where `allow_host` opens something
//! ```

use std::net::Ipv4Addr;

use domain::model::AppName;
use domain::zone::{Zone, ZoneEntry};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Addresses; there may be none just now.
    Addresses(Vec<Ipv4Addr>),
    /// Names with addresses, all at one port.
    Services { port: u16, targets: Vec<(String, Ipv4Addr)> },
    /// A name that is there only because longer ones are.
    Nothing,
    /// In our zone, and there is no such name.
    Unknown,
    /// Not ours: others know.
    Elsewhere,
}

/// Looks a name up; it must be in lower case.
pub(super) fn look_up(zone: &Zone, name: &str) -> Meaning {
    let Some(relative) = name.strip_suffix(zone.suffix.as_str()) else {
        return short(zone, name);
    };
    if relative.is_empty() {
        return Meaning::Nothing;
    }
    // `<app>.otherdefault.pi-1.internal` ends like our suffix and is not ours.
    let Some(relative) = relative.strip_suffix('.') else { return short(zone, name) };
    if relative == "host" && zone.host {
        return Meaning::Addresses(vec![zone.gateway]);
    }
    if relative == "internal" && !zone.apps.keys().any(|app| app.as_str() == relative) {
        return Meaning::Nothing;
    }
    let of_app = in_zone(zone, relative);
    let of_app = of_app.or_else(|| in_zone(zone, relative.strip_suffix(".internal")?));
    of_app.unwrap_or(Meaning::Unknown)
}

/// A name without our suffix is ours only if it is an app's: everything else may mean something elsewhere.
fn short(zone: &Zone, name: &str) -> Meaning {
    in_zone(zone, name).unwrap_or(Meaning::Elsewhere)
}

/// A name relative to the zone.
fn in_zone(zone: &Zone, relative: &str) -> Option<Meaning> {
    let (before, label) = match relative.rsplit_once('.') {
        Some((before, label)) => (before, label),
        None => ("", relative),
    };
    let (app, of_revision) = match label.split_once("--") {
        Some((app, _)) => (app, true),
        None => (label, false),
    };
    let app: AppName = app.parse().ok()?;
    let entry = zone.apps.get(&app)?;
    if before.is_empty() {
        return Some(Meaning::Addresses(vec![zone.gateway]));
    }
    if of_revision {
        return None;
    }
    match before {
        "replicas" => Some(Meaning::Addresses(entry.replicas.clone())),
        "_http._tcp" => Some(services(zone, &app, entry)),
        "_tcp" => Some(Meaning::Nothing),
        _ => {
            let of_replica = before.strip_suffix(".replicas")?;
            let address = entry.replicas.iter().find(|address| dashed(**address) == of_replica)?;
            Some(Meaning::Addresses(vec![*address]))
        }
    }
}

fn services(zone: &Zone, app: &AppName, entry: &ZoneEntry) -> Meaning {
    let target = |address: &Ipv4Addr| {
        (format!("{}.replicas.{app}.{}", dashed(*address), zone.suffix), *address)
    };
    Meaning::Services { port: entry.port, targets: entry.replicas.iter().map(target).collect() }
}

/// `10-213-0-5`: a replica keeps this name for as long as it keeps its address, whatever comes and goes beside it.
fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
    const REPLICA: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 5);

    #[track_caller]
    fn check(name: &str, meaning: &Meaning) {
        let replicas = vec![REPLICA];
        let apps = [
            ("hello".parse().unwrap(), ZoneEntry { port: 8080, replicas }),
            ("idle".parse().unwrap(), ZoneEntry { port: 80, replicas: Vec::new() }),
        ];
        let suffix = "default.pi-1.internal".to_owned();
        let zone = Zone { gateway: GATEWAY, suffix, host: true, apps: apps.into() };
        assert_eq!(&look_up(&zone, name), meaning, "{name}");
    }

    #[test]
    fn an_app_has_its_names() {
        let gateway = Meaning::Addresses(vec![GATEWAY]);
        check("hello", &gateway);
        check("idle", &gateway);
        check("hello.default.pi-1.internal", &gateway);
        check("hello.internal.default.pi-1.internal", &gateway);
        check("hello--0000002.default.pi-1.internal", &gateway);
        check("hello---blue.default.pi-1.internal", &gateway);
        check("host.default.pi-1.internal", &gateway);
    }

    #[test]
    fn replicas_have_names_of_their_own() {
        let replica = Meaning::Addresses(vec![REPLICA]);
        check("replicas.hello", &replica);
        check("replicas.hello.default.pi-1.internal", &replica);
        check("10-213-0-5.replicas.hello.default.pi-1.internal", &replica);
        check("replicas.idle", &Meaning::Addresses(Vec::new()));
        let target = "10-213-0-5.replicas.hello.default.pi-1.internal".to_owned();
        let services = Meaning::Services { port: 8080, targets: vec![(target, REPLICA)] };
        check("_http._tcp.hello", &services);
        check("_http._tcp.hello.default.pi-1.internal", &services);
    }

    #[test]
    fn what_is_ours_and_not_there_is_unknown() {
        for name in
            ["other", "www.hello", "10-213-0-6.replicas.hello", "other--1", "replicas.hello--1"]
        {
            check(&format!("{name}.default.pi-1.internal"), &Meaning::Unknown);
        }
        for name in ["default.pi-1.internal", "_tcp.hello", "internal.default.pi-1.internal"] {
            check(name, &Meaning::Nothing);
        }
    }

    #[test]
    fn what_is_not_ours_is_left_to_others() {
        for name in
            ["host", "example.org", "www.hello", "hello.example.org", "pi-1.internal", "localhost"]
        {
            check(name, &Meaning::Elsewhere);
        }
        check("hello.otherdefault.pi-1.internal", &Meaning::Elsewhere);
    }
}
