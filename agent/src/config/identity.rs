//! Who a board is when nobody said: its host name, unless that is the name that every board of its kind comes with.
//!
//! Two boards with one id take each other's documents, and a broker lets only one of them stay connected. So a default name
//! gets an end that is the board's own: of its serial number, or where there is none, made of its machine id.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Names that images of systems come with. Numbers do not make them anyone's own: they are the kind of board.
const DEFAULT_NAMES: &[&str] = &[
    "alarm",
    "armbian",
    "bananapi",
    "beaglebone",
    "debian",
    "device",
    "dietpi",
    "localhost",
    "nanopi",
    "odroid",
    "openwrt",
    "orangepi",
    "qemuarm",
    "qemux86",
    "radxa",
    "raspberry",
    "raspberrypi",
    "raspbian",
    "ubuntu",
];

/// Characters of the end: 32 bits, which tell ten thousand boards apart with one chance in eighty of a pair.
const END_LEN: usize = 8;

/// The id of the board whose files lie below `root`.
pub(super) fn default_id(root: &Path, hostname: &str) -> String {
    let text = |path: &str| {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
    };
    chosen(hostname, &text("proc/device-tree/serial-number"), &text("etc/machine-id"))
}

/// The id, of what the board is called and has. What is not there is empty.
fn chosen(hostname: &str, serial: &str, machine_id: &str) -> String {
    let name = label(hostname);
    if !is_default(&name) {
        return name;
    }
    match own_end(serial, machine_id) {
        Some(end) => format!("{name}-{end}"),
        None => name,
    }
}

/// A host name as an id: its first label in lower case, what cannot stand in an id replaced.
fn label(hostname: &str) -> String {
    let label = hostname.split('.').next().unwrap_or_default().to_lowercase();
    let kept: String =
        label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    match kept.trim_matches('-') {
        "" => "device".to_owned(),
        id => id.to_owned(),
    }
}

/// `raspberrypi`, `raspberrypi4-64` and `orange-pi-5` are.
fn is_default(name: &str) -> bool {
    let letters: String = name.chars().filter(char::is_ascii_alphabetic).collect();
    DEFAULT_NAMES.contains(&letters.as_str())
}

/// What no other board has.
fn own_end(serial: &str, machine_id: &str) -> Option<String> {
    let serial: String =
        serial.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    // A serial number that nobody filled in.
    let real = END_LEN <= serial.len() && serial.chars().any(|c| c != '0');
    if real {
        return serial.get(serial.len() - END_LEN..).map(str::to_owned);
    }
    let is_id = machine_id.len() == 32 && machine_id.chars().all(|c| c.is_ascii_hexdigit());
    // The machine id itself is nobody's business on a network.
    is_id.then(|| {
        let made = Sha256::digest(format!("skerry device id\n{machine_id}"));
        hex::encode(made).chars().take(END_LEN).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: &str = "10000000A1B2C3D4";
    const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(hostname: &str, serial: &str, machine_id: &str, id: &str) {
        assert_eq!(chosen(hostname, serial, machine_id), id);
    }

    #[test]
    fn a_name_that_somebody_gave_is_the_id() {
        check("Greenhouse-7.lan", SERIAL, MACHINE_ID, "greenhouse-7");
        check("raspberrypi-kitchen", SERIAL, MACHINE_ID, "raspberrypi-kitchen");
        check("pi-1", SERIAL, MACHINE_ID, "pi-1");
        check("_odd_name_", SERIAL, MACHINE_ID, "odd-name");
    }

    #[test]
    fn a_name_that_every_board_has_gets_the_boards_own_end() {
        check("raspberrypi", SERIAL, MACHINE_ID, "raspberrypi-a1b2c3d4");
        check("raspberrypi4-64", SERIAL, MACHINE_ID, "raspberrypi4-64-a1b2c3d4");
        check("localhost.localdomain", SERIAL, "", "localhost-a1b2c3d4");
        check("", SERIAL, "", "device-a1b2c3d4");
        check("orangepi5", "", MACHINE_ID, "orangepi5-f1e25bf0");
        check("raspberrypi", "0000000000000000", MACHINE_ID, "raspberrypi-f1e25bf0");
    }

    #[test]
    fn where_there_is_nothing_of_its_own_the_name_has_to_do() {
        check("raspberrypi", "", "", "raspberrypi");
        check("raspberrypi", "0000", "uninitialized", "raspberrypi");
    }

    #[test]
    fn the_serial_number_of_a_device_tree_ends_with_a_nul() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("proc/device-tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("serial-number"), "10000000a1b2c3d4\0").unwrap();
        assert_eq!(default_id(root.path(), "raspberrypi"), "raspberrypi-a1b2c3d4");
    }
}
