//! `skerry doctor`: looks at the board, and says what to do.

use std::path::PathBuf;
use std::sync::Arc;

use super::args::Format;
use super::error::CliError;
use super::output::Console;
use super::table::Table;
use crate::config::Config;
use crate::doctor::{Board, Finding, Level, examine};
use crate::report::Chain;

/// Looks at this board, and fails where a check does.
pub(super) async fn run(
    console: &mut Console,
    output: Format,
    config: PathBuf,
) -> Result<(), CliError> {
    let mut config = Config::load(&config).map_err(|error| Chain(&error).to_string());
    if let Ok(config) = &mut config {
        config.use_kept_boot_file();
    }
    let board = Arc::new(Board::here(config, console.now));
    let findings = examine(&board).await;
    console.answer(output, &findings, |findings| table(findings))?;
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    if failed == 0 { Ok(()) } else { Err(CliError::Unwell(failed)) }
}

/// A line for each check, and below it what to do for those that are not as they should be.
fn table(findings: &[Finding]) -> String {
    let mut rows = Table::new(["LEVEL", "TOPIC", "CHECK", "FOUND"]);
    for Finding { check, topic, level, found, .. } in findings {
        rows.row([level.to_string(), topic.to_string(), (*check).to_owned(), found.clone()]);
    }
    let rows = rows.render();
    let mut lines = rows.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, finding) in lines.zip(findings) {
        text.extend([line, "\n"]);
        if !finding.fix.is_empty() {
            text.extend(["        fix: ", &finding.fix, "\n"]);
        }
    }
    text
}
