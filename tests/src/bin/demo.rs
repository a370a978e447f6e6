//! The main job, for somebody who wants to see it: `cargo xtask demo`.
//!
//! Everything runs in a network namespace of its own, so port 80 of the machine and a containerd that it may have do
//! not matter, and nothing of it is left afterwards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use system_tests::{Access, Board, Broker, Control, Image, LONG, Lan, eventually, now, run};

/// Requests that a rolling change must not lose.
const REQUESTS: u32 = 200;

#[expect(clippy::print_stderr, reason = "a command line")]
fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let begin = now();
    let lan = step("a network namespace for the board", Lan::take, Lan::name)?;
    lan.sweep_when_interrupted()?;
    let broker = step("mosquitto", || Broker::start(&lan, Access::Anonymous), Broker::url)?;
    let mut board = Board::new(lan)?;
    board.settings().broker(&broker);
    step(
        "containerd",
        || board.start_containerd(),
        |()| "private, as is its namespace".to_owned(),
    )?;
    step("images of two apps", || images(&board), |names| names.join(", "))?;
    step("the agent", || board.start(), |()| "ready".to_owned())?;
    let control = Control::connect(&broker, &board.device())?;

    deploy(&board, &broker, "greeter")?;
    deploy(&board, &broker, "front")?;
    by_name(&board)?;
    roll(&board, &broker)?;
    kill(&mut board, &control)?;

    let clean_up = move || {
        drop((control, board, broker));
        Ok(())
    };
    step("clean up", clean_up, |()| "nothing is left".to_owned())?;
    say(begin.elapsed().as_secs_f64(), "in all", "it works");
    Ok(())
}

fn images(board: &Board) -> Result<Vec<String>> {
    let image = |name: &str, version: &str| -> Result<Image> {
        Ok(Image::testapp(&format!("demo.local/{name}:{version}"))?.env("VERSION", version))
    };
    let images = [image("greeter", "1")?, image("greeter", "2")?, image("front", "1")?];
    for image in &images {
        board.preload(image)?;
    }
    Ok(images.iter().map(|image| image.name().to_owned()).collect())
}

/// Publishes the document of `app` and waits for the first good answer.
fn deploy(board: &Board, broker: &Broker, app: &str) -> Result<()> {
    let what = format!("{app}.yaml published with mosquitto_pub");
    let answer = || {
        publish(board, broker, app, &document(app))?;
        eventually(app, LONG, || curl(board, app, "/"))
    };
    step(&what, answer, |answer| format!("curl: {}", brief(answer)))?;
    Ok(())
}

/// One app asks the other, and it needs to know no more than its name.
fn by_name(board: &Board) -> Result<()> {
    let ask = || curl(board, "front", "/call?url=http://greeter/");
    step("front calls http://greeter/", ask, |answer| brief(answer))?;
    Ok(())
}

/// A new version takes over while requests go on.
fn roll(board: &Board, broker: &Broker) -> Result<()> {
    let text = std::fs::read_to_string(document("greeter"))?;
    let changed = board.dir().join("greeter-2.yaml");
    std::fs::write(&changed, text.replace("greeter:1", "greeter:2"))?;
    let roll = || {
        publish(board, broker, "greeter", &changed)?;
        let client = board.lan_client();
        let mut asked = 0;
        eventually("version 2", LONG, || {
            let answer = client.get("greeter", "/");
            asked += 1;
            let version = answer.and_then(|answer| {
                ensure!(answer.status == 200, "it was {} {}", answer.status, answer.text());
                Ok(answer.json()["version"].clone())
            });
            match version {
                Ok(version) if version == "2" && REQUESTS <= asked => Ok(Ok(asked)),
                Ok(version) => bail!("version {version} answers"),
                // One is too many, so there is nothing to wait for.
                Err(error) => Ok(Err(error.context(format!("request {asked} failed")))),
            }
        })?
    };
    step("greeter:2 rolls through", roll, |asked| format!("0 of {asked} requests failed"))?;
    Ok(())
}

/// The agent dies; the apps do not notice.
fn kill(board: &mut Board, control: &Control) -> Result<()> {
    control.await_status("greeter", |status| status["revisions"][0]["phase"] == "Committed")?;
    eventually("the old greeter to be gone", LONG, || {
        let pids = board.pids_of("greeter")?;
        ensure!(pids.len() == 1, "there are {}", pids.len());
        Ok(())
    })?;
    let before = board.container_pids()?;
    step("kill -9 of the agent", || board.kill_agent(), |()| "its containers go on".to_owned())?;
    let back = || {
        board.start()?;
        eventually("an answer", LONG, || curl(board, "front", "/call?url=http://greeter/"))?;
        let after = board.container_pids()?;
        ensure!(before == after, "containers were restarted: {before:?}, now {after:?}");
        Ok(after.len())
    };
    step("the agent is back and serves", back, |count| {
        format!("the same {count} processes, none restarted")
    })?;
    Ok(())
}

fn publish(board: &Board, broker: &Broker, app: &str, file: &Path) -> Result<()> {
    let topic = format!("skerry/v1/{}/apps/{app}/desired", board.device());
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let file = file.to_str().context("a path in plain letters")?;
    let words = ["-V", "5", "-q", "1", "-r", "-h", &host, "-p", &port, "-t", &topic, "-f", file];
    run("mosquitto_pub", words).map(drop)
}

fn curl(board: &Board, app: &str, path: &str) -> Result<String> {
    let url = format!("http://{}{path}", board.lan().board());
    let host = format!("Host: {app}");
    let answer = run("curl", ["--silent", "--show-error", "--fail", "--header", &host, &url])?;
    Ok(answer.trim().to_owned())
}

/// What of an answer fits in a line: who answers, and which version of it.
fn brief(answer: &str) -> String {
    let Ok(answer) = serde_json::from_str::<serde_json::Value>(answer) else {
        return answer.to_owned();
    };
    let text = |key: &str| answer[key].as_str().unwrap_or("?").to_owned();
    format!("200, version {} of {}, by {}", text("version"), text("app"), text("replica"))
}

fn document(app: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(format!("{app}.yaml"))
}

/// Does one step and prints it in one line with its time.
fn step<T>(
    what: &str,
    work: impl FnOnce() -> Result<T>,
    tell: impl FnOnce(&T) -> String,
) -> Result<T> {
    let begin = now();
    let done = work().with_context(|| what.to_owned())?;
    say(begin.elapsed().as_secs_f64(), what, &tell(&done));
    Ok(done)
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn say(seconds: f64, what: &str, result: &str) {
    println!("{seconds:6.2} s  {what:<42} {result}");
}
