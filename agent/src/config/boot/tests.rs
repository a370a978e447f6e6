//! A boot partition is a folder here.

use std::os::unix::fs::PermissionsExt as _;

use expect_test::{Expect, expect};

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n";
const WHOLE: &str = "[device]\nid = 'greenhouse-7'\ntags = { site = 'berlin' }\n[mqtt]\n\
                     url = 'mqtts://broker.example'\nca = 'ca.pem'\ncert = 'pi.pem'\nkey = 'pi.key'\n";
const NAMES_A_PASSWORD: &str =
    "[mqtt]\nurl = 'mqtt://10.0.0.1'\nusername = 'pi'\npassword_file = 'password.txt'\n";

/// A board with a boot partition.
struct Board(tempfile::TempDir);

impl Board {
    fn new() -> Self {
        let board = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(board.boot("")).unwrap();
        fs::create_dir_all(board.0.path().join("lib")).unwrap();
        board
    }

    fn boot(&self, name: &str) -> PathBuf {
        self.0.path().join("boot/firmware").join(name)
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.0.path().join("lib/boot").join(name)
    }

    fn put(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            fs::write(self.boot(name), text).unwrap();
        }
    }

    /// The configuration that the agent starts with, over an `agent.toml` of many boards.
    fn start(&self) -> Config {
        let lib = self.0.path().join("lib");
        let text = format!(
            "[mqtt]\nurl = 'mqtts://fleet.example'\nusername = 'all'\npassword_file = '/etc/p'\n\
             [state]\ndir = '{}'\n",
            lib.display()
        );
        let mut config = Config::parse(Path::new("agent.toml"), &text, "raspberrypi").unwrap();
        config.take_boot_file(&[self.boot(KEPT_NAME), self.0.path().join("boot/skerry.toml")]);
        config
    }

    /// What is wrong, with the board's folder left out.
    fn problem(&self, expected: &Expect) -> Config {
        let config = self.start();
        let text = config.boot_problem.clone().unwrap_or_default();
        expected.assert_eq(&text.replace(&self.0.path().display().to_string(), ""));
        config
    }
}

#[test]
fn what_the_file_says_goes_before_agent_toml_and_secrets_leave_the_partition() {
    let board = Board::new();
    board.put(&[(KEPT_NAME, WHOLE), ("ca.pem", PEM), ("pi.pem", PEM), ("pi.key", KEY)]);
    let config = board.start();
    assert_eq!(config.boot_problem, None);
    assert_eq!(config.device.id, "greenhouse-7");
    assert_eq!(config.device.tags["site"], "berlin");
    assert_eq!(config.mqtt.url, "mqtts://broker.example");
    // What is shown to the fleet's broker is not shown to this one.
    assert_eq!((config.mqtt.username.as_str(), config.mqtt.password_file.as_str()), ("", ""));
    assert_eq!(Path::new(&config.mqtt.key), board.kept("client.key"));
    assert_eq!(fs::read_to_string(board.kept("client.key")).unwrap(), KEY);
    for name in ["skerry.toml", "ca.pem", "client.pem", "client.key"] {
        let mode = fs::metadata(board.kept(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let left = fs::read_dir(board.boot("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [KEPT_NAME]);
}

#[test]
fn it_holds_from_then_on_with_the_file_and_without() {
    let board = Board::new();
    board.put(&[(KEPT_NAME, WHOLE), ("ca.pem", PEM), ("pi.pem", PEM), ("pi.key", KEY)]);
    let first = board.start();
    let written = fs::metadata(board.kept(KEPT_NAME)).unwrap().modified().unwrap();
    assert_eq!(board.start(), first);
    // The partition is not mounted.
    fs::remove_dir_all(board.0.path().join("boot")).unwrap();
    assert_eq!(board.start(), first);
    assert_eq!(fs::metadata(board.kept(KEPT_NAME)).unwrap().modified().unwrap(), written);
}

#[test]
fn another_file_takes_over_and_what_it_does_not_name_is_gone() {
    let board = Board::new();
    board.put(&[(KEPT_NAME, WHOLE), ("ca.pem", PEM), ("pi.pem", PEM), ("pi.key", KEY)]);
    board.start();
    board.put(&[(KEPT_NAME, NAMES_A_PASSWORD), ("password.txt", "secret")]);
    let config = board.start();
    assert_eq!(config.boot_problem, None);
    assert_eq!((config.device.id.as_str(), config.mqtt.cert.as_str()), ("raspberrypi", ""));
    assert_eq!(fs::read_to_string(&config.mqtt.password_file).unwrap(), "secret");
    assert!(!board.kept("client.key").exists() && !board.boot("password.txt").exists());
    // An empty one takes everything back.
    board.put(&[(KEPT_NAME, "")]);
    assert_eq!(board.start().mqtt.url, "mqtts://fleet.example");
    assert!(!board.kept("password").exists());
}

#[test]
fn the_older_place_counts_where_the_newer_has_none() {
    let board = Board::new();
    fs::write(board.0.path().join("boot/skerry.toml"), "[device]\nid = 'old-1'\n").unwrap();
    assert_eq!(board.start().device.id, "old-1");
    board.put(&[(KEPT_NAME, "\u{feff}[device]\r\nid = 'new-1'\r\n")]);
    assert_eq!(board.start().device.id, "new-1");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_says_why() {
    let board = Board::new();
    board.put(&[(KEPT_NAME, "[device]\nid = 'greenhouse-7'\n")]);
    board.start();
    board.put(&[(KEPT_NAME, "[device]\nid = 'greenhouse-8'\n[mqtt]\nurll = 'x'\n")]);
    let config = board.problem(&expect![[r#"/boot/firmware/skerry.toml is not usable: /boot/firmware/skerry.toml:4: unknown key "urll""#]]);
    assert_eq!(config.device.id, "greenhouse-7");
    board.put(&[(KEPT_NAME, "[device]\nid = 'Not An Id'\n")]);
    board.problem(&expect![[r#"/boot/firmware/skerry.toml is not usable: device.id "Not An Id" is not a host name label of 1 to 64 characters"#]]);
    board.put(&[(KEPT_NAME, "[mqtt]\nurl = 'mqtts://'\n")]);
    board.problem(&expect![[r#"/boot/firmware/skerry.toml is not usable: mqtt.url "mqtts://" is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"#]]);
    board.put(&[(KEPT_NAME, WHOLE), ("ca.pem", PEM), ("pi.pem", PEM)]);
    board.problem(&expect!["mqtt.key names /boot/firmware/pi.key, which is not there"]);
    board.put(&[("pi.key", "not a key")]);
    board.problem(&expect!["mqtt.key names /boot/firmware/pi.key, which holds no PEM block"]);
    // Nothing was moved while something was missing.
    assert!(board.boot("ca.pem").exists() && !board.kept("ca.pem").exists());
    board.put(&[(KEPT_NAME, "[mqtt]\nkey = '../../etc/shadow'\n")]);
    board.problem(&expect![[
        r#"mqtt.key "../../etc/shadow" is not the name of a file beside skerry.toml"#
    ]]);
    board.put(&[(KEPT_NAME, &"#".repeat(70_000))]);
    board.problem(&expect!["/boot/firmware/skerry.toml is larger than 65536 bytes"]);
    fs::remove_file(board.boot(KEPT_NAME)).unwrap();
    fs::create_dir(board.boot(KEPT_NAME)).unwrap();
    assert_eq!(
        board
            .problem(&expect![
                "cannot read /boot/firmware/skerry.toml: Is a directory (os error 21)"
            ])
            .device
            .id,
        "greenhouse-7"
    );
}

#[test]
fn without_any_agent_toml_holds() {
    let board = Board::new();
    let config = board.start();
    assert_eq!((config.boot_problem, config.device.id.as_str()), (None, "raspberrypi"));
    assert_eq!(config.mqtt.username, "all");
    assert!(!board.kept("").exists());
}
