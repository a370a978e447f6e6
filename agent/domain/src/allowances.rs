//! What the board's owner lets documents ask of the board: devices, capabilities, storages. Nothing, unless `agent.toml`
//! says so.

/// What `agent.toml` permits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowances {
    /// `[devices] allow`: patterns of paths.
    pub devices: Vec<String>,
    /// `[devices] capabilities`: names.
    pub capabilities: Vec<String>,
    /// `[storage] allow`, and the board's own folder for volumes: paths and devices.
    pub storages: Vec<String>,
}
