//! Every chore of the project: `cargo xtask demo|test|ci|bench|vm|build|deb|deltas|smoke|install|recipe|lint-recipes|size`.
//!
//! It depends on nothing that must be installed first, for it is what installs.

mod cross;
mod deb;
mod install;
mod recipe;
mod smoke;
mod steps;
mod vm;

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::steps::Steps;

const HELP: &str = "\
usage: cargo xtask <chore>

  demo [--release]   the main job, step by step, on real parts
  test [--long]      format, lints, unit, property and system tests, and the demo
  ci                 the same, as .ci/run calls it
  bench [part…]      speed and size of the release build beside containerd alone and nginx
  vm [x86-64|arm64]  whole emulated machines (both): first boot, power cuts, no broker, no clock
  build --target aarch64|armv7 [--profile dist]
                     the agent for ARM boards, and its size; more than one --target may be given
  smoke              the same, quickly built, and run here by qemu
  deltas             what deltas between layers would save, over real packages (ADR 23)
  install            what the others need, by apt-get
  deb [--target T] [--binary FILE]   the Debian package, for amd64, arm64 or armhf
  recipe             the list of crates that the Yocto recipe needs, from Cargo.lock
  lint-recipes       a check of the Yocto layer
  size               the size of the release binary
";

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line")]
fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let (chore, options) = match words.split_first() {
        Some((chore, options)) => (chore.as_str(), options),
        None => ("help", &[][..]),
    };
    let outcome = match chore {
        "demo" => demo(options),
        "test" | "ci" => test(options),
        "bench" => bench(options),
        "vm" => vm::run(options),
        "build" => cross::run(options),
        "smoke" => cross::build(&boards(), smoke::PROFILE).and_then(|()| smoke::run()),
        "deltas" => {
            let run = ["run", "--quiet", "--release", "--package", "system-tests", "--bin"];
            finish(cargo(&run).arg("deltas"))
        }
        "install" => install::install(),
        "deb" => deb::make(options),
        "recipe" => recipe::write(root()),
        "lint-recipes" => recipe::lint(root()),
        "size" => size(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("there is no chore {other:?}\nhint: cargo xtask help")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test(options: &[String]) -> Result<()> {
    let long = flag(options, "--long")?;
    let mut steps = Steps::default();
    steps.run("install", || {
        install::install()?;
        if long { install::install_for_long() } else { Ok(()) }
    })?;
    steps.cargo("format", &["fmt", "--all", "--check"])?;
    steps.cargo("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    steps.run("dependencies", install::dependencies)?;
    let recipes = steps.run("recipes", || recipe::lint(root()));
    steps.run("test app", testapp)?;
    steps.cargo("agent", &["build", "--package", "skerry"])?;
    // Each runs whatever becomes of the others, so that one look shows all that is broken.
    let unit = ["test", "--workspace", "--exclude", "system-tests", "--quiet"];
    let unit = steps.cargo("unit tests", &unit);
    let system = steps.run("system tests", || {
        let mut command = cargo(&["test", "--package", "system-tests", "--no-fail-fast"]);
        // What a failed test is understood by: the logs of its board.
        command.env("SKERRY_LOGS", target_dir()?.join("board-logs"));
        // Tests wait more than they work: more of them at a time than there are cores.
        command.args(["--", "--test-threads", "4"]).env("RUST_LIB_BACKTRACE", "0");
        if long {
            command.env("SKERRY_LONG", "1");
        }
        finish(&mut command)
    });
    let demo = steps.run("demo", || {
        let run = ["run", "--quiet", "--package", "system-tests", "--bin", "demo"];
        finish(&mut cargo(&run))
    });
    let arm = steps.run("build for ARM", || cross::build(&boards(), smoke::PROFILE));
    let arm = arm.and_then(|()| steps.run("run on ARM", smoke::run));
    let machines = if long { steps.run("machines", || vm::run(&[])) } else { Ok(()) };
    recipes.and(unit).and(system).and(demo).and(arm).and(machines)
}

/// Every kind of board.
fn boards() -> Vec<&'static cross::Board> {
    cross::BOARDS.iter().collect()
}

fn demo(options: &[String]) -> Result<()> {
    let release = flag(options, "--release")?;
    install::install()?;
    testapp()?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    finish(cargo(&["build", "--quiet", "--package", "skerry"]).args(profile))?;
    let run = ["run", "--quiet", "--package", "system-tests", "--bin", "demo"];
    // It takes our place, and cargo's place it takes then: at ctrl-C there is one program that has to clean up.
    Err(cargo(&run).args(profile).exec()).context("cannot start the demo")
}

fn bench(options: &[String]) -> Result<()> {
    install::install()?;
    install::install_for_bench()?;
    testapp()?;
    finish(&mut cargo(&["build", "--release", "--package", "skerry"]))?;
    // The measuring program may be slow to build or slow to run; the first costs minutes.
    finish(
        cargo(&["run", "--quiet", "--package", "system-tests", "--bin", "bench", "--"])
            .args(options)
            .env("SKERRY_BIN", target_dir()?.join("release/skerry")),
    )
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn size() -> Result<()> {
    finish(&mut cargo(&["build", "--release", "--package", "skerry"]))?;
    let binary = target_dir()?.join("release/skerry");
    println!("{}", cross::size_line(cross::stripped_bytes(&binary, "strip")?));
    Ok(())
}

/// Builds the app that the tests deploy: static, so that an image needs nothing else.
fn testapp() -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = cargo(&["build", "--quiet", "--package", "testapp", "--target", &triple]);
    finish(
        command
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_DEV_STRIP", "symbols"),
    )
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// The directory of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds: two steps above this program, `target/debug/xtask`.
fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe()?;
    Ok(program.ancestors().nth(2).context("xtask lies at no usual place")?.to_owned())
}

fn flag(options: &[String], name: &str) -> Result<bool> {
    match options {
        [] => Ok(false),
        [option] if option == name => Ok(true),
        [option, ..] => bail!("unknown option {option:?}; there is {name}"),
    }
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
