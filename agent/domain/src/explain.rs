//! Why an app is not as asked for: what `skerry explain APP` says, made of the app's status alone.
//!
//! Nothing is guessed here. Every line repeats a reason that the status gives, weightiest first, once.

use crate::reason::Reason;
use crate::status::{AppStatus, RevisionStatus, RunningStatus};

/// The answer to "what is wrong with it?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The state in one line.
    pub summary: String,
    /// What is not as asked for, the weightiest first; empty if all is.
    pub whys: Vec<Why>,
}

/// One thing that is not as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The app, revision or replica that it is about; for a document, the app and the path in it.
    pub subject: String,
    /// What kind; its sentence and its fix say the rest.
    pub reason: Reason,
    /// The details, for people; may be empty.
    pub details: String,
}

/// Explains the state of an app.
pub fn explain(status: &AppStatus) -> Explanation {
    let mut whys = Vec::new();
    if let Some(error) = &status.error {
        let subject = match error.path.as_str() {
            "" => status.app.clone(),
            path => format!("{} {path}", status.app),
        };
        add(&mut whys, subject, error.reason, &error.message);
    }
    if let Some(reason) = asked_for(status) {
        add(&mut whys, status.app.clone(), reason, &status.scale_target);
    }
    for (n, revision) in status.revisions.iter().enumerate() {
        // An old revision that is no longer active is history, unless it is the one that was asked for last.
        if revision.active || n == 0 {
            of_revision(&mut whys, revision);
        }
    }
    Explanation { summary: summary(status), whys }
}

/// What a person asked for and may have forgotten: it looks like a fault and is none.
fn asked_for(status: &AppStatus) -> Option<Reason> {
    match status.running_status {
        RunningStatus::Stopped => Some(Reason::AppStopped),
        RunningStatus::Progressing
        | RunningStatus::Running
        | RunningStatus::Suspended
        | RunningStatus::Ready => {
            (status.scale_target == "replicas=0").then_some(Reason::PinnedToZero)
        }
    }
}

fn of_revision(whys: &mut Vec<Why>, revision: &RevisionStatus) {
    if let Some(reason) = revision.reason {
        add(whys, revision.name.to_string(), reason, &revision.details);
    }
    for replica in &revision.replica_list {
        if let Some(reason) = replica.reason {
            add(whys, replica.name.to_string(), reason, &replica.details);
        }
    }
}

/// Adds it, unless something weightier has said the same.
fn add(whys: &mut Vec<Why>, subject: String, reason: Reason, details: &str) {
    let said = |why: &Why| why.reason == reason && (details.is_empty() || why.details == details);
    if !whys.iter().any(said) {
        whys.push(Why { subject, reason, details: details.to_owned() });
    }
}

fn summary(status: &AppStatus) -> String {
    let word = status.running_status.word();
    let active = || status.revisions.iter().filter(|revision| revision.active);
    let replicas: u32 = active().map(|revision| revision.replicas).sum();
    let ready: u32 = active().map(|revision| revision.ready_replicas).sum();
    let mut line = match replicas {
        0 => format!("{} is {word}, no replica", status.app),
        _ => format!("{} is {word}, {ready} of {replicas} replicas ready", status.app),
    };
    for revision in active().filter(|revision| revision.traffic_weight != 0) {
        line = format!("{line}, {} % of the traffic on {}", revision.traffic_weight, revision.name);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Finding;
    use crate::model::WallTime;
    use crate::status::{
        HealthState, Phase, ProvisioningState, ReplicaRunningState, ReplicaStatus, RunningState,
        Source,
    };

    fn app() -> AppStatus {
        AppStatus {
            app: "hello".to_owned(),
            generation: 1,
            digest: None,
            source: Source::Mqtt,
            running_status: RunningStatus::Running,
            fqdn: String::new(),
            lan_name: String::new(),
            latest_revision: None,
            latest_ready_revision: None,
            revisions: vec![revision(2, true), revision(1, false)],
            warnings: Vec::new(),
            error: None,
            scale_target: String::new(),
            updated: WallTime::default(),
        }
    }

    fn revision(n: u32, active: bool) -> RevisionStatus {
        RevisionStatus {
            name: format!("hello--000000{n}").parse().unwrap(),
            phase: Phase::Committed,
            active,
            traffic_weight: if active { 100 } else { 0 },
            labels: Vec::new(),
            replicas: u32::from(active),
            ready_replicas: u32::from(active),
            provisioning_state: ProvisioningState::Provisioned,
            running_state: RunningState::Running,
            health_state: HealthState::Healthy,
            reason: None,
            details: String::new(),
            image: String::new(),
            replica_list: Vec::new(),
        }
    }

    fn replica(reason: Reason, details: &str) -> ReplicaStatus {
        ReplicaStatus {
            name: "hello--0000002-abcde".parse().unwrap(),
            running_state: ReplicaRunningState::NotRunning,
            ready: false,
            address: None,
            restart_count: 2,
            reason: Some(reason),
            details: details.to_owned(),
        }
    }

    #[track_caller]
    fn check(status: &AppStatus, expected: &[&str]) {
        let lines: Vec<String> = explain(status)
            .whys
            .iter()
            .map(|why| format!("{}: {}: {}", why.subject, why.reason, why.details))
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_app_that_is_as_asked_for_has_a_summary_and_nothing_else() {
        check(&app(), &[]);
        let expected =
            "hello is Running, 1 of 1 replicas ready, 100 % of the traffic on hello--0000002";
        assert_eq!(explain(&app()).summary, expected);
    }

    #[test]
    fn a_refused_document_comes_before_a_failing_replica() {
        let mut status = app();
        status.revisions[0].replica_list = vec![replica(Reason::OOMKilled, "exit code 137")];
        status.error = Some(Finding {
            path: "name".to_owned(),
            reason: Reason::NameMismatch,
            message: "other".to_owned(),
            position: None,
        });
        let expected =
            ["hello name: NameMismatch: other", "hello--0000002-abcde: OOMKilled: exit code 137"];
        check(&status, &expected);
    }

    #[test]
    fn what_a_revision_says_its_replicas_do_not_repeat() {
        let mut status = app();
        status.revisions[0].reason = Some(Reason::CrashLoopBackOff);
        status.revisions[0].details = "exit code 1".to_owned();
        let same = replica(Reason::CrashLoopBackOff, "exit code 1");
        let silent = replica(Reason::CrashLoopBackOff, "");
        status.revisions[0].replica_list = vec![same, silent];
        check(&status, &["hello--0000002: CrashLoopBackOff: exit code 1"]);
    }

    #[test]
    fn an_inactive_revision_counts_only_while_it_is_the_newest() {
        let mut status = app();
        status.revisions[1].reason = Some(Reason::DeadlineExceeded);
        check(&status, &[]);
        status.revisions.remove(0);
        check(&status, &["hello--0000001: DeadlineExceeded: "]);
        assert_eq!(explain(&status).summary, "hello is Running, no replica");
    }

    #[test]
    fn a_stop_and_a_pin_are_named_as_reasons() {
        let mut status = app();
        status.scale_target = "replicas=0".to_owned();
        check(&status, &["hello: PinnedToZero: replicas=0"]);
        status.scale_target = String::new();
        status.running_status = RunningStatus::Stopped;
        check(&status, &["hello: AppStopped: "]);
    }
}
