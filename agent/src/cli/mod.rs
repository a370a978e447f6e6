//! The commands: `skerry agent` is the daemon, `skerry check`, `doctor` and `explain REASON` need none, the rest asks the agent
//! on its socket.
//!
//! Nothing is decided here. A command is one call, and its answer in a shape that a person or a program reads.

mod age;
mod apply;
mod args;
mod bundle;
pub mod check;
mod client;
mod commands;
mod doctor;
mod error;
mod explain;
mod follow;
mod images;
mod output;
#[cfg(test)]
mod reference;
mod revision;
mod secret;
mod show;
mod table;
#[cfg(test)]
mod tests;
mod traffic;
mod upgrade;
mod whole_file;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;

pub use self::args::AgentArgs;
use self::args::{Args, Command};
pub(crate) use self::client::device;
use self::error::CliError;
use self::output::Console;
use crate::clock::Clock;

/// What the command line asked for.
#[derive(Debug)]
pub enum Invocation {
    /// Run the agent.
    Agent(AgentArgs),
    /// Nothing more: it was done, or could not be.
    Done(ExitCode),
}

/// Reads the command line and does what it says, but for running the agent.
pub fn start(args: impl IntoIterator<Item = OsString>) -> Invocation {
    let mut console = Console {
        out: Box::new(io::stdout()),
        err: Box::new(io::stderr()),
        live: io::stderr().is_terminal(),
        now: Clock::default().wall(),
    };
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => return Invocation::Done(usage(&mut console, &error)),
    };
    if let Command::Agent(agent) = args.command {
        return Invocation::Agent(agent);
    }
    let done = single_threaded().and_then(|runtime| {
        let done = runtime.block_on(commands::run(args, &mut console));
        // Reads of a terminal or a pipe cannot be cut short; nobody waits for them.
        runtime.shutdown_background();
        done
    });
    Invocation::Done(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console.fail(&error),
    })
}

/// One command is one call at a time: more threads would only cost their start.
fn single_threaded() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)
}

/// Help and version are no errors; a wrong command line is, with exit code 2.
fn usage(console: &mut Console, error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    if error.use_stderr() {
        console.say(&text);
        return ExitCode::from(2);
    }
    match console.print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console.fail(&error),
    }
}
