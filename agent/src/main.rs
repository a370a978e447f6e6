//! The binary: the log sink where a shim starts it as one, else the command line.

use std::process::ExitCode;

use skerry::logger;

fn main() -> ExitCode {
    // A shim starts one sink for each container: it must be there at once and stay small, so nothing comes before it.
    if let Some(order) = logger::Order::of_this_process() {
        return logger::run(&order);
    }
    ExitCode::SUCCESS
}
