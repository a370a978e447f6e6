//! Steps of a chore, with the time each took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{cargo, finish};

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<(&'static str, Duration, bool)>);

impl Steps {
    /// Does one step.
    #[expect(clippy::print_stdout, reason = "a command line")]
    #[expect(clippy::disallowed_methods, reason = "a stopwatch")]
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        println!("== {name}");
        let started = Instant::now();
        let outcome = step();
        self.0.push((name, started.elapsed(), outcome.is_ok()));
        outcome.with_context(|| format!("step {name:?}"))
    }

    /// Runs cargo as one step.
    pub(crate) fn cargo(&mut self, name: &'static str, arguments: &[&str]) -> Result<()> {
        self.run(name, || finish(&mut cargo(arguments)))
    }
}

/// The table, also of a chore that ended early.
impl Drop for Steps {
    #[expect(clippy::print_stdout, reason = "a command line")]
    fn drop(&mut self) {
        println!();
        for (name, time, good) in &self.0 {
            let outcome = if *good { "ok" } else { "FAILED" };
            println!("{name:<16}{outcome:<8}{:>8.1} s", time.as_secs_f64());
        }
    }
}
