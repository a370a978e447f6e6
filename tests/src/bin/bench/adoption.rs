//! From the start of an agent to its first complete round, with everything running already.

use anyhow::Result;
use system_tests::{Document, LONG, now};

use crate::sample::Sample;
use crate::table::Table;
use crate::{IMAGE, stage};

/// Apps and the replicas of each: the containers that an agent finds.
const APPS: u32 = 10;
const REPLICAS: u32 = 5;
/// Starts of an agent.
const STARTS: usize = 20;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let mut stage = stage()?;
    for n in 0..APPS {
        stage.control.desire(&format!("many-{n}"), Document::new(IMAGE).replicas(REPLICAS))?;
    }
    for n in 0..APPS {
        stage.control.await_json(&format!("apps/many-{n}/status"), 5 * LONG, |status| {
            status["revisions"][0]["readyReplicas"] == REPLICAS
        })?;
    }
    let mut times = Sample::default();
    for _ in 0..STARTS {
        stage.board.kill_agent()?;
        let begin = now();
        stage.board.start()?;
        times.add_time(begin.elapsed());
    }
    let what = format!("start → first round, {} to adopt", APPS * REPLICAS);
    table.row(&what, times.millis(), "≤ 300 ms");
    Ok(())
}
