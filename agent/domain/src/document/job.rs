//! Reads `properties.configuration` of a job.

use std::collections::BTreeMap;

use super::app::{JobConfiguration, JobRun, JobScale, JobScaleRule, Trigger};
use super::configuration::{identity_settings, registries, secrets};
use super::fields::{Fields, scalar};
use super::node::{Node, Value};
use super::rules;
use super::scale::{MAX_WAIT_SECS, auth, identity};
use super::support::Place;
use super::template::check_unique;
use crate::reason::Reason;

/// Replicas of one execution, and the like. Azure's quotas do not apply; this catches slips of the pen.
const MAX_RUNS: u32 = 100_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manual,
    Schedule,
    Event,
}

/// Reads the configuration of a job and closes it.
pub(super) fn read(mut fields: Fields<'_>) -> JobConfiguration {
    const KINDS: &[(&str, Kind)] =
        &[("Manual", Kind::Manual), ("Schedule", Kind::Schedule), ("Event", Kind::Event)];
    let secrets = secrets(&mut fields);
    let kind = fields.choice("triggerType", KINDS).unwrap_or(Kind::Manual);
    if !fields.has("replicaTimeout") {
        fields.missing("replicaTimeout", "the seconds that a replica may run");
    }
    let replica_timeout_secs = fields.count("replicaTimeout", 1..=u32::MAX).unwrap_or_default();
    let replica_retry_limit = fields.count("replicaRetryLimit", 0..=MAX_RUNS).unwrap_or(0);
    let registries = registries(&mut fields);
    let identity_settings = identity_settings(&mut fields);
    let trigger = trigger(&mut fields, kind);
    fields.close();
    JobConfiguration {
        secrets,
        trigger,
        replica_timeout_secs,
        replica_retry_limit,
        registries,
        identity_settings,
    }
}

/// The configurations of other triggers are read too, so that they are checked, and not used.
fn trigger(fields: &mut Fields<'_>, kind: Kind) -> Trigger {
    let manual = fields.inner("manualTriggerConfig", Place::JobTrigger).map(|mut inner| {
        let run = run(&mut inner);
        inner.close();
        run
    });
    let schedule = fields.inner("scheduleTriggerConfig", Place::JobTrigger).map(|mut inner| {
        if !inner.has("cronExpression") {
            inner.missing("cronExpression", "five fields, in UTC");
        }
        let cron = inner.ruled("cronExpression", rules::cron).unwrap_or_default();
        let run = run(&mut inner);
        inner.close();
        (cron, run)
    });
    let event = fields.inner("eventTriggerConfig", Place::JobTrigger).map(|mut inner| {
        let run = run(&mut inner);
        let scale = inner.inner("scale", Place::JobScale).map_or_else(usual_scale, scale);
        inner.close();
        (run, scale)
    });
    match (kind, schedule, event) {
        (Kind::Manual, ..) => Trigger::Manual { run: manual.unwrap_or_default() },
        (Kind::Schedule, Some((cron, run)), _) => Trigger::Schedule { cron, run },
        (Kind::Event, _, Some((run, scale))) => Trigger::Event { run, scale },
        (Kind::Schedule, None, _) => {
            if !fields.has("scheduleTriggerConfig") {
                fields.missing(
                    "scheduleTriggerConfig",
                    "triggerType: Schedule needs its cronExpression",
                );
            }
            Trigger::default()
        }
        (Kind::Event, _, None) => {
            if !fields.has("eventTriggerConfig") {
                fields.missing("eventTriggerConfig", "triggerType: Event needs its scale rules");
            }
            Trigger::default()
        }
    }
}

fn run(fields: &mut Fields<'_>) -> JobRun {
    let usual = JobRun::default();
    let completions = fields.count("replicaCompletionCount", 1..=MAX_RUNS);
    let parallelism = fields.count("parallelism", 1..=MAX_RUNS);
    JobRun {
        replica_completion_count: completions.unwrap_or(usual.replica_completion_count),
        parallelism: parallelism.unwrap_or(usual.parallelism),
    }
}

fn usual_scale() -> JobScale {
    JobScale {
        polling_interval_secs: 30,
        min_executions: 0,
        max_executions: 100,
        rules: Vec::new(),
    }
}

fn scale(mut fields: Fields<'_>) -> JobScale {
    let usual = usual_scale();
    let polling = fields.count("pollingInterval", 1..=MAX_WAIT_SECS);
    let least = fields.count("minExecutions", 0..=MAX_RUNS).unwrap_or(usual.min_executions);
    let most = fields.count("maxExecutions", 1..=MAX_RUNS).unwrap_or(usual.max_executions);
    if most < least {
        let message = format!("{least} is more than maxExecutions, which is {most}");
        fields.error("minExecutions", Reason::InvalidValue, message);
    }
    let rules: Vec<JobScaleRule> =
        fields.each("rules", Place::JobScaleRule).into_iter().map(rule).collect();
    check_unique(&fields, "rules", rules.iter().map(|rule| rule.name.as_str()));
    fields.close();
    JobScale {
        polling_interval_secs: polling.unwrap_or(usual.polling_interval_secs),
        min_executions: least,
        max_executions: most,
        rules,
    }
}

fn rule(mut fields: Fields<'_>) -> JobScaleRule {
    for (key, what) in [("name", "every scale rule has a name of its own"), ("type", "the scaler")]
    {
        if !fields.has(key) {
            fields.missing(key, what);
        }
    }
    let name = fields.name("name").unwrap_or_default();
    let kind = fields.name("type").unwrap_or_default();
    let metadata =
        fields.inner("metadata", Place::Free).map(|inner| metadata(&inner)).unwrap_or_default();
    let auth = auth(&mut fields);
    let identity = identity(&mut fields);
    fields.close();
    JobScaleRule { name, kind, metadata, auth, identity }
}

fn metadata(fields: &Fields<'_>) -> BTreeMap<String, serde_json::Value> {
    let given = fields.entries().iter();
    given.map(|(key, node)| (key.clone(), json(fields, fields.at(key), node))).collect()
}

/// Depth is bounded by that of the document.
fn json(fields: &Fields<'_>, path: String, node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Scalar(_) => {
            scalar(fields.found, path, node, "a text").map_or(serde_json::Value::Null, Into::into)
        }
        Value::List(items) => {
            let item = |(index, item)| json(fields, format!("{path}[{index}]"), item);
            items.iter().enumerate().map(item).collect()
        }
        Value::Map(entries) => {
            let entry = |(key, node): &(String, Node)| {
                (key.clone(), json(fields, format!("{path}.{key}"), node))
            };
            serde_json::Value::Object(entries.iter().map(entry).collect())
        }
    }
}
