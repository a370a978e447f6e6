//! The binary: the log sink where a shim starts it as one, the agent or a command elsewhere.

use std::process::ExitCode;

use skerry::cli::{self, Invocation};
use skerry::{agent, logger};

fn main() -> ExitCode {
    // A shim starts one sink for each container: it must be there at once and stay small, so nothing comes before it.
    if let Some(order) = logger::Order::of_this_process() {
        return logger::run(&order);
    }
    match cli::start(std::env::args_os()) {
        Invocation::Agent(args) => agent::run(&args),
        Invocation::Done(code) => code,
    }
}
