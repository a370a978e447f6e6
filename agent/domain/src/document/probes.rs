//! The probes that a container really has: its own, and ACA's defaults beside them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::app::{Container, ContainerProbe, ProbeAction};
use crate::probe::{Ask, Probe, ProbeKind};

/// The commands that Skerry's own block gives one container's probes.
pub type ExecProbes = BTreeMap<ProbeKind, Vec<String>>;

/// The probes of `container`. `main_with_ingress_port` is the target port of the ingress for the main container, and
/// nothing for the others and where ingress is off: those have only the probes that the document gives.
///
/// A command takes the place of what the document's probe of its type asks, and leaves that probe its timing.
pub fn effective_probes(
    container: &Container,
    commands: Option<&ExecProbes>,
    main_with_ingress_port: Option<u16>,
) -> Vec<Probe> {
    let of = |kind| container.probes.iter().find(|probe| probe.kind == kind);
    // Port 0 is a port that is found out later; there is nothing to ask yet.
    let port = main_with_ingress_port.filter(|port| *port != 0);
    let probe = |kind| {
        let command = commands.and_then(|commands| commands.get(&kind));
        match (of(kind), command) {
            (Some(probe), None) => Some(given(container, probe, ask(&probe.action))),
            (Some(probe), Some(command)) => Some(given(container, probe, exec(command))),
            (None, Some(command)) => Some(bare(container, kind, exec(command))),
            (None, None) => port.map(|port| usual(container, kind, port)),
        }
    };
    [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness]
        .into_iter()
        .filter_map(probe)
        .collect()
}

fn secs(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

fn ask(action: &ProbeAction) -> Ask {
    match action {
        ProbeAction::Http { host, port, path, https, headers } => Ask::Http {
            host: host.clone(),
            port: *port,
            path: path.clone(),
            https: *https,
            headers: headers.clone(),
        },
        ProbeAction::Tcp { host, port } => Ask::Tcp { host: host.clone(), port: *port },
    }
}

fn exec(command: &[String]) -> Ask {
    Ask::Exec { command: command.to_vec() }
}

fn given(container: &Container, probe: &ContainerProbe, ask: Ask) -> Probe {
    Probe {
        initial_delay: secs(probe.initial_delay_secs),
        period: secs(probe.period_secs),
        timeout: secs(probe.timeout_secs),
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
        grace: probe.termination_grace_period_secs.map(secs),
        ..bare(container, probe.kind, ask)
    }
}

/// A probe with the defaults of its fields.
fn bare(container: &Container, kind: ProbeKind, ask: Ask) -> Probe {
    Probe {
        container: container.name.clone(),
        kind,
        ask,
        initial_delay: Duration::ZERO,
        period: secs(10),
        timeout: secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
        eager: false,
    }
}

/// ACA's defaults, without their initial delays: these probes are eager instead.
fn usual(container: &Container, kind: ProbeKind, port: u16) -> Probe {
    let (period, timeout, failure_threshold) = match kind {
        ProbeKind::Startup => (1, 3, 240),
        ProbeKind::Readiness => (5, 5, 48),
        ProbeKind::Liveness => (10, 1, 3),
    };
    Probe {
        period: secs(period),
        timeout: secs(timeout),
        failure_threshold,
        eager: true,
        ..bare(container, kind, Ask::Tcp { host: None, port })
    }
}
