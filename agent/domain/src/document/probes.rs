//! The probes that a container really has: its own, and ACA's defaults beside them.

use std::time::Duration;

use super::app::{Container, ContainerProbe, ProbeAction};
use crate::probe::{Ask, Probe, ProbeKind};

/// The probes of `container`. `main_with_ingress_port` is the target port of the ingress for the main container, and
/// nothing for the others and where ingress is off: those have only the probes that the document gives.
pub fn effective_probes(container: &Container, main_with_ingress_port: Option<u16>) -> Vec<Probe> {
    let explicit = container.probes.iter().map(|probe| given(container, probe));
    // Port 0 is a port that is found out later; there is nothing to ask yet.
    let port = main_with_ingress_port.filter(|port| *port != 0);
    let missing = |kind: &ProbeKind| container.probes.iter().all(|probe| probe.kind != *kind);
    let defaults = port.into_iter().flat_map(|port| {
        [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness]
            .into_iter()
            .filter(missing)
            .map(move |kind| usual(container, kind, port))
    });
    let mut probes: Vec<Probe> = explicit.chain(defaults).collect();
    probes.sort_by_key(|probe| probe.kind);
    probes
}

fn secs(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

fn given(container: &Container, probe: &ContainerProbe) -> Probe {
    let ask = match &probe.action {
        ProbeAction::Http { port, path, https, headers, .. } => {
            Ask::Http { port: *port, path: path.clone(), https: *https, headers: headers.clone() }
        }
        ProbeAction::Tcp { port, .. } => Ask::Tcp { port: *port },
    };
    Probe {
        container: container.name.clone(),
        kind: probe.kind,
        ask,
        initial_delay: secs(probe.initial_delay_secs),
        period: secs(probe.period_secs),
        timeout: secs(probe.timeout_secs),
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
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
        container: container.name.clone(),
        kind,
        ask: Ask::Tcp { port },
        initial_delay: Duration::ZERO,
        period: secs(period),
        timeout: secs(timeout),
        success_threshold: 1,
        failure_threshold,
        eager: true,
    }
}
