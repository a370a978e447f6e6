//! Each check's fault, planted in a board that is well, and seen.

mod answering;
mod faults;
mod planted;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use domain::model::WallTime;

use self::answering::{answering, broker, chrony_tracking, stranger};
use self::faults::FAULTS;
pub(super) use self::planted::{Planted, well};
use super::{Level, checks, examine, unread, within};

#[test]
fn each_fault_is_found_and_says_what_to_do() {
    for (check, level, plant) in FAULTS {
        let mut planted = well();
        plant(&mut planted);
        let verdict = planted.verdict(check);
        assert_eq!(verdict.level, *level, "{check}: {verdict:?}");
        assert!(!verdict.fix.is_empty() && !verdict.found.is_empty(), "{check}: {verdict:?}");
        assert!(!verdict.found.contains("secret"), "{check}: {verdict:?}");
    }
}

#[test]
fn every_check_has_a_fault_that_it_finds() {
    let names: Vec<_> = checks().map(|check| check.name).collect();
    let distinct: BTreeSet<_> = names.iter().copied().collect();
    assert_eq!(names.len(), distinct.len(), "two checks have one name");
    let planted: BTreeSet<_> = FAULTS.iter().map(|(check, ..)| *check).collect();
    assert_eq!(planted, distinct);
    assert!(30 <= names.len());
}

#[tokio::test]
async fn nothing_is_found_on_a_board_that_is_well() {
    let planted = well();
    let board = Arc::new(planted.board);
    let findings = examine(&board, checks().collect()).await;
    let wrong: Vec<_> = findings.iter().filter(|one| one.level != Level::Ok).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(findings.len(), checks().count());
    drop(planted.dir);
}

#[test]
fn a_timekeeper_that_follows_a_server_is_believed() {
    let mut planted = well();
    planted.remove("/run/systemd/timesync/synchronized");
    planted.write("/proc/77/comm", "chronyd\n");
    planted.board.asked.timekeepers.chrony = answering(chrony_tracking(0));
    let verdict = planted.verdict("clock-synchronised");
    assert_eq!((verdict.level, &*verdict.found), (Level::Ok, "by chronyd"));
    planted.write("/proc/77/comm", "ntpd\n");
    planted.board.asked.timekeepers.ntp = answering(vec![0b00_100_100; 48]);
    assert_eq!(planted.verdict("clock-synchronised").found, "by ntpd");
}

#[test]
fn a_certificate_is_judged_by_the_floor_of_a_clock_that_forgot() {
    let mut planted = well();
    planted.board.now = WallTime::default();
    assert_eq!(planted.verdict("broker-certificate").level, Level::Ok);
    assert_eq!(planted.verdict("clock-floor").level, Level::Fail);
}

#[test]
fn a_broker_that_lets_in_one_client_alone_is_no_fault() {
    let mut planted = well();
    planted.board.config.mqtt.url = format!("mqtt://{}", broker(0x87));
    let verdict = planted.verdict("broker-login");
    assert_eq!(verdict.level, Level::Ok, "{verdict:?}");
    assert!(verdict.found.starts_with("the agent is connected"), "{verdict:?}");
}

#[test]
fn a_broker_of_an_unknown_authority_is_told_as_such() {
    let mut planted = well();
    planted.board.config.mqtt.url = format!("mqtts://{}", stranger());
    let verdict = planted.verdict("broker-login");
    assert!(verdict.found.contains("UnknownIssuer"), "{verdict:?}");
    assert!(verdict.fix.contains("set [mqtt] ca"), "{verdict:?}");
}

#[test]
fn what_only_root_may_read_is_no_fault() {
    let denied = unread("/etc/skerry/password", &ErrorKind::PermissionDenied.into(), "write it");
    assert_eq!((denied.level, &*denied.fix), (Level::Warn, "run it as root"));
    let missing = unread("/etc/skerry/password", &ErrorKind::NotFound.into(), "write it");
    assert_eq!((missing.level, &*missing.fix), (Level::Fail, "write it"));
}

#[tokio::test]
async fn checks_that_hang_share_one_deadline_and_say_what_hangs() {
    let mut planted = well();
    // Whoever opens a pipe that nobody writes to waits.
    let pipes = ["/etc/skerry/ca.pem", "/etc/skerry/cert.pem", "/proc/swaps"];
    for pipe in pipes {
        planted.remove(pipe);
        nix::unistd::mkfifo(&planted.board.place(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    planted.board.config.mqtt.password_file.clear();
    let board = Arc::new(planted.board);
    let patience = Duration::from_secs(2);
    let began = tokio::time::Instant::now();
    let findings = within(&board, checks().collect(), patience).await;
    let took = began.elapsed();
    // Those that still wait go on when somebody has written.
    for pipe in pipes {
        fs::write(board.place(pipe), "").unwrap();
    }
    let hung = findings.iter().filter(|one| one.found == "no answer within 2 seconds");
    let hung: Vec<_> = hung.map(|one| (one.check, one.fix.split(':').next().unwrap())).collect();
    let files = "see whether the broker's name is found and its files are plain files";
    let expected = [
        ("swap", "see what the kernel waits for"),
        ("broker-certificate", files),
        ("broker-authorities", files),
        ("broker-identity", files),
    ];
    assert_eq!(hung, expected);
    assert!(took < patience * 2, "{took:?}");
    drop(planted.dir);
}

#[test]
fn a_port_of_the_agent_itself_is_no_fault() {
    let planted = well();
    planted.listener("tcp", "00000000", 80, "0A", "skerry");
    assert_eq!(planted.verdict("port-http").level, Level::Ok);
}

#[test]
fn every_field_of_a_finding_is_always_there() {
    let finding = super::Finding {
        check: "power",
        topic: super::Topic::ControlPlane,
        level: Level::Ok,
        found: String::new(),
        fix: String::new(),
    };
    let json = serde_json::to_string(&finding).unwrap();
    let expected = r#"{"check":"power","topic":"controlPlane","level":"ok","found":"","fix":""}"#;
    assert_eq!(json, expected);
}

#[test]
fn the_page_lists_every_check() {
    let mut page = String::from(
        "# The doctor\n\n\
         ```sh\nskerry doctor\nskerry doctor -o json\nskerry doctor --only broker-login\nskerry doctor --bundle pi-1.tar.gz\n```\n\n\
         It looks at the board and needs no agent. Each check is `ok`, `warn` (apps run, and something is missing) or `fail` \
         (what\ndocuments ask for cannot work), with something to type where it is not `ok`. Exit code 1 where a check fails, \
         else 0. It\nchanges nothing, and ends within seconds: a check that hangs is a finding. Some things are for root to \
         see; those\nchecks say so. `-o json` is a list with `check`, `topic`, `level`, `found` and `fix`, always all \
         five.\n\n\
         `--bundle` writes an archive for whoever helps: the findings, the configuration, what the agent says of its apps \
         and events,\nits latest log as far as it lies in a file, and what the kernel says of mounts, memory, cgroups, \
         sockets and nftables. No key,\npassword file or document is in it. Whatever those and the configurations of \
         containerd tell as a secret is taken out of the\nrest, as plain text, base64, hex and percent-encoded, and so is \
         whatever looks like a password or a token. Secrets that\nwere given by `skerry secret set` or by MQTT lie sealed \
         and are not known here: look into the archive before you pass it on.\n\n\
         The date of a board without a battery is not believed below its floor: when the agent was built, or the last time \
         that it\nstored anything. Brokers' certificates are judged by the later of that and the clock; a registry's by \
         the clock alone, so\n`clock-floor` is worth mending.\n\n\
         This page is made by `UPDATE_EXPECT=1 cargo test --package skerry --lib doctor::`.\n\n\
         | about | check | what to do, as for the usual fault |\n|---|---|---|\n",
    );
    for check in checks() {
        let (.., plant) = FAULTS.iter().find(|(name, ..)| *name == check.name).unwrap();
        let mut planted = well();
        plant(&mut planted);
        let fix = planted.verdict(check.name).fix.replace('|', "\\|");
        let topic = check.topic.to_string();
        page.extend(["| ", &topic, " | `", check.name, "` | ", &fix, " |\n"]);
    }
    expect_test::expect_file!["../../../docs/guide/doctor.md"].assert_eq(&page);
}
