//! The agent and the service manager: what it is told, and when it is told no more.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Board, Document, Image, LONG, Lan, SHORT, eventually, pause, run};

/// Of the watchdog. The unit's is a minute.
const PERIOD: Duration = Duration::from_secs(2);

/// A board that keeps its state on a disk of its own, which can be made to hang.
fn board() -> Result<Board> {
    let mut board = Board::new(Lan::take()?)?;
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.watch_over(PERIOD);
    Ok(board)
}

/// A disk that answers nobody, until this goes.
struct Hanging(PathBuf);

impl Hanging {
    fn new(mount: PathBuf) -> Result<Self> {
        run("fsfreeze", ["--freeze", &mount.display().to_string()])?;
        Ok(Self(mount))
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = run("fsfreeze", ["--unfreeze", &self.0.display().to_string()]);
    }
}

/// Gives the board's state a file system of its own.
fn disk(board: &Board) -> Result<PathBuf> {
    let (file, state) = (board.dir().join("disk.img"), board.dir().join("state"));
    File::create(&file)?.set_len(64 << 20)?;
    run("mkfs.ext4", ["-q", &file.display().to_string()])?;
    run("mount", ["-o", "loop", &file.display().to_string(), &state.display().to_string()])?;
    Ok(state)
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
    let state = disk(&board)?;
    board.start_containerd()?;
    board.start()?;
    for _ in 0..3 {
        await_word(&mut board, "WATCHDOG=1")?;
    }
    let hanging = Hanging::new(state)?;
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
