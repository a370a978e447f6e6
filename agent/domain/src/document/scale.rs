//! Reads `template.scale` and what scale rules of apps and jobs have in common.

use std::collections::BTreeMap;

use super::app::{Scale, ScaleAuth, ScaleRule, ScaleTrigger};
use super::fields::Fields;
use super::findings::quoted;
use super::support::Place;
use super::template::{check_unique, secret_ref};
use crate::reason::Reason;
use crate::scale::{self, Cron};

/// Azure's quota does not apply; this catches slips of the pen.
const MAX_REPLICAS: u32 = 100_000;
/// A day, in seconds.
pub(super) const MAX_WAIT_SECS: u32 = 86_400;

/// Reads `scale` of a template.
pub(super) fn read(template: &mut Fields<'_>) -> Scale {
    let usual = Scale::default();
    let Some(mut fields) = template.inner("scale", Place::Scale) else { return usual };
    let least = fields.count("minReplicas", 0..=MAX_REPLICAS);
    let most = fields.count("maxReplicas", 1..=MAX_REPLICAS);
    let min_replicas = least.unwrap_or(usual.min_replicas);
    let max_replicas = most.unwrap_or(usual.max_replicas);
    if max_replicas < min_replicas {
        let message = format!("{min_replicas} is more than maxReplicas, which is {max_replicas}");
        fields.error("minReplicas", Reason::InvalidValue, message);
    }
    let mut wait = |key, usual| fields.count(key, 1..=MAX_WAIT_SECS).unwrap_or(usual);
    let cooldown_period_secs = wait("cooldownPeriod", usual.cooldown_period_secs);
    let polling_interval_secs = wait("pollingInterval", usual.polling_interval_secs);
    let allow_scaling_rule_override = fields.flag("allowScalingRuleOverride");
    let rules: Vec<ScaleRule> =
        fields.each("rules", Place::ScaleRule).into_iter().filter_map(rule).collect();
    check_unique(&fields, "rules", rules.iter().map(|rule| rule.name.as_str()));
    fields.close();
    Scale {
        min_replicas,
        max_replicas,
        cooldown_period_secs,
        polling_interval_secs,
        allow_scaling_rule_override,
        rules,
    }
}

fn rule(mut fields: Fields<'_>) -> Option<ScaleRule> {
    const KINDS: [&str; 4] = ["http", "tcp", "custom", "azureQueue"];
    if !fields.has("name") {
        fields.missing("name", "every scale rule has a name of its own");
    }
    let name = fields.name("name").unwrap_or_default();
    let given: Vec<&'static str> = KINDS.into_iter().filter(|kind| fields.has(kind)).collect();
    for kind in KINDS {
        fields.asked(kind);
    }
    let &[kind] = given.as_slice() else {
        let message = "a scale rule has exactly one of http, tcp, custom, azureQueue";
        let reason = if given.is_empty() { Reason::MissingValue } else { Reason::InvalidValue };
        fields.found.error(fields.path.clone(), fields.at, reason, message);
        return None;
    };
    let mut inner = fields.inner(kind, Place::ScaleTrigger)?;
    let trigger = match kind {
        "http" => ScaleTrigger::Http { metadata: inner.pairs("metadata") },
        "tcp" => ScaleTrigger::Tcp { metadata: inner.pairs("metadata") },
        "custom" => {
            if !inner.has("type") {
                inner.missing("type", "the scaler, such as cpu or cron");
            }
            let kind = inner.name("type").unwrap_or_default();
            ScaleTrigger::Custom { kind, metadata: inner.pairs("metadata") }
        }
        _ => ScaleTrigger::AzureQueue {
            account_name: inner.name("accountName"),
            queue_name: inner.name("queueName"),
            queue_length: inner.count("queueLength", 1..=u32::MAX),
        },
    };
    remark(&fields, &inner, &trigger);
    let auth = auth(&mut inner);
    let identity = identity(&mut inner);
    inner.close();
    fields.close();
    Some(ScaleRule { name, trigger, auth, identity })
}

/// Says what of a trigger cannot be acted on.
fn remark(fields: &Fields<'_>, inner: &Fields<'_>, trigger: &ScaleTrigger) {
    let number = |metadata: &BTreeMap<String, String>, keys: &[&str]| {
        let given = metadata.iter().find(|(key, _)| keys.iter().any(|one| is(key, one)));
        if let Some((key, value)) = given.filter(|(_, value)| !is_positive(value)) {
            let message = format!("{} is not valid here: a number above 0", quoted(value));
            inner.error(&format!("metadata.{key}"), Reason::InvalidValue, message);
        }
    };
    match trigger {
        ScaleTrigger::Http { metadata } => number(metadata, &["concurrentRequests"]),
        ScaleTrigger::Tcp { metadata } => {
            number(metadata, &["concurrentConnections", "concurrentRequests"]);
        }
        ScaleTrigger::Custom { kind, metadata } if is(kind, "cron") => {
            // What comes from the environment is not known here.
            let elsewhere = metadata.keys().any(|key| key.to_lowercase().ends_with("fromenv"));
            if let Err(problem) = Cron::read(metadata)
                && !elsewhere
            {
                inner.error("metadata", Reason::InvalidValue, problem);
            }
        }
        ScaleTrigger::Custom { kind, .. } if !kind.is_empty() && !scale::is_known(kind) => {
            let message =
                format!("there is no scaler {} here: the rule asks for nothing", quoted(kind));
            inner.warning("type", Reason::Unsupported, message);
        }
        ScaleTrigger::Custom { .. } => (),
        ScaleTrigger::AzureQueue { .. } => {
            let message = "Azure's queues are not asked: the rule asks for nothing";
            fields.warning("azureQueue", Reason::Unsupported, message);
        }
    }
}

fn is(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name)
}

fn is_positive(value: &str) -> bool {
    value.trim().parse::<f64>().is_ok_and(|number| number.is_finite() && 0.0 < number)
}

/// Secrets for a scaler.
pub(super) fn auth(fields: &mut Fields<'_>) -> Vec<ScaleAuth> {
    let read = |mut inner: Fields<'_>| {
        if !inner.has("secretRef") {
            inner.missing("secretRef", "the name of a secret");
        }
        let secret_ref = secret_ref(&mut inner);
        let trigger_parameter = inner.name("triggerParameter").unwrap_or_default();
        inner.close();
        Some(ScaleAuth { secret_ref: secret_ref?, trigger_parameter })
    };
    fields.each("auth", Place::ScaleAuth).into_iter().filter_map(read).collect()
}

/// A managed identity, which nothing here can act for.
pub(super) fn identity(fields: &mut Fields<'_>) -> Option<String> {
    let identity = fields.name("identity");
    if identity.is_some() {
        fields.warning(
            "identity",
            Reason::NoMeaningHere,
            "managed identities are Azure's; use a secret",
        );
    }
    identity
}
