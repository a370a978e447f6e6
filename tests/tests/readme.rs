//! The README's commands, run in the order in which they stand there, with this board's names in place of the README's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::{Image, LONG, SHORT, Stage, eventually, output};

/// Commands that CI runs in another way: the chores are what runs this, the builds are steps of their own, and a machine
/// is not to be told to start services by a test.
const ELSEWHERE: &[&str] = &["cargo ", "CROSS_CONFIG=", "systemctl ", "systemd-"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lines of every fenced block of `language`.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = readme.split(&fence).skip(1);
    parts.filter_map(|part| part.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn the_first_document_goes_the_whole_way() -> Result<()> {
    let readme = fs::read_to_string(root().join("README.md"))?;
    let document = blocks(&readme, "yaml").into_iter().next().context("no document")?;
    let image = document.lines().find_map(|line| line.trim().strip_prefix("image: "));
    let image = image.context("no image")?.to_owned();
    let stage = Stage::start(|board| board.preload(&Image::testapp(&image)?))?;
    fs::write(stage.board.dir().join("hello.yaml"), document)?;

    let commands = blocks(&readme, "sh");
    let lines = commands.iter().flat_map(|block| block.lines());
    let mut count = 0;
    for line in lines.filter(|line| !ELSEWHERE.iter().any(|word| line.starts_with(word))) {
        let run = || {
            let mut shell = shell(&stage, line);
            let outcome = output(&mut shell)?;
            let said = String::from_utf8_lossy(&outcome.stderr);
            ensure!(outcome.status.success(), "{line}: {}", said.trim());
            Ok(())
        };
        // What was published a line above takes a moment to arrive.
        eventually(line, LONG, run)?;
        count += 1;
    }
    ensure!(10 < count, "the README shows {count} commands only");
    stage.control.await_since(0, "the app to be removed", 3 * SHORT, |message| {
        message.topic == "apps/hello/status" && message.payload.is_empty()
    })?;
    Ok(())
}

/// The line as a shell runs it on this board.
fn shell(stage: &Stage, line: &str) -> Command {
    let dir = stage.board.dir();
    let broker = stage.broker.address();
    let skerry = format!("{:?}", stage.board.cli_command()).replace('"', "");
    let ours = line
        .replace("broker.example", &format!("{} -p {}", broker.ip(), broker.port()))
        .replace("http://pi-1/", &format!("--fail http://{}/", stage.board.lan().board()))
        .replace("pi-1", &stage.board.device())
        // Installing goes to a directory of ours.
        .replace("target/release/skerry", skerry.split(' ').next().unwrap_or_default())
        .replace(" systemd/", &format!(" {}/systemd/", root().display()))
        .replace(" /usr/", &format!(" {}/root/usr/", dir.display()))
        .replace(" /etc/", &format!(" {}/root/etc/", dir.display()));
    // The README offers `apply` in place of publishing; here both come, and the app is the broker's.
    let ours = ours.replace("skerry apply", "skerry apply --force");
    let ours = match ours.strip_prefix("skerry ") {
        Some(rest) => format!("{skerry} {rest}"),
        None => ours,
    };
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-c", &ours]);
    command
}
