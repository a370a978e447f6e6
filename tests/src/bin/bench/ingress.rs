//! What the ingress costs beside nginx, both before the same replica, on connections that stay open.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use system_tests::{Board, Client, Document, Process, SHORT, eventually, output};

use crate::idle::ticks;
use crate::sample::Sample;
use crate::table::Table;
use crate::{IMAGE, stage};

/// Rounds; the two take turns in each.
const ROUNDS: usize = 5;
/// Connections that are open at once.
const CLIENTS: [u32; 2] = [32, 256];
/// How long one of them is driven.
const DRIVEN: &str = "4s";
/// nginx listens here.
const PORT: u16 = 18081;
/// What the kernel counts a process's time in: `USER_HZ` is this on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let mut stage = stage()?;
    // All of a core: the replica must not be what is measured.
    let app = Document::new(IMAGE).main("/resources/cpu", 2.0);
    stage.control.desire("web", app.main("/resources/memory", "4Gi"))?;
    stage.control.await_running("web")?;
    let replica = address(&stage.board)?;
    let nginx = nginx(&stage.board, replica)?;
    let worker = children(nginx.pid())?.first().copied().context("nginx has no worker")?;
    let agent = stage.board.agent()?.pid();
    let here = stage.board.lan().board();
    for clients in CLIENTS {
        let (mut ours, mut theirs) = (Run::default(), Run::default());
        for _ in 0..ROUNDS {
            ours.drive(SocketAddr::from((here, 80)), clients, agent)?;
            theirs.drive(SocketAddr::from((here, PORT)), clients, worker)?;
        }
        let what = |words: &str| format!("ingress, {clients} clients: {words}");
        table.row(&what("requests/s"), format!("{:.0}", ours.rate.median()), "");
        table.row("  nginx, 1 worker", format!("{:.0}", theirs.rate.median()), "");
        table.row(&what("CPU s per 100k"), format!("{:.2}", ours.cpu.median()), "");
        table.row("  nginx, 1 worker", format!("{:.2}", theirs.cpu.median()), "");
        table.row("  over nginx", ours.cpu.over(&theirs.cpu).ratio(), "≤ 1");
        table.row(&what("p99"), format!("{:.2} ms", ours.late.median()), "");
        table.row("  nginx, 1 worker", format!("{:.2} ms", theirs.late.median()), "");
    }
    Ok(())
}

#[derive(Default)]
struct Run {
    rate: Sample,
    cpu: Sample,
    late: Sample,
}

impl Run {
    /// Drives a server with `wrk` and reads what its process used meanwhile.
    fn drive(&mut self, at: SocketAddr, clients: u32, pid: u32) -> Result<()> {
        let before = ticks(pid)?;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-d", DRIVEN, "--latency", "-H", "Host: web", "-c", &clients.to_string()]);
        let outcome = output(wrk.arg(format!("http://{at}/ready")))?;
        let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let used = f64::from(u32::try_from(ticks(pid)? - before)?) / TICKS_PER_SECOND;
        let word = |mark: &str, place: usize| {
            let line = said.lines().find(|line| line.contains(mark))?;
            line.split_whitespace().nth(place).map(str::to_owned)
        };
        let count = word("requests in", 0).with_context(|| format!("wrk said {said}"))?;
        let rate = word("Requests/sec", 1).context("no rate")?;
        self.cpu.add(used * 1e5 / count.parse::<f64>()?);
        self.rate.add(rate.parse()?);
        self.late.add(millis(&word("99%", 1).context("no latency")?)?);
        Ok(())
    }
}

/// `1.20ms`, `900.00us` or `1.05s`.
fn millis(text: &str) -> Result<f64> {
    let (number, unit) = text.split_at(text.find(char::is_alphabetic).context("no unit")?);
    let scale = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        _ => 1000.0,
    };
    Ok(number.parse::<f64>()? * scale)
}

/// Where the only replica listens.
fn address(board: &Board) -> Result<SocketAddr> {
    let log = board.agent_log();
    let (_, rest) = log.split_once("address=").context("the log names no address")?;
    let address = rest.split_whitespace().next().context("no address")?;
    Ok(format!("{address}:8080").parse()?)
}

fn nginx(board: &Board, replica: SocketAddr) -> Result<Process> {
    let dir = board.dir().join("nginx");
    fs::create_dir_all(&dir)?;
    let config = dir.join("nginx.conf");
    fs::write(&config, config_of(&dir, replica))?;
    let mut command = Process::in_netns(&board.lan().netns(), Path::new("nginx"));
    let process = Process::start("nginx", command.arg("-c").arg(&config), &dir.join("log"))?;
    let client = Client::new((board.lan().board(), PORT).into());
    eventually("nginx", SHORT, || client.get("web", "/ready"))?;
    Ok(process)
}

fn config_of(dir: &Path, replica: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         upstream app {{ server {replica}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{ listen {PORT}; location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
    )
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    list.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}
