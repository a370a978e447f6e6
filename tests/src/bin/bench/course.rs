//! Where a wake's time goes, by the lines that the agent logs of it.

use anyhow::{Result, ensure};

use crate::sample::Sample;
use crate::table::Table;

/// Steps of a wake in their order, as the agent names them and as people do.
const STEPS: [(&str, &str); 8] = [
    ("told", "to the loop"),
    ("planned", "planned"),
    ("network", "network namespace"),
    ("recorded", "records, root file systems"),
    ("made", "processes made"),
    ("started", "started"),
    ("ready", "app ready, seen by its probe"),
    ("answered", "first byte back"),
];

/// A row for each step: how long after the step before it was over. What was done ahead has no row.
pub(crate) fn rows(table: &mut Table, log: &str, app: &str, tier: &str) -> Result<()> {
    let mark = format!("revision={app}--");
    let tier = format!("tier={tier:?}");
    let wakes = log.lines().filter(|line| line.contains("woken") && line.contains(&mark));
    let mut times = vec![Sample::default(); STEPS.len()];
    let mut seen = 0;
    for line in wakes.filter(|line| line.contains(&tier)) {
        seen += 1;
        let mut before = 0.0;
        for ((step, _), sample) in STEPS.iter().zip(&mut times) {
            if let Some(micros) = field(line, step) {
                sample.add((micros - before) / 1000.0);
                before = micros;
            }
        }
    }
    ensure!(seen != 0, "the agent logged no wake of {app} from {tier}");
    for ((_, what), sample) in STEPS.iter().zip(&times).filter(|(_, sample)| !sample.is_empty()) {
        table.row(&format!("    {what}"), sample.quantiles(), "");
    }
    Ok(())
}

fn field(line: &str, name: &str) -> Option<f64> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    rest.split_whitespace().next()?.parse().ok()
}
