//! Rules: what each of a revision's scale rules asks for at a moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::scaler::Metric;
use super::{Asked, Reading, Readings, SampleKey, WINDOW};
use crate::document::{ScaleRule, ScaleTrigger, Template};
use crate::model::{Moment, RevisionName, WallTime};
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::route::Transport;
use crate::window::{Schedule, Zones};

/// Requests in a second, or connections at a time, that a replica is to have where a rule does not say (features 7).
const USUAL_TARGET: f64 = 10.0;

/// The rule of an app with ingress that has none, and what wakes one whose rules do not look at requests.
const REQUESTS: &str = "http";
/// The same of one that speaks TCP.
const CONNECTIONS: &str = "tcp";

/// Custom scalers that are sampled, by their names in KEDA.
const SAMPLED: [&str; 7] =
    ["cpu", "memory", "mqtt", "metrics-api", "prometheus", "external", "external-push"];

/// What is known beside a revision's own template.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Now.
    pub now: Moment,
    /// The date, for cron.
    pub wall: WallTime,
    /// The zones that are known.
    pub zones: &'a Zones,
    /// What is asked of it.
    pub asked: Asked,
    /// What was sampled.
    pub readings: &'a Readings,
    /// Its schedules.
    pub crons: &'a Crons,
    /// It has replicas: what was asked of them counts.
    pub awake: bool,
}

/// What all rules of a revision ask for, when that may change by itself, and what is wrong with them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asks<'a> {
    /// One for each rule.
    pub metrics: Vec<Metric<'a>>,
    /// When a schedule begins or ends.
    pub again: Option<Moment>,
    /// Why a rule is not known to ask for anything.
    pub trouble: Option<Trouble>,
}

/// What the rules of a template ask for; `ingress` tells what comes to it, if anything does.
pub fn asks<'a>(
    revision: &RevisionName,
    template: &'a Template,
    ingress: Option<Transport>,
    sight: Sight<'_>,
) -> Asks<'a> {
    let mut all = Asks::default();
    for rule in &template.scale.rules {
        match one(revision, rule, sight) {
            Ok((metric, again)) => {
                all.metrics.push(metric);
                all.again = all.again.into_iter().chain(again).min();
            }
            Err(trouble) => {
                // The number of replicas stays as it is.
                all.metrics.push(Metric {
                    rule: &rule.name,
                    desired: None,
                    active: false,
                    calls: false,
                });
                all.trouble.get_or_insert(trouble);
            }
        }
    }
    let looked_at = |rule: &ScaleRule| {
        matches!(rule.trigger, ScaleTrigger::Http { .. } | ScaleTrigger::Tcp { .. })
    };
    if let Some(transport) = ingress
        && !template.scale.rules.iter().any(looked_at)
    {
        let own = template.scale.rules.is_empty();
        let metric = match transport {
            Transport::Tcp => connections(CONNECTIONS, USUAL_TARGET, sight),
            Transport::Auto | Transport::Http | Transport::Http2 => {
                requests(REQUESTS, USUAL_TARGET, sight)
            }
        };
        // Whoever scales by something else is woken and kept by requests, and no more.
        let desired = metric.desired.filter(|_| own).or(Some(u32::from(metric.active)));
        all.metrics.push(Metric { desired, ..metric });
    }
    all
}

/// Whether a rule that looks at something else than requests brings an app back from zero, or keeps it from there.
pub fn has_source(template: &Template) -> bool {
    template.scale.rules.iter().any(|rule| match &rule.trigger {
        ScaleTrigger::Custom { kind, .. } => is_known(kind) && !kind.eq_ignore_ascii_case("http"),
        ScaleTrigger::Http { .. } | ScaleTrigger::Tcp { .. } | ScaleTrigger::AzureQueue { .. } => {
            false
        }
    })
}

/// An app with such rules has no way to zero (features 7): what it uses is not seen when it does not run.
pub fn needs_a_replica(template: &Template) -> bool {
    template.scale.rules.iter().any(|rule| match &rule.trigger {
        ScaleTrigger::Custom { kind, .. } => is_usage(kind),
        ScaleTrigger::Http { .. } | ScaleTrigger::Tcp { .. } | ScaleTrigger::AzureQueue { .. } => {
            false
        }
    })
}

/// Whether there is a scaler of this name.
pub fn is_known(kind: &str) -> bool {
    let own = ["http", "cron"];
    own.iter().chain(&SAMPLED).any(|known| kind.eq_ignore_ascii_case(known))
}

fn is_usage(kind: &str) -> bool {
    ["cpu", "memory"].iter().any(|usage| kind.eq_ignore_ascii_case(usage))
}

fn one<'a>(
    revision: &RevisionName,
    rule: &'a ScaleRule,
    sight: Sight<'_>,
) -> Result<(Metric<'a>, Option<Moment>), Trouble> {
    match &rule.trigger {
        ScaleTrigger::Http { metadata } => {
            let target = number(metadata, &["concurrentRequests"]).unwrap_or(USUAL_TARGET);
            Ok((requests(&rule.name, target, sight), None))
        }
        ScaleTrigger::Tcp { metadata } => {
            let keys = ["concurrentConnections", "concurrentRequests"];
            let target = number(metadata, &keys).unwrap_or(USUAL_TARGET);
            Ok((connections(&rule.name, target, sight), None))
        }
        ScaleTrigger::Custom { kind, metadata } if kind.eq_ignore_ascii_case("http") => {
            let target = number(metadata, &["concurrentRequests"]).unwrap_or(USUAL_TARGET);
            Ok((requests(&rule.name, target, sight), None))
        }
        ScaleTrigger::Custom { kind, metadata } if kind.eq_ignore_ascii_case("cron") => {
            let known = sight.crons.get(&rule.name).cloned();
            let cron = known.unwrap_or_else(|| Cron::read(metadata).map(Arc::new));
            cron.map_err(|details| trouble(Reason::InvalidValue, &rule.name, &details))?
                .metric(rule, sight)
        }
        ScaleTrigger::Custom { kind, .. } if is_known(kind) => {
            Ok((sampled(revision, rule, sight)?, None))
        }
        // Warned about when the document came: it asks for nothing.
        ScaleTrigger::Custom { .. } | ScaleTrigger::AzureQueue { .. } => {
            Ok((Metric { rule: &rule.name, desired: Some(0), active: false, calls: false }, None))
        }
    }
}

fn trouble(reason: Reason, rule: &str, details: &str) -> Trouble {
    Trouble { reason, details: format!("rule {rule}: {details}") }
}

/// The value of the first of these keys, where it is a number above zero.
fn number(metadata: &BTreeMap<String, String>, keys: &[&str]) -> Option<f64> {
    let value = keys.iter().find_map(|key| value(metadata, key))?;
    value.trim().parse::<f64>().ok().filter(|number| number.is_finite() && 0.0 < *number)
}

fn value<'a>(metadata: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    let found = metadata.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
    found.map(|(_, value)| value.as_str())
}

fn zone(metadata: &BTreeMap<String, String>) -> &str {
    value(metadata, "timezone").unwrap_or("UTC")
}

/// Requests in a second, over the window.
fn requests<'a>(rule: &'a str, target: f64, sight: Sight<'_>) -> Metric<'a> {
    #[expect(clippy::cast_precision_loss, reason = "nobody counts 2^52 requests in 15 s")]
    let rate = sight.asked.begun as f64 / WINDOW.as_secs_f64();
    of_requests(rule, rate, target, sight)
}

/// Open ones.
fn connections<'a>(rule: &'a str, target: f64, sight: Sight<'_>) -> Metric<'a> {
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 connections")]
    let open = sight.asked.open as f64;
    of_requests(rule, open, target, sight)
}

fn of_requests<'a>(rule: &'a str, value: f64, target: f64, sight: Sight<'_>) -> Metric<'a> {
    let Asked { begun, open, waiting } = sight.asked;
    let calls = 0 < waiting;
    // What is still open at the last replica that goes calls for no other one.
    let active = calls || sight.awake && (0 < begun || 0 < open);
    Metric { rule, desired: Some(replicas(value, target)), active, calls }
}

/// `ceil(value / target)` (features 7).
fn replicas(value: f64, target: f64) -> u32 {
    /// What is this close to a whole number is one: 0.1 is no binary fraction.
    const SLACK: f64 = 1e-9;
    let exact = value / target;
    if !exact.is_finite() || exact <= 0.0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive, and what is too large for u32 becomes its largest"
    )]
    let whole = (exact - SLACK).ceil() as u32;
    whole
}

fn sampled<'a>(
    revision: &RevisionName,
    rule: &'a ScaleRule,
    sight: Sight<'_>,
) -> Result<Metric<'a>, Trouble> {
    let key = SampleKey { revision: revision.clone(), rule: rule.name.clone() };
    let metric = Metric { rule: &rule.name, desired: None, active: false, calls: false };
    match sight.readings.get(&key) {
        None => Ok(metric),
        Some(Reading::Failed(failed)) => Err(trouble(failed.reason, &rule.name, &failed.details)),
        Some(Reading::Value { value, target, activation }) => Ok(Metric {
            desired: Some(replicas(*value, *target)),
            active: activation < value,
            ..metric
        }),
    }
}

/// The schedules of a template, or what is wrong with them, by rule. Reading one takes longer than all the rest of a
/// decision, so that is done once.
pub type Crons = BTreeMap<String, Result<Arc<Cron>, String>>;

/// Reads the schedules of a template.
pub fn crons(template: &Template) -> Crons {
    let read = |rule: &ScaleRule| match &rule.trigger {
        ScaleTrigger::Custom { kind, metadata } if kind.eq_ignore_ascii_case("cron") => {
            Some((rule.name.clone(), Cron::read(metadata).map(Arc::new)))
        }
        ScaleTrigger::Custom { .. }
        | ScaleTrigger::Http { .. }
        | ScaleTrigger::Tcp { .. }
        | ScaleTrigger::AzureQueue { .. } => None,
    };
    template.scale.rules.iter().filter_map(read).collect()
}

/// A `cron` rule: so many replicas from each start to the next end.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    start: Schedule,
    end: Schedule,
    zone: String,
    replicas: u32,
}

impl Cron {
    /// Reads `start`, `end`, `timezone` and `desiredReplicas`; says what is wrong with them.
    pub fn read(metadata: &BTreeMap<String, String>) -> Result<Self, String> {
        let schedule = |key: &str| -> Result<Schedule, String> {
            let text = value(metadata, key).ok_or_else(|| format!("{key} is required"))?;
            let read = Schedule::read(text);
            read.map_err(|why| format!("{key}: {text:?} is no schedule: {why}"))
        };
        let replicas = value(metadata, "desiredReplicas").ok_or("desiredReplicas is required")?;
        let replicas = replicas.trim().parse();
        Ok(Self {
            start: schedule("start")?,
            end: schedule("end")?,
            zone: zone(metadata).to_owned(),
            replicas: replicas.map_err(|_| "desiredReplicas is no whole number")?,
        })
    }

    /// The time zone by whose clock it goes.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    fn metric<'a>(
        &self,
        rule: &'a ScaleRule,
        sight: Sight<'_>,
    ) -> Result<(Metric<'a>, Option<Moment>), Trouble> {
        /// The board's date may be set meanwhile.
        const CLOCK_CHECK: Duration = Duration::from_hours(1);
        let zone = sight.zones.of(&self.zone).ok_or_else(|| {
            trouble(Reason::TimeZoneUnknown, &rule.name, &format!("timezone {:?}", self.zone))
        })?;
        let (begun, ended) = (self.start.last(sight.wall, zone), self.end.last(sight.wall, zone));
        let open = begun.is_some() && ended < begun;
        let next = if open { &self.end } else { &self.start }.next(sight.wall, zone);
        let again = next.map(|next| {
            let wait = next.0.saturating_sub(sight.wall.0).min(CLOCK_CHECK);
            sight.now.after(wait)
        });
        let desired = Some(if open { self.replicas } else { 0 });
        Ok((Metric { rule: &rule.name, desired, active: open, calls: false }, again))
    }
}

/// The time zones that the rules of a template go by.
pub fn zones(template: &Template) -> impl Iterator<Item = String> {
    template.scale.rules.iter().filter_map(|rule| match &rule.trigger {
        ScaleTrigger::Custom { kind, metadata } if kind.eq_ignore_ascii_case("cron") => {
            Some(zone(metadata).to_owned())
        }
        ScaleTrigger::Custom { .. }
        | ScaleTrigger::Http { .. }
        | ScaleTrigger::Tcp { .. }
        | ScaleTrigger::AzureQueue { .. } => None,
    })
}
