//! What a person reads when `agent.toml` is wrong.

use std::path::Path;

use expect_test::{Expect, expect};

use super::*;
use crate::report::Report;

#[track_caller]
fn refused(text: &str, expected: &Expect) {
    let error = Config::parse(Path::new("agent.toml"), text, "pi-1").unwrap_err();
    expected.assert_eq(&Report(&error).to_string());
}

#[test]
fn nothing_at_all_is_a_valid_configuration() {
    let config = Config::parse(Path::new("agent.toml"), "", "pi-1").unwrap();
    assert_eq!(config.device.id, "pi-1");
    assert_eq!(config.socket(), Path::new("/run/skerry/agent.sock"));
    let environment = domain::model::EnvironmentName::default();
    assert_eq!(config.suffix(&environment), "default.pi-1.internal");
}

#[test]
fn the_example_says_what_holds_without_it() {
    let example = include_str!("../../../systemd/agent.toml.example");
    let config = Config::parse(Path::new("agent.toml"), example, "pi-1").unwrap();
    assert_eq!(config, Config::parse(Path::new("agent.toml"), "", "pi-1").unwrap());
    // Every key is in it: the debug text of a configuration names them all.
    let text = format!("{config:#?}");
    let keys = text.lines().filter_map(|line| line.trim().split_once(": ")).map(|(key, _)| key);
    let keys: Vec<&str> = keys
        .filter(|key| key.chars().all(|c| c.is_lowercase() || c == '_') && *key != "boot_problem")
        .collect();
    assert!(30 < keys.len(), "{keys:?}");
    for key in keys {
        let line = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{key} =")) || line == format!("[{key}]")
        };
        assert!(example.lines().any(line), "the example lacks {key}");
    }
}

#[test]
fn files_may_be_named_as_credentials_of_the_unit() {
    let text =
        "[mqtt]\npassword_file = '%d/mqtt-password'\nca = '/etc/ca.pem'\n[images]\nca = '%d/ca'";
    let mut config = Config::parse(Path::new("agent.toml"), text, "pi-1").unwrap();
    config.find_credentials(Path::new("/run/credentials/skerry.service"));
    assert_eq!(config.mqtt.password_file, "/run/credentials/skerry.service/mqtt-password");
    assert_eq!(config.images.ca, "/run/credentials/skerry.service/ca");
    assert_eq!((config.mqtt.ca.as_str(), config.mqtt.key.as_str()), ("/etc/ca.pem", ""));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    refused(
        "[mqtt]\nurl = \"\"\nkeepalive_seconds = 5",
        &expect![[r#"
        error: agent.toml:3: unknown key "keepalive_seconds"
        hint: did you mean "keep_alive_seconds"?"#]],
    );
    refused(
        "[mqqt]",
        &expect![[r#"
        error: agent.toml:1: unknown key "mqqt"
        hint: did you mean "mqtt"?"#]],
    );
}

#[test]
fn bad_toml_names_the_line() {
    let error = Config::parse(Path::new("agent.toml"), "[device]\nid = \n", "pi-1").unwrap_err();
    assert!(error.to_string().starts_with("agent.toml:2: "), "{error}");
}

#[test]
fn values_are_checked() {
    refused(
        "[device]\nid = \"Pi 1\"",
        &expect![[r#"
        error: device.id "Pi 1" is not a host name label of 1 to 64 characters
        hint: use a-z, 0-9 and dashes"#]],
    );
    refused(
        "[mqtt]\nurl = \"broker:1883\"",
        &expect![[r#"
        error: mqtt.url "broker:1883" is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]
        hint: write mqtts://broker.example:8883"#]],
    );
    refused(
        "[images]\nmax_concurrent_layers = 0",
        &expect![[r#"
        error: images.max_concurrent_layers 0 is not between 1 and 16
        hint: the default is 2"#]],
    );
    refused(
        "[images]\ngc_low_percent = 85",
        &expect![[r#"
        error: images.gc_high_percent 85 and images.gc_low_percent 85 are not from 1 to 99 with the low one below the high one
        hint: the defaults are 85 and 75"#]],
    );
    refused(
        "[network]\nallow_host = [\"1883\"]",
        &expect![[r#"
        error: agent.toml:2: "1883" is not a service such as "tcp/1883" or "udp/123""#]],
    );
}
