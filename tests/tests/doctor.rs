//! The doctor on a board that runs: all is well, and what is wrong is found. Needs root, containerd and mosquitto.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::{Access, Board, Broker, LONG, Lan, eventually, output, run};

/// What machines of tests differ in: their kernel, memory and disks, and who sets their clock.
const MACHINE: &[&str] = &["kernel", "memory", "storage"];
const OTHERS: &[&str] =
    &["clock-synchronised", "firewalls", "device-id", "machine-id", "time-zones"];

/// Runs the doctor on the board: every finding, whatever the exit code.
fn doctor(board: &Board, only: &[&str]) -> Result<Vec<Value>> {
    let mut command = doctor_command(board);
    command.args(["-o", "json"]);
    for check in only {
        command.args(["--only", check]);
    }
    let outcome = output(&mut command)?;
    let said = String::from_utf8_lossy(&outcome.stderr);
    let findings: Vec<Value> =
        serde_json::from_slice(&outcome.stdout).context(said.into_owned())?;
    let failed = findings.iter().any(|finding| finding["level"] == "fail");
    ensure!(outcome.status.success() != failed, "{findings:#?} with {}", outcome.status);
    Ok(findings)
}

fn doctor_command(board: &Board) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", board.lan().netns().display()))
        .arg(board.binary())
        .arg("--socket")
        .arg(board.dir().join("run/agent.sock"))
        .arg("doctor")
        .arg("--config")
        .arg(board.dir().join("agent.toml"));
    command
}

/// The finding of one check.
fn finding(board: &Board, check: &str) -> Result<Value> {
    doctor(board, &[check])?.into_iter().next().context("no finding")
}

/// A name server on the test's end of the cable, until this goes.
struct Names {
    address: SocketAddr,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Names {
    fn drop(&mut self) {
        // An empty question is the last one.
        let sent = UdpSocket::bind((self.address.ip(), 0))
            .and_then(|socket| socket.send_to(&[], self.address));
        if let (Ok(_), Some(thread)) = (sent, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn serve_names(lan: &Lan) -> Result<Names> {
    let socket = UdpSocket::bind((lan.host(), 53))?;
    let address = socket.local_addr()?;
    let thread = thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if length == 0 {
                break;
            }
            let mut answer = question[..length].to_vec();
            if let Some(flags) = answer.get_mut(2..4) {
                flags.copy_from_slice(&[0x81, 0x80]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(Names { address, thread: Some(thread) })
}

/// A board that is well, with a broker, before the agent starts.
fn board(access: Access) -> Result<(Board, Broker, Names)> {
    let lan = Lan::take()?;
    let broker = Broker::start(&lan, access)?;
    let names = serve_names(&lan)?;
    let servers = format!("[\"{}\"]", lan.host());
    let mut board = Board::new(lan)?;
    board.settings().broker(&broker).set("network", "upstream_dns", servers);
    board.start_containerd()?;
    Ok((board, broker, names))
}

#[test]
fn a_board_that_is_well_is_told_so() -> Result<()> {
    let (mut board, broker, _names) = board(Access::Certificate)?;
    fs::set_permissions(broker.certificates().key, fs::Permissions::from_mode(0o600))?;
    board.start()?;
    let findings = eventually("a board without faults", LONG, || {
        let findings = doctor(&board, &[])?;
        let is_ours = |finding: &&Value| {
            let is = |key: &str, list: &[&str]| list.iter().any(|word| finding[key] == *word);
            !is("topic", MACHINE) && !is("check", OTHERS)
        };
        let wrong: Vec<_> = findings
            .iter()
            .filter(is_ours)
            .filter(|finding| finding["level"] != "ok")
            .map(ToString::to_string)
            .collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(findings)
    })?;
    ensure!(30 <= findings.len(), "{} checks", findings.len());
    let epoch = findings.iter().find(|finding| finding["check"] == "agent-broker");
    ensure!(epoch.is_some_and(|one| one["found"] == "connected, epoch 1"), "{epoch:?}");
    Ok(())
}

#[test]
fn a_wrong_password_is_found_and_the_right_one_too() -> Result<()> {
    let (mut board, _broker, _names) = board(Access::Password)?;
    let file = board.dir().join("password");
    fs::write(&file, "wrong\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let path = format!("{:?}", file.display().to_string());
    board.settings().set("mqtt", "username", "\"user\"").set("mqtt", "password_file", path);
    board.start()?;
    let found = finding(&board, "broker-login")?;
    assert_eq!(found["level"], "fail", "{found}");
    let fix = found["fix"].as_str().unwrap_or_default();
    ensure!(fix.contains(&file.display().to_string()), "{found}");
    fs::write(&file, "secret\n")?;
    let found = finding(&board, "broker-login")?;
    assert_eq!(found["level"], "ok", "{found}");
    Ok(())
}

#[test]
fn an_agent_that_hangs_or_is_gone_is_found_by_its_round() -> Result<()> {
    let (mut board, _broker, _names) = board(Access::Anonymous)?;
    board.start()?;
    assert_eq!(finding(&board, "agent-round")?["level"], "ok");
    board.agent()?.signal(Signal::SIGSTOP)?;
    let found = finding(&board, "agent-round");
    board.agent()?.signal(Signal::SIGCONT)?;
    let found = found?;
    assert_eq!(
        (&found["level"], &found["found"]),
        (&"fail".into(), &"the agent does not answer".into())
    );
    board.stop_agent()?;
    let found = finding(&board, "agent-round")?;
    assert_eq!(found["level"], "warn", "{found}");
    assert_eq!(finding(&board, "agent-socket")?["level"], "warn");
    Ok(())
}

#[test]
fn a_chain_of_another_that_drops_what_apps_send_is_found() -> Result<()> {
    let (board, _broker, _names) = board(Access::Anonymous)?;
    fs::write(board.dir().join("agent.toml"), "")?;
    assert_eq!(finding(&board, "forward-chains")?["level"], "ok");
    board.run("nft", ["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"])?;
    let found = finding(&board, "forward-chains")?;
    assert_eq!(found["level"], "fail", "{found}");
    // What it says to type mends it.
    let fix = found["fix"].as_str().unwrap_or_default();
    for command in fix.split("; ").filter(|command| command.starts_with("nft ")) {
        board.run("sh", ["-c", command])?;
    }
    assert_eq!(finding(&board, "forward-chains")?["level"], "ok");
    Ok(())
}

#[test]
fn a_bundle_has_the_statuses_and_no_password_and_is_never_written_over() -> Result<()> {
    let (mut board, _broker, _names) = board(Access::Password)?;
    let file = board.dir().join("password");
    fs::write(&file, "wrong-but-not-to-be-told\n")?;
    let path = format!("{:?}", file.display().to_string());
    board.settings().set("mqtt", "username", "\"user\"").set("mqtt", "password_file", path);
    board.start()?;
    let bundle = board.dir().join("bundle.tar.gz");
    let pack = || output(doctor_command(&board).arg("--bundle").arg(&bundle));
    let outcome = pack()?;
    ensure!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(fs::metadata(&bundle)?.permissions().mode() & 0o777, 0o600);
    let packed = bundle.display().to_string();
    let names = run("tar", ["tzf", &packed])?;
    for name in [
        "doctor.json",
        "agent.toml",
        "agent/device.json",
        "agent/apps.json",
        "nft.txt",
        "proc/mounts",
    ] {
        ensure!(
            names.lines().any(|line| line == format!("skerry-doctor/{name}")),
            "{name}: {names}"
        );
    }
    let all = run("tar", ["xzOf", &packed])?;
    ensure!(all.contains(&board.device()) && !all.contains("not-to-be-told"), "{all}");
    let again = pack()?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(!again.status.success() && said.contains("hint: give another name"), "{said}");
    ensure!(Path::new(&bundle).exists());
    Ok(())
}

#[test]
fn a_check_that_is_mistyped_is_told_with_the_nearest() -> Result<()> {
    let board = Board::new(Lan::take()?)?;
    let outcome = output(doctor_command(&board).args(["--only", "broker-logim"]))?;
    let said = String::from_utf8_lossy(&outcome.stderr);
    ensure!(said.contains("hint: did you mean broker-login?"), "{said}");
    Ok(())
}
