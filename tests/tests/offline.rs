//! Boards that no registry reaches: images in and out as files, bundles, and starts from what is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use system_tests::{Board, Document, Image, LONG, Lan, Line, Registry, eventually, output, run};

/// A board with containerd, and with an agent that has no control plane.
fn board(lan: Lan, prepare: impl FnOnce(&mut Board) -> Result<()>) -> Result<Board> {
    let mut board = Board::new(lan)?;
    board.start_containerd()?;
    prepare(&mut board)?;
    board.start()?;
    Ok(board)
}

fn insecure(board: &mut Board, address: impl std::fmt::Display) {
    board.settings().set("images", "insecure_registries", format!("[\"{address}\"]"));
}

/// A file with a document.
fn file(board: &Board, name: &str, mut document: Document) -> Result<String> {
    document.0["name"] = name.into();
    let path = board.dir().join(format!("{name}.json"));
    fs::write(&path, document.text())?;
    Ok(path.display().to_string())
}

/// The fields of an image in `images ls`.
fn listed(board: &Board, name: &str) -> Result<Value> {
    let images: Value = serde_json::from_str(&board.cli(["images", "ls", "-o", "json"])?)?;
    let images = images.as_array().context("no list")?;
    let found = images.iter().find(|image| image["name"] == name);
    found.cloned().with_context(|| format!("{name} is not among {images:?}"))
}

/// A refused command: what it said.
fn refused<const N: usize>(board: &Board, arguments: [&str; N]) -> Result<String> {
    let outcome = board.try_cli(arguments)?;
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    ensure!(!outcome.status.success(), "{arguments:?} was not refused: {said}");
    ensure!(said.contains("error: "), "{said}");
    Ok(said)
}

fn await_answer(board: &Board, app: &str, words: &str) -> Result<()> {
    let answer = board.lan_client().await_status(app, "/", 200)?;
    ensure!(answer.text().contains(words), "{}", answer.text());
    Ok(())
}

#[test]
fn an_image_goes_from_a_registry_to_a_board_and_as_a_file_to_another() -> Result<()> {
    let lan = Lan::take()?;
    let mut registry = Registry::open(&lan)?;
    let image = Image::testapp("test.local/app:1")?.env("VERSION", "carried");
    let reference = image.push(&registry, "app:1")?;
    let first = board(lan, |board| {
        insecure(board, registry.address());
        board.preload(&Image::busybox("test.local/preloaded:1"))
    })?;
    let said = first.cli(["images", "pull", &reference])?;
    ensure!(said.starts_with(&format!("{reference}@sha256:")), "{said}");
    let pulled = listed(&first, &reference)?;
    ensure!(pulled["imported"] == false && pulled["preloaded"] == false, "{pulled}");
    ensure!(pulled["apps"] == serde_json::json!([]) && pulled["createdTime"] != "", "{pulled}");
    let preloaded = listed(&first, "test.local/preloaded:1")?;
    ensure!(preloaded["imported"] == true && preloaded["preloaded"] == true, "{preloaded}");
    let app = file(&first, "hello", Document::new(&reference))?;
    first.cli(["apply", "--wait", "-f", &app])?;
    ensure!(listed(&first, &reference)?["apps"] == serde_json::json!(["hello"]));
    let table = first.cli(["images"])?;
    ensure!(table.contains("USED BY") && table.contains("preloaded"), "{table}");

    let archive = first.dir().join("out.tar").display().to_string();
    first.cli(["images", "export", &reference, "-o", &archive])?;
    let piped = output(first.cli_command().args(["images", "export", &reference, "-o", "-"]))?;
    ensure!(piped.stdout == fs::read(&archive)?, "a pipe gets the same bytes");
    let source = format!("oci-archive:{archive}:{reference}");
    let inspected = run("skopeo", ["inspect", "--config", &source])?;
    ensure!(inspected.contains("VERSION=carried"), "{inspected}");
    let said = refused(&first, ["images", "export", "test.local/none:1", "-o", &archive])?;
    ensure!(said.contains("ImageNotFound") && said.contains("hint: "), "{said}");
    ensure!(Path::new(&archive).is_file(), "what was there stays");

    registry.stop()?;
    let said = refused(&first, ["images", "pull", &reference])?;
    ensure!(said.contains("RegistryUnreachable"), "{said}");
    let second = board(Lan::take()?, |_| Ok(()))?;
    second.cli(["images", "import", &archive])?;
    ensure!(listed(&second, &reference)?["digest"] == pulled["digest"]);
    let app = file(&second, "hello", Document::new(&reference))?;
    second.cli(["apply", "--wait", "-f", &app])?;
    await_answer(&second, "hello", "carried")
}

#[test]
fn a_pull_that_is_interrupted_keeps_what_came() -> Result<()> {
    let lan = Lan::take()?;
    let registry = Registry::open(&lan)?;
    let image = Image::testapp("test.local/app:1")?;
    let image = image.file("/noise", &noise(12 << 20), 0o644);
    image.push(&registry, "app:1")?;
    let mut board = Board::new(lan)?;
    let line = Line::to(board.lan(), registry.address(), [], 3 << 20)?;
    insecure(&mut board, line.address());
    board.start_containerd()?;
    board.start()?;
    let reference = format!("{}/app:1", line.address());

    let mut command = board.cli_command();
    command.args(["images", "pull", &reference]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let pull = command.spawn()?;
    eventually("some of it came", LONG, || {
        ensure!(4 << 20 < line.passed(), "{}", line.passed());
        Ok(())
    })?;
    kill(Pid::from_raw(i32::try_from(pull.id())?), Signal::SIGINT)?;
    let outcome = pull.wait_with_output()?;
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    ensure!(outcome.status.code() == Some(1) && said.contains("what came is kept"), "{said}");
    let mut before = line.passed();
    eventually("the line is quiet", LONG, || {
        let quiet = line.passed() == std::mem::replace(&mut before, line.passed());
        ensure!(quiet, "the agent goes on with what nobody waits for");
        Ok(())
    })?;
    board.cli(["images", "pull", &reference])?;
    let image: u64 = listed(&board, &reference)?["sizeBytes"].as_str().context("size")?.parse()?;
    let twice = line.passed().saturating_sub(image);
    println!("{twice} bytes more than the {image} of the image");
    ensure!(twice < 2 << 20, "{twice} bytes came twice");
    Ok(())
}

/// Letters that no packing makes much smaller.
fn noise(size: usize) -> String {
    let mut state = 7_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + u8::try_from((state >> 33) % 90).unwrap_or(0))
    };
    (0..size).map(|_| next()).collect()
}

/// A bundle of an environment, an app whose image is on the board, and one whose image an archive brings.
fn bundle(maker: &Board) -> Result<PathBuf> {
    let other = Image::testapp("test.local/other:1")?.env("VERSION", "brought");
    let archive = maker.dir().join("other.tar");
    other.write_oci(&archive)?;
    let hello = file(maker, "hello", in_environment("test.local/app:1"))?;
    let other = file(maker, "other", Document::new("test.local/other:1"))?;
    let environment = maker.dir().join("env.yaml");
    let text = "name: shop\ntype: Microsoft.App/managedEnvironments\nproperties: {}\n";
    fs::write(&environment, text)?;
    let path = maker.dir().join("bundle.tar");
    let (archive, environment) = (archive.display().to_string(), environment.display().to_string());
    let output = path.display().to_string();
    let files = ["-f", &hello, "-f", &other, "-f", &environment];
    let mut command = maker.cli_command();
    command.arg("bundle").args(files).args(["--archive", &archive, "-o", &output]);
    let outcome = system_tests::output(&mut command)?;
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    ensure!(outcome.status.success(), "{said}");
    Ok(path)
}

fn in_environment(image: &str) -> Document {
    Document::new(image).set("/environmentId", "shop")
}

#[test]
fn a_bundle_brings_documents_and_images_to_a_board_without_a_registry() -> Result<()> {
    let maker = board(Lan::take()?, |board| {
        board.preload(&Image::testapp("test.local/app:1")?.env("VERSION", "bundled"))
    })?;
    let path = bundle(&maker)?;
    let again = maker.dir().join("again.tar");
    fs::copy(&path, &again)?;
    bundle(&maker)?;
    ensure!(fs::read(&path)? == fs::read(&again)?, "the same things make the same bundle");
    let missing = file(&maker, "missing", Document::new("test.local/missing:1"))?;
    let none = maker.dir().join("none.tar").display().to_string();
    let said = refused(&maker, ["bundle", "-f", &missing, "-o", &none])?;
    ensure!(said.contains("test.local/missing:1") && !Path::new(&none).exists(), "{said}");

    let taker = board(Lan::take()?, |_| Ok(()))?;
    let damaged = taker.dir().join("damaged.tar").display().to_string();
    let whole = fs::read(&path)?;
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (bytes, words) in [(&whole[..middle], "ends too early"), (&flipped[..], "another sum")] {
        fs::write(&damaged, bytes)?;
        let said = refused(&taker, ["apply", "-f", &damaged])?;
        ensure!(said.contains(words), "{said}");
        ensure!(taker.cli(["apps"])?.contains("no apps"), "nothing is applied");
        ensure!(taker.cli(["images"])?.contains("no images"), "nothing is imported");
    }
    let bundle = path.display().to_string();
    let outcome = taker.try_cli(["apply", "--wait", "-f", &bundle])?;
    let said = String::from_utf8_lossy(&[outcome.stdout, outcome.stderr].concat()).into_owned();
    ensure!(outcome.status.success(), "{said}");
    for words in
        ["3 documents", "2 images", "image test.local/app:1 imported", "app \"other\" runs"]
    {
        ensure!(said.contains(words), "{words}: {said}");
    }
    let accepted: Vec<&str> = said.lines().filter(|line| line.ends_with(" accepted")).collect();
    ensure!(accepted.first() == Some(&"environment \"shop\" accepted"), "{accepted:?}");
    await_answer(&taker, "hello", "bundled")?;
    await_answer(&taker, "other", "brought")?;
    let said = taker.cli(["apply", "-f", &bundle])?;
    ensure!(said.matches(" unchanged").count() == 3, "{said}");
    Ok(())
}

/// What a reboot takes: processes, namespaces, bridges, tables, and containerd's own life.
fn reboot(board: &mut Board) -> Result<()> {
    board.kill_agent()?;
    for id in board.container_pids()?.keys() {
        board.ctr(["tasks", "delete", "--force", id])?;
    }
    for entry in fs::read_dir(board.dir().join("run/netns"))? {
        let path = entry?.path();
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)?;
        fs::remove_file(path)?;
    }
    board.run("ip", ["link", "delete", "sk-default"])?;
    board.run("nft", ["delete", "table", "inet", "skerry"])?;
    board.stop_containerd()?;
    board.start_containerd()?;
    board.start()
}

#[test]
fn with_no_registry_in_reach_everything_that_is_local_starts() -> Result<()> {
    let lan = Lan::take()?;
    let mut registry = Registry::open(&lan)?;
    let image = |version: &str| {
        Ok::<_, anyhow::Error>(Image::testapp("x.test/x:1")?.env("VERSION", version))
    };
    let tag = image("first")?.push(&registry, "app:1")?;
    let mut board = board(lan, |board| {
        insecure(board, registry.address());
        board.preload(&Image::testapp("test.local/preloaded:1")?.env("VERSION", "flashed"))
    })?;
    let apply = |board: &Board, name: &str, image: &str| -> Result<String> {
        let path = file(board, name, Document::new(image).skerry("probationSeconds", 1))?;
        board.cli(["apply", "--wait", "-f", &path])
    };
    apply(&board, "tagged", &tag)?;
    let digest = listed(&board, &tag)?["digest"].as_str().context("no digest")?.to_owned();
    apply(&board, "pinned", &format!("{}/app@{digest}", registry.address()))?;
    apply(&board, "flashed", "test.local/preloaded:1")?;
    board.import(&Image::testapp("test.local/imported:1")?.env("VERSION", "by hand"))?;
    apply(&board, "imported", "test.local/imported:1")?;

    // The tag moves on, then the registry goes; revisions keep their bits.
    image("second")?.push(&registry, "app:1")?;
    registry.stop()?;
    reboot(&mut board)?;
    let all =
        [("tagged", "first"), ("pinned", "first"), ("flashed", "flashed"), ("imported", "by hand")];
    for (app, words) in all {
        await_answer(&board, app, words)?;
    }

    // A new app of a tag that is here starts too, and its status says why it may be old.
    apply(&board, "late", &tag)?;
    await_answer(&board, "late", "first")?;
    let status: Value = serde_json::from_str(&board.cli(["show", "late", "-o", "json"])?)?;
    let warnings = status["warnings"].as_array().context("no warnings")?;
    let warned = warnings.iter().find(|warning| warning["reason"] == "RegistryUnreachable");
    let warned = warned.with_context(|| format!("{warnings:?}"))?;
    ensure!(warned["message"].as_str().is_some_and(|text| text.contains("the local copy")));
    Ok(())
}

#[test]
fn credentials_that_are_good_no_more_stop_nothing_that_is_here() -> Result<()> {
    let lan = Lan::take()?;
    let registry = Registry::locked(&lan)?;
    let reference =
        Image::testapp("x.test/x:1")?.env("VERSION", "closed").push(&registry, "app:1")?;
    let board = board(lan, |board| {
        insecure(board, registry.address());
        Ok(())
    })?;
    let (user, password) = registry.credentials().context("it is locked")?;
    let mut pull = board.cli_command();
    pull.args(["images", "pull", "--username", user, &reference]).stdin(Stdio::piped());
    pull.stdout(Stdio::piped()).stderr(Stdio::piped());
    let outcome = fed(&mut pull, password)?;
    ensure!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    let said = refused(&board, ["images", "pull", &reference])?;
    ensure!(said.contains("ImageUnauthorized") && said.contains("hint: "), "{said}");

    let app = file(&board, "hello", Document::new(&reference))?;
    board.cli(["apply", "--wait", "-f", &app])?;
    await_answer(&board, "hello", "closed")?;
    let status: Value = serde_json::from_str(&board.cli(["show", "hello", "-o", "json"])?)?;
    let warnings = status["warnings"].as_array().context("no warnings")?;
    ensure!(
        warnings.iter().any(|warning| warning["reason"] == "ImageUnauthorized"),
        "{warnings:?}"
    );
    Ok(())
}

/// Runs a command with a line on its standard input.
fn fed(command: &mut Command, line: &str) -> Result<std::process::Output> {
    use std::io::Write as _;
    let mut child = command.spawn()?;
    child.stdin.take().context("no standard input")?.write_all(line.as_bytes())?;
    Ok(child.wait_with_output()?)
}
