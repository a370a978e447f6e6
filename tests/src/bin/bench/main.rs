//! Speed and size against what is run beside it, in one run on one machine: `cargo xtask bench [part…]`.
//!
//! What is measured beside something else is told as a ratio, because the machine changes and the ratio does not. Each
//! time is a median, and behind it stands where the middle half of the values lies.

mod adoption;
mod course;
mod idle;
mod ingress;
mod sample;
mod starts;
mod table;
mod wakes;

use std::env;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use system_tests::{Board, Image, Stage, run};

use crate::table::Table;

const IMAGE: &str = "test.local/bench:1";

/// A part of the bench, which adds its rows to the table.
type Part = fn(&mut Table) -> Result<()>;

/// What is measured, in this order.
const PARTS: [(&str, Part); 6] = [
    ("size", size),
    ("starts", starts::measure),
    ("wakes", wakes::measure),
    ("idle", idle::measure),
    ("adoption", adoption::measure),
    ("ingress", ingress::measure),
];

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line")]
fn main() -> ExitCode {
    let chosen: Vec<String> = env::args().skip(1).collect();
    let mut table = Table::default();
    let outcome = measure(&chosen, &mut table);
    print!("{table}");
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(chosen: &[String], table: &mut Table) -> Result<()> {
    if let Some(name) = chosen.iter().find(|name| PARTS.iter().all(|(part, _)| part != name)) {
        bail!("there is no part {name:?}; there are {}", PARTS.map(|(part, _)| part).join(", "));
    }
    for (name, part) in PARTS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            part(table).with_context(|| format!("measuring {name}"))?;
        }
    }
    Ok(())
}

/// A board with the image of the bench, whose agent logs what it does on a device.
fn stage() -> Result<Stage> {
    stage_with(Board::log_as_shipped)
}

fn stage_with(prepare: impl FnOnce(&mut Board)) -> Result<Stage> {
    Stage::start(|board| {
        prepare(board);
        board.preload(&Image::testapp(IMAGE)?)
    })
}

fn size(table: &mut Table) -> Result<()> {
    let binary = env::var("SKERRY_BIN").context("SKERRY_BIN names the release build")?;
    let stripped = tempfile::NamedTempFile::new()?;
    let target = stripped.path().display().to_string();
    run("strip", ["-o", target.as_str(), binary.as_str()])?;
    let bytes = fs::metadata(&target)?.len();
    table.row("binary, stripped", megabytes(bytes), "≤ 10 MB");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
