//! The agent and the service manager: what it is told, and when it is told no more.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use system_tests::{Board, Document, FreezableDisk, Image, LONG, Lan, SHORT, eventually, pause};

/// Of the watchdog. The unit's is a minute.
const PERIOD: Duration = Duration::from_secs(2);

/// A board whose agent is watched over.
fn board() -> Result<Board> {
    let mut board = Board::new(Lan::take()?)?;
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.watch_over(PERIOD);
    Ok(board)
}

/// Waits for a message of the agent that says `words`.
fn await_word(board: &mut Board, words: &str) -> Result<String> {
    let mut said = Vec::new();
    eventually(&format!("the agent to say {words:?}"), LONG, || {
        said.extend(board.told()?);
        let found = said.iter().find(|message| message.contains(words));
        found.cloned().with_context(|| format!("it said {said:?}"))
    })
}

#[test]
fn the_watchdog_is_fed_by_an_idle_loop_and_not_for_one_that_hangs() -> Result<()> {
    let mut board = board()?;
    let disk = FreezableDisk::new(&board.dir().join("disk.img"), &board.dir().join("state"))?;
    board.start_containerd()?;
    board.start()?;
    for _ in 0..3 {
        await_word(&mut board, "WATCHDOG=1")?;
    }
    let hanging = disk.hang()?;
    let path = board.dir().join("late.json");
    let mut document = Document::new("test.local/app:1");
    document.0["name"] = "late".into();
    fs::write(&path, document.text())?;
    let mut apply = board.cli_command();
    let mut apply = apply.args(["apply", "-f"]).arg(&path).spawn()?;
    // What was fed before the loop came to hang.
    pause(PERIOD);
    board.told()?;
    pause(3 * PERIOD);
    let said = board.told()?;
    ensure!(said.is_empty(), "a loop that hangs was fed for: {said:?}");
    // The loop hangs, and the process does not.
    board.lan_client().await_status("nobody", "/", 404)?;
    drop(hanging);
    await_word(&mut board, "WATCHDOG=1")?;
    ensure!(apply.wait()?.success(), "the document was lost");
    board.lan_client().await_status("late", "/", 200)?;
    board.stop_agent()?;
    await_word(&mut board, "STOPPING=1")?;
    Ok(())
}

#[test]
fn a_board_without_containerd_is_ready_and_says_what_it_lacks() -> Result<()> {
    let mut board = board()?;
    board.start()?;
    let ready = await_word(&mut board, "READY=1")?;
    ensure!(ready.contains("STATUS=0 apps; ContainerdUnavailable: "), "{ready}");
    await_word(&mut board, "WATCHDOG=1")?;
    board.start_containerd()?;
    await_word(&mut board, "STATUS=0 apps\n")?;
    // One that gives no answer keeps no round from its end either.
    board.freeze_containerd()?;
    for _ in 0..3 {
        await_word(&mut board, "WATCHDOG=1")?;
    }
    board.thaw_containerd()?;
    eventually("an answer", SHORT, || board.cli(["apps"]))?;
    Ok(())
}

/// A board whose agent is watched over by a small service manager that keeps its sockets.
struct Kept {
    board: Board,
    orders: PathBuf,
}

impl Kept {
    fn start() -> Result<Self> {
        let mut board = Board::new(Lan::take()?)?;
        board.preload(&Image::testapp("test.local/app:1")?)?;
        board.start_containerd()?;
        let place = board.dir().join("notify").display().to_string();
        board.launch_by(env!("CARGO_BIN_EXE_keeper"), [&place])?;
        board.await_log("READY=1")?;
        Ok(Self { orders: format!("{place}.orders").into(), board })
    }

    fn order(&self, word: &str) -> Result<()> {
        UnixDatagram::unbound()?.send_to(word.as_bytes(), &self.orders)?;
        Ok(())
    }

    /// How often a line of the log has these words.
    fn count(&self, words: &str) -> usize {
        self.board.agent_log().lines().filter(|line| line.contains(words)).count()
    }

    /// Has the agent replaced so often; each is ready before the next comes.
    fn replace(&self, word: &str, times: usize) -> Result<()> {
        for _ in 0..times {
            let before = self.count("READY=1");
            self.order(word)?;
            eventually("the next agent", LONG, || {
                ensure!(before < self.count("READY=1"), "it is not ready");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn apply(&self, name: &str, mut document: Document) -> Result<()> {
        let path = self.board.dir().join(format!("{name}.json"));
        document.0["name"] = name.into();
        fs::write(&path, document.text())?;
        self.board.cli(["apply", "--wait", "-f", &path.display().to_string()])?;
        Ok(())
    }

    /// The names of the sockets that are kept.
    fn kept(&self) -> Result<String> {
        let before = self.count("KEPT ");
        self.order("list")?;
        eventually("the list", SHORT, || {
            let log = self.board.agent_log();
            let lines = log.lines().filter(|line| line.contains("KEPT "));
            lines.skip(before).last().map(str::to_owned).context("no list yet")
        })
    }
}

/// Does `ask` again and again until `work` is done; how often it went well. None may fail.
fn meanwhile(
    ask: impl Fn() -> Result<()> + Send + Sync,
    work: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        ask().with_context(|| format!("after {count} that went well"))?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let mut all = 0;
        for asker in askers {
            all += asker.join().unwrap_or_else(|_| bail!("an asker panicked"))?;
        }
        worked.map(|()| all)
    })
}

#[test]
fn no_request_and_no_connection_is_lost_while_one_agent_follows_another() -> Result<()> {
    let kept = Kept::start()?;
    kept.apply("web", Document::new("test.local/app:1"))?;
    let tcp = Document::new("test.local/app:1")
        .set("/configuration/ingress/transport", "tcp")
        .set("/configuration/ingress/exposedPort", 9100);
    kept.apply("raw", tcp)?;
    let http = kept.board.lan_client();
    let raw = http.at(SocketAddr::from((kept.board.lan().board(), 9100)));
    let good = || {
        let answer = http.get("web", "/")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    };
    http.await_status("web", "/", 200)?;
    raw.await_status("raw", "/", 200)?;
    let pids = kept.board.container_pids()?;
    // A stream of bytes ends with the agent that passes it on; a new one is taken at any time.
    let ask = || good().and_then(|()| raw.connect().map(drop));
    let restarts = || {
        (0..5).try_for_each(|_| {
            kept.replace("restart", 1)?;
            // Each has its turn to serve, and not to be stopped only.
            good()
        })
    };
    let served = meanwhile(ask, restarts)?;
    ensure!(5 <= served, "only {served} were served");
    ensure!(kept.board.container_pids()? == pids, "a container was started anew");
    // An agent that dies breaks what is open, and still nobody is refused.
    let open = || raw.connect().and_then(|_| http.connect()).map(drop);
    meanwhile(open, || kept.replace("kill", 3))?;
    good()
}

#[test]
fn sockets_are_kept_as_long_as_they_are_wanted() -> Result<()> {
    let mut kept = Kept::start()?;
    let tcp = Document::new("test.local/app:1")
        .set("/configuration/ingress/transport", "tcp")
        .set("/configuration/ingress/exposedPort", 9100);
    kept.apply("raw", tcp)?;
    eventually("the port to be kept", SHORT, || {
        let list = kept.kept()?;
        ensure!(list.contains("ingress/*_9100@") && list.contains("ingress/lan@"), "{list}");
        Ok(())
    })?;
    kept.board.cli(["delete", "raw"])?;
    eventually("the port to be let go", SHORT, || {
        let list = kept.kept()?;
        ensure!(!list.contains("9100"), "{list}");
        Ok(())
    })?;
    // Another address: the old one is closed, and who comes there is refused and does not wait.
    kept.board.settings().set("ingress", "http", "\"0.0.0.0:8080\"");
    let config = kept.board.dir().join("agent.toml");
    let text = kept.board.settings().to_string();
    fs::write(config, text)?;
    kept.replace("restart", 1)?;
    // Name servers follow each other likewise.
    kept.board.await_log("a socket is taken over name=\"dns/udp@")?;
    let client = kept.board.lan_client();
    let moved = client.at(SocketAddr::from((kept.board.lan().board(), 8080)));
    moved.await_status("nobody", "/", 404)?;
    eventually("the old address to be closed", SHORT, || {
        let list = kept.kept()?;
        ensure!(!list.contains("_80 ") && !list.ends_with("_80"), "{list}");
        ensure!(client.connect().is_err(), "the old address takes connections");
        Ok(())
    })
}
