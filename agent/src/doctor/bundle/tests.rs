//! Secrets planted wherever a board has any, and looked for in all of the archive, in every shape they are written in.

use std::fmt::Write as _;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use flate2::read::GzDecoder;

use super::wipe::{Wiper, decoded};
use super::{Piece, pack};
use crate::doctor::tests::{Planted, well};

/// Secrets, one of each place. Characters that JSON, base64 and URLs write in another way are among them.
const PASSWORD: &str = "p&ss w\"rd/ä+1";
const URL_PASSWORD: &str = "mqtt-Url%Pass7";
const SECRET: &str = "Endpoint=sb://x;Key=abc+/def==";
const VARIABLE: &str = "variable-value-77";
const REGISTRY: &str = "reg-Passw0rd!";
const AUTH: &str = "auth-passw0rd:2";
const LOGGED: &str = "logged-0nly-once";
const DROPPED: &str = "proxy-s3cret-word";
const SHORT: &str = "q7";
const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27u";
const GITHUB: &str = "ghp_16C7e42F292c6912E7710c838347Ae178B4a";
const BEARER: &str = "0pAqueBearerT0ken";

fn encoded(text: &str) -> String {
    percent(text, |_| false)
}

/// As `encodeURI` does it: what has a meaning in a URL stays.
fn half_encoded(text: &str) -> String {
    percent(text, |byte| byte.is_ascii_alphanumeric() || b"-_.!~*'();/?:@&=+$,#".contains(&byte))
}

fn percent(text: &str, keep: fn(u8) -> bool) -> String {
    let one = |byte: u8| {
        if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(one).collect()
}

/// A text that has a secret in it, in many shapes.
fn shapes(secret: &str) -> String {
    let mut text = format!("plain {secret} end\njson {}\n", serde_json::to_string(secret).unwrap());
    let (all, half) = (encoded(secret), half_encoded(secret));
    writeln!(text, "percent http://x/?q={all}&b=1 and {half}").unwrap();
    for around in ["", "a", "ab", "user:"] {
        let bytes = format!("{around}{secret}{around}");
        let (one, other) = (STANDARD.encode(&bytes), URL_SAFE.encode(&bytes));
        writeln!(text, "base64 {one} {other}").unwrap();
    }
    text + &format!("hex {}\n", hex::encode(secret))
}

/// A board with secrets everywhere; and them.
fn planted() -> (Planted, Vec<String>) {
    let mut planted = well();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let own = [7_u8, 200, 31, 90].repeat(8);
    planted.board.config.mqtt.url = format!("mqtts://dave:{URL_PASSWORD}@broker.example");
    planted.write("/etc/skerry/password", &format!("{PASSWORD}\n"));
    planted.write("/etc/skerry/key.pem", &key);
    std::fs::create_dir_all(planted.board.place("/var/lib/skerry")).unwrap();
    std::fs::write(planted.board.place("/var/lib/skerry/device.key"), &own).unwrap();
    planted.write(
        "/etc/skerry/agent.toml",
        &format!(
            "[mqtt]\nurl = \"mqtts://dave:{URL_PASSWORD}@broker.example\"\npassword_file = \"/etc/skerry/password\"\n\
             [images.mirrors]\n\"docker.io\" = [\"https://me:{AUTH}@mirror.example\"]\n"
        ),
    );
    let quoted = serde_json::to_string(SECRET).unwrap();
    planted.write(
        "/etc/skerry/apps.d/hello.yaml",
        &format!(
            "name: hello\nproperties:\n  configuration:\n    secrets:\n      - name: bus\n        value: {quoted}\n      - name: pin\n        value: {SHORT}\n\
             \n  template:\n    containers:\n      - name: main\n        env:\n          - name: PLAIN\n            value: {VARIABLE}\n"
        ),
    );
    planted.write(
        "/etc/containerd/config.toml",
        &format!(
            "version = 2\n[plugins.cri.registry.configs.\"r.example\".auth]\nusername = \"u\"\npassword = \"{REGISTRY}\"\nauth = \"{}\"\n",
            STANDARD.encode(format!("u:{AUTH}"))
        ),
    );
    planted.write(
        "/etc/systemd/system/skerry.service.d/proxy.conf",
        &format!("[Service]\nEnvironment=\"HTTPS_PROXY=http://u:{DROPPED}@proxy:1\" A={DROPPED}\n"),
    );
    let mut log = format!(
        "Jun  1 00:00:01 pi skerry[1]: INFO skerry starts\n\
         Jun  1 00:00:02 pi skerry[1]: WARN pull failed url=https://u:{LOGGED}@r.example/v2/ token={GITHUB} Authorization: Bearer {BEARER}\n\
         Jun  1 00:00:03 pi skerry[1]: WARN \"{{\\\"identitytoken\\\":\\\"{LOGGED}\\\"}}\" and {JWT}\n"
    );
    let secrets = vec![
        PASSWORD,
        URL_PASSWORD,
        SECRET,
        VARIABLE,
        REGISTRY,
        AUTH,
        LOGGED,
        DROPPED,
        JWT,
        GITHUB,
        BEARER,
    ];
    let mut secrets: Vec<String> = secrets.into_iter().map(str::to_owned).collect();
    secrets.extend(key.lines().filter(|line| !line.contains("-----")).map(str::to_owned));
    secrets.push(STANDARD.encode(&own));
    for secret in [PASSWORD, URL_PASSWORD, SECRET, VARIABLE, REGISTRY, AUTH] {
        let lines = shapes(secret);
        log.extend(lines.lines().map(|line| format!("Jun  1 00:00:04 pi skerry[1]: {line}\n")));
    }
    log.extend(key.lines().map(|line| format!("Jun  1 00:00:05 pi skerry[1]: {line}\n")));
    writeln!(log, "Jun  1 00:00:06 pi skerry[1]: {}", STANDARD.encode(&own)).unwrap();
    log += "Jun  1 00:00:07 pi skerry[1]: INFO the last line\nJun  1 00:00:08 pi sshd[2]: nothing of ours\n";
    planted.write("/var/log/syslog", &log);
    planted
        .write("/proc/cmdline", &format!("console=tty1 root=/dev/mmcblk0p2 wifi.psk={LOGGED}\n"));
    (planted, secrets)
}

/// Every file of an archive, with its name.
fn unpacked(bytes: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    entries.collect()
}

fn told() -> Vec<Piece> {
    let app = serde_json::json!({
        "name": "hello",
        "reason": format!("the app said {SECRET}, and its pin is {SHORT}"),
        "environment": { "password": LOGGED, "other": "kept" },
    });
    vec![Piece::new("agent/apps.json", serde_json::to_string_pretty(&app).unwrap())]
}

#[test]
fn no_secret_is_in_the_bundle_in_any_shape() {
    let (planted, secrets) = planted();
    let config = std::path::Path::new("/etc/skerry/agent.toml");
    let bundle = pack(&planted.board, config, &[], told()).unwrap();
    let files = unpacked(&bundle.bytes);
    assert_eq!(files.len(), bundle.files);
    for (name, text) in &files {
        let plain = decoded(text);
        let spaced = plain.replace('+', " ");
        for secret in &secrets {
            for (shape, hay) in [("plain", text), ("percent", &plain), ("form", &spaced)] {
                assert!(!hay.contains(secret.as_str()), "{name} has {secret}, {shape}:\n{text}");
            }
            let quoted = serde_json::to_string(secret).unwrap();
            assert!(!text.contains(quoted.trim_matches('"')), "{name} has {secret} in JSON");
            assert!(!text.contains(&hex::encode(secret)), "{name} has {secret} in hex");
        }
        // Whatever is base64 is looked into.
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/-_=".contains(c)) {
            let word = word.trim_end_matches('=').replace('-', "+").replace('_', "/");
            for from in 0..word.len().min(4) {
                let (part, lenient) =
                    (&word[from..], base64::engine::general_purpose::STANDARD_NO_PAD);
                let part = &part[..part.len() - part.len() % 4];
                let Ok(bytes) = lenient.decode(part) else { continue };
                let inside = String::from_utf8_lossy(&bytes).into_owned();
                let found = secrets.iter().find(|secret| inside.contains(secret.as_str()));
                assert!(found.is_none(), "{name} has {found:?} in {word}");
            }
        }
        assert!(!text.contains("PRIVATE KEY"), "{name}: {text}");
    }
}

#[test]
fn what_a_supporter_needs_is_in_the_bundle() {
    let (planted, _) = planted();
    let config = std::path::Path::new("/etc/skerry/agent.toml");
    let files = unpacked(&pack(&planted.board, config, &[], told()).unwrap().bytes);
    let text = |name: &str| {
        let name = format!("skerry-doctor/{name}");
        let found = files.iter().find(|(there, _)| *there == name);
        &found.unwrap_or_else(|| panic!("{name} is not in {:?}", files.iter().map(|f| &f.0))).1
    };
    assert!(
        text("agent.toml").contains("url = \"mqtts://***@broker.example\""),
        "{}",
        text("agent.toml")
    );
    assert!(text("agent.toml").contains("password_file = \"/etc/skerry/password\""));
    assert!(text("etc/containerd/config.toml").contains("username = \"u\"\npassword = \"***\""));
    let drop = text("etc/systemd/system/skerry.service.d/proxy.conf");
    assert_eq!(drop, "[Service]\nEnvironment=HTTPS_PROXY=*** A=***\n");
    let log = text("agent.log");
    assert!(log.contains("INFO skerry starts\n") && log.contains("INFO the last line\n"), "{log}");
    assert!(!log.contains("nothing of ours"), "{log}");
    assert!(text("agent/apps.json").contains("\"other\": \"kept\""));
    assert!(
        text("agent/apps.json").contains("and its pin is ***\""),
        "{}",
        text("agent/apps.json")
    );
    assert!(text("proc/cmdline").starts_with("console=tty1 root=/dev/mmcblk0p2"));
    assert!(text("nft.txt").contains("table inet skerry"));
    assert!(text("version.txt").contains(env!("CARGO_PKG_VERSION")));
    assert!(text("state.txt").contains("/var/lib/skerry/device.key"));
    serde_json::from_str::<serde_json::Value>(text("doctor.json")).unwrap();
}

#[test]
fn the_journal_is_read_in_both_of_its_layouts() {
    for packed in [
        &include_bytes!("../../../fixtures/journal.gz")[..],
        include_bytes!("../../../fixtures/journal-compact.gz"),
    ] {
        let planted = well();
        let path =
            planted.board.place("/run/log/journal/0123456789abcdef0123456789abcdef/system.journal");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut journal = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut journal).unwrap();
        std::fs::write(&path, &journal).unwrap();
        let expected = "2026-06-01T00:00:02Z INFO skerry starts version=\"0.1.0\"\n\
                        2026-06-01T00:00:04Z WARN no connection to the broker; password=hunter2\n\
                        2026-06-01T00:00:05Z INFO the first round is complete\n";
        assert_eq!(super::journal::recent(&planted.board), expected);
        // One that a power cut left, or that is something else, breaks nothing.
        for length in [0, 8, 100, 143, 300, 3_730_000, 3_736_000] {
            std::fs::write(&path, &journal[..length]).unwrap();
            super::journal::recent(&planted.board);
        }
        journal[272..280].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&path, &journal).unwrap();
        assert!(super::journal::recent(&planted.board).starts_with("no file"));
    }
}

#[track_caller]
fn check(line: &str, expected: &str) {
    assert_eq!(Wiper::default().wipe(line), expected);
}

#[test]
fn what_looks_like_a_secret_is_taken_out() {
    check("url=https://u:p@host/x", "url=https://***@host/x");
    check("mqtts://dave:pa/ss@host", "mqtts://***@host");
    check("docker://reg.example:5000/a@sha256:12", "docker://reg.example:5000/a@sha256:12");
    check("http://[::1]:80/a@b", "http://[::1]:80/a@b");
    check("{\"password\":\"a\\\"b\",\"x\":1}", "{\"password\":\"***\",\"x\":1}");
    check(
        "\"{\\\"token\\\":\\\"abc\\\",\\\"x\\\":1}\"",
        "\"{\\\"token\\\":\\\"***\\\",\\\"x\\\":1}\"",
    );
    check("{\"password\":\"\",\"user\":\"x\"}", "{\"password\":\"\",\"user\":\"x\"}");
    check("MY_SECRET=abc next", "MY_SECRET=*** next");
    check("secretRef: bus", "secretRef: bus");
    check("password_file = \"/etc/x\"", "password_file = \"/etc/x\"");
    check("\"secrets\": [\"a\"]", "\"secrets\": [\"a\"]");
    check("Authorization: Basic dTpw more", "Authorization: ***");
    check("sent Bearer abcdefgh now", "sent Bearer *** now");
    check("a -----BEGIN EC PRIVATE KEY-----\nAAA\n-----END EC PRIVATE KEY----- b", "a *** b");
    check("a -----BEGIN PRIVATE KEY-----\nAAA", "a ***");
    check("-----BEGIN CERTIFICATE-----\nAAA\n", "-----BEGIN CERTIFICATE-----\nAAA\n");
    check("INFO round n=1 wake=timer", "INFO round n=1 wake=timer");
}

#[test]
fn a_short_secret_takes_no_other_word_apart() {
    let wiper = Wiper::new(["on".to_owned()]);
    assert_eq!(wiper.wipe("turned on, connection on"), "turned ***, connection ***");
}
