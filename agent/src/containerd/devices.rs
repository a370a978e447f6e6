//! Devices of the board in a container: the node, the leave to use it, and the group that may.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use domain::document::Device;
use domain::reason::Reason;
use domain::replica::Trouble;
use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

/// What a specification says of devices.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Nodes {
    /// The nodes to make.
    pub(super) listed: Vec<Value>,
    /// The rules that allow what is otherwise denied.
    pub(super) rules: Vec<Value>,
    /// The groups that the nodes belong to on the board, so that a user other than root may use them.
    pub(super) groups: BTreeSet<u32>,
}

/// Looks at the devices as they are now: one that was plugged in again may have another number.
pub(super) fn look(devices: &[Device]) -> Result<Nodes, Trouble> {
    let mut found = Nodes::default();
    for device in devices {
        let seen = fs::metadata(&device.host_path).map_err(|error| missing(device, &error))?;
        let Some(kind) = kind(&seen) else {
            return Err(trouble(format!("{} is no device", device.host_path)));
        };
        let (major, minor) = (major(seen.rdev()), minor(seen.rdev()));
        found.listed.push(json!({
            "path": device.container_path, "type": kind, "major": major, "minor": minor,
            "fileMode": seen.mode() & 0o777, "uid": seen.uid(), "gid": seen.gid(),
        }));
        found.rules.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor,
            "access": device.permissions,
        }));
        // Root's own group would open more than this device.
        if seen.gid() != 0 {
            found.groups.insert(seen.gid());
        }
    }
    Ok(found)
}

fn kind(seen: &Metadata) -> Option<&'static str> {
    let kind = seen.file_type();
    match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => Some("c"),
        (_, true) => Some("b"),
        (false, false) => None,
    }
}

fn missing(device: &Device, error: &io::Error) -> Trouble {
    if error.kind() == io::ErrorKind::NotFound {
        return trouble(format!("{} is not there", device.host_path));
    }
    trouble(format!("{}: {error}", device.host_path))
}

fn trouble(details: String) -> Trouble {
    Trouble { reason: Reason::DeviceMissing, details }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str) -> Device {
        Device {
            host_path: path.to_owned(),
            container_path: "/dev/mine".to_owned(),
            permissions: "r".to_owned(),
        }
    }

    #[test]
    fn a_device_is_what_its_node_says() {
        let found = look(&[device("/dev/null")]).unwrap();
        let node = &found.listed[0];
        assert_eq!(node["path"], "/dev/mine");
        assert_eq!((&node["type"], &node["major"]), (&json!("c"), &json!(1)));
        let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"});
        assert_eq!(found.rules, [rule]);
        assert_eq!(found.groups, BTreeSet::new());
    }

    #[test]
    fn what_is_not_there_and_what_is_no_device_is_told() {
        let refused = look(&[device("/dev/null"), device("/dev/no-such-device")]).unwrap_err();
        assert_eq!(refused.reason, Reason::DeviceMissing);
        assert_eq!(refused.details, "/dev/no-such-device is not there");
        assert_eq!(look(&[device("/etc/passwd")]).unwrap_err().details, "/etc/passwd is no device");
    }
}
