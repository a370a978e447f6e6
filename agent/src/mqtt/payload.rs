//! The JSON that goes up.

use domain::event::Event;
use domain::status::{AppStatus, EnvironmentStatus, JobStatus};
use serde::Serialize;
use skerry_proto::v1;

use super::settings::MqttSettings;
use crate::clock::{Clock, rfc3339};
use crate::published::DeviceState;
use crate::wire;

/// Whether the device is there to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Online,
    Offline,
}

/// `P/status`, and the will.
pub(super) fn device(
    settings: &MqttSettings,
    epoch: u64,
    presence: Presence,
    state: &DeviceState,
    clock: Clock,
) -> v1::DeviceStatus {
    v1::DeviceStatus {
        online: presence == Presence::Online,
        epoch,
        boot_id: settings.boot_id.clone(),
        agent_version: settings.agent_version.clone(),
        architecture: settings.architecture.clone(),
        tags: settings.tags.clone(),
        troubles: state.troubles.iter().map(wire::trouble).collect(),
        updated_time: rfc3339(clock.wall()),
        public_key: settings.public_key.clone(),
    }
}

/// `P/hello`
pub(super) fn hello(settings: &MqttSettings, epoch: u64, state: &DeviceState) -> v1::Hello {
    let known = |generation: u64, digest: String| v1::KnownApp { generation, digest };
    v1::Hello {
        epoch,
        agent_version: settings.agent_version.clone(),
        architecture: settings.architecture.clone(),
        apps: state
            .apps
            .iter()
            .map(|(app, generation, digest)| {
                (app.to_string(), known(*generation, digest.to_string()))
            })
            .collect(),
    }
}

/// `P/apps/{app}/status`
pub(super) fn app(status: &AppStatus) -> Vec<u8> {
    json(&wire::app(status))
}

/// `P/jobs/{job}/status`
pub(super) fn job(status: &JobStatus) -> Vec<u8> {
    json(&wire::job(status))
}

/// `P/environments/{environment}/status`
pub(super) fn environment(status: &EnvironmentStatus) -> Vec<u8> {
    json(&wire::environment(status))
}

/// `P/events`
pub(super) fn event(event: &Event) -> Vec<u8> {
    json(&wire::event(event))
}

/// Anything of ours as JSON.
pub(super) fn json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages hold texts, numbers, lists and maps by text alone")
}
