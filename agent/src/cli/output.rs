//! Where answers go: a console that knows a broken pipe from a failure, and the three formats.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use domain::model::WallTime;
use serde::Serialize;

use super::args::Format;
use super::error::CliError;
use crate::report::Report;

/// Standard output and standard error, whether a person watches the latter, and when.
pub(super) struct Console {
    pub(super) out: Box<dyn Write + Send>,
    pub(super) err: Box<dyn Write + Send>,
    pub(super) live: bool,
    /// The date, for ages.
    pub(super) now: WallTime,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Console {
    /// Prints an answer, at once.
    pub(super) fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(CliError::Print)
    }

    /// Says something beside the answer. Where nobody can hear it, it is lost.
    pub(super) fn say(&mut self, text: &str) {
        drop(self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush()));
    }

    /// A line that the next one replaces, if a person watches.
    pub(super) fn progress(&mut self, line: &str) {
        if self.live {
            self.say(&format!("\r{line}\x1b[K"));
        }
    }

    /// A line that tells of progress to whoever reads it later: only where no person watches.
    pub(super) fn milestone(&mut self, line: &str) {
        if !self.live {
            self.say(&format!("{line}\n"));
        }
    }

    /// Removes the progress line.
    pub(super) fn end_progress(&mut self) {
        self.progress("");
    }

    /// Prints an answer in the format asked for; `table` makes the one for people.
    pub(super) fn answer<T: Serialize>(
        &mut self,
        format: Format,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let text = match format {
            Format::Table => table(answer),
            Format::Json => json(answer)?,
            Format::Yaml => yaml(answer)?,
        };
        self.print(&text)
    }

    /// The same for one of many that come one by one: JSON in one line, YAML as a document.
    pub(super) fn item<T: Serialize>(
        &mut self,
        format: Format,
        item: &T,
        line: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let text = match format {
            Format::Table => line(item),
            Format::Json => format!("{}\n", serde_json::to_string(item).map_err(no_json)?),
            Format::Yaml => format!("---\n{}", yaml(item)?),
        };
        self.print(&text)
    }

    /// Says why a command failed.
    pub(super) fn fail(&mut self, error: &CliError) -> ExitCode {
        if error.is_broken_pipe() {
            return ExitCode::SUCCESS;
        }
        self.end_progress();
        self.say(&format!("{}\n", Report(error)));
        ExitCode::FAILURE
    }
}

fn json<T: Serialize>(answer: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(answer).map(|text| format!("{text}\n")).map_err(no_json)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn no_json(error: serde_json::Error) -> CliError {
    CliError::Format { format: "JSON", why: error.to_string() }
}

fn yaml<T: Serialize>(answer: &T) -> Result<String, CliError> {
    let text = serde_saphyr::to_string(answer)
        .map_err(|error| CliError::Format { format: "YAML", why: error.to_string() })?;
    Ok(format!("{}\n", text.trim_end()))
}
