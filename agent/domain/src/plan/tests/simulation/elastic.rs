//! Apps that scale: what their documents say of it, and what their rules ask for once nothing has changed for long.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::board::Time;
use crate::document::{Scale, ScaleRule, ScaleTrigger};

/// Schedules open every twenty minutes, for five.
const EVERY: Time = 20 * 60_000;
const OPEN: Time = 5 * 60_000;

/// What a replica is to have of the number that is sampled.
const TARGET: f64 = 10.0;

/// At most this is nothing to wake for.
const ACTIVATION: f64 = 2.0;

/// How an app scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elastic {
    pub(super) least: u32,
    pub(super) most: u32,
    pub(super) cooldown: u32,
    pub(super) polling: u32,
    pub(super) rule: Rule,
}

/// What it scales by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// No rule of its own: by requests.
    Usual,
    /// By requests, of which each replica gets so many in a second.
    Http(u32),
    /// So many by the clock.
    Cron(u32),
    /// A number that is sampled.
    Sampled,
    /// By requests, and so many by the clock.
    HttpAndCron(u32),
    /// By requests, and by a number that is sampled.
    HttpAndSampled(u32),
}

impl Rule {
    fn triggers(self) -> Vec<ScaleTrigger> {
        let http = |target: u32| ScaleTrigger::Http {
            metadata: pairs(&[("concurrentRequests", target.to_string())]),
        };
        let custom =
            |kind: &str, metadata| ScaleTrigger::Custom { kind: kind.to_owned(), metadata };
        let cron = |count: u32| {
            let times = [("start", "*/20 * * * *"), ("end", "5-59/20 * * * *")];
            let mut metadata = pairs(&times.map(|(key, time)| (key, time.to_owned())));
            metadata.insert("timezone".to_owned(), "UTC".to_owned());
            metadata.insert("desiredReplicas".to_owned(), count.to_string());
            custom("cron", metadata)
        };
        let sampled = || {
            let metadata = pairs(&[
                ("url", "http://source/load".to_owned()),
                ("valueLocation", "load".to_owned()),
                ("targetValue", TARGET.to_string()),
                ("activationTargetValue", ACTIVATION.to_string()),
            ]);
            custom("metrics-api", metadata)
        };
        match self {
            Self::Usual => Vec::new(),
            Self::Http(target) => vec![http(target)],
            Self::Cron(count) => vec![cron(count)],
            Self::Sampled => vec![sampled()],
            Self::HttpAndCron(count) => vec![http(10), cron(count)],
            Self::HttpAndSampled(target) => vec![http(target), sampled()],
        }
    }
}

fn pairs(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

impl Elastic {
    pub(super) fn scale(&self) -> Scale {
        let rules = self.rule.triggers().into_iter().enumerate();
        Scale {
            min_replicas: self.least,
            max_replicas: self.most.max(self.least).max(1),
            cooldown_period_secs: self.cooldown,
            polling_interval_secs: self.polling,
            allow_scaling_rule_override: None,
            rules: rules
                .map(|(n, trigger)| ScaleRule {
                    name: format!("rule-{n}"),
                    trigger,
                    auth: Vec::new(),
                    identity: None,
                })
                .collect(),
        }
    }
}

/// One of its rules goes by the clock.
pub(super) fn has_clock(scale: &Scale) -> bool {
    by_clock(scale).is_some()
}

/// When the clock next asks for something else.
pub(super) fn next_by_clock(now: Time) -> Time {
    let (begun, phase) = (now - now % EVERY, now % EVERY);
    begun + if phase < OPEN { OPEN } else { EVERY }
}

/// How many replicas rules ask for while nobody asks for anything, and that for long; told from the rules alone. `value`
/// is what the app's source says.
pub(super) fn asks_at_rest(scale: &Scale, now: Time, value: f64) -> RangeInclusive<u32> {
    /// From the end of a window on nothing is certain until cool-down and stabilisation are over.
    const SETTLES: Time = 7 * 60_000;
    /// From its beginning on until steps up are taken.
    const COMES: Time = 2 * 60_000;
    let sampled = find(scale, "metrics-api").is_some() && ACTIVATION < value;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
    let shut = if sampled { (value / TARGET).ceil() as u32 } else { 0 };
    let Some(open) = by_clock(scale).map(|count| count.max(shut)) else { return shut..=shut };
    let phase = now % EVERY;
    let settled = OPEN + SETTLES + Time::from(scale.cooldown_period_secs) * 1000;
    match phase {
        _ if phase < COMES => shut..=open,
        _ if phase < OPEN => open..=open,
        _ if phase < settled => shut..=open,
        _ => shut..=shut,
    }
}

/// Replicas that the clock asks for while its window is open.
fn by_clock(scale: &Scale) -> Option<u32> {
    find(scale, "cron")?.get("desiredReplicas")?.parse().ok()
}

/// The metadata of the rule of a kind.
fn find<'a>(scale: &'a Scale, named: &str) -> Option<&'a BTreeMap<String, String>> {
    scale.rules.iter().find_map(|rule| match &rule.trigger {
        ScaleTrigger::Custom { kind, metadata } if kind == named => Some(metadata),
        ScaleTrigger::Custom { .. }
        | ScaleTrigger::Http { .. }
        | ScaleTrigger::Tcp { .. }
        | ScaleTrigger::AzureQueue { .. } => None,
    })
}
