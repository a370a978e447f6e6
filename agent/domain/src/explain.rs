//! Why an app is not as asked for: what `skerry explain APP` says, made of the app's status alone.
//!
//! Nothing is guessed here. The first line is the answer; every other repeats a reason that the status gives, weightiest
//! first, once, and says what to do.

use crate::document::Finding;
use crate::reason::Reason;
use crate::status::{AppStatus, Phase, RevisionStatus, RunningState, RunningStatus};

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
    /// What kind; its sentence says the rest.
    pub reason: Reason,
    /// The details, for people; may be empty.
    pub details: String,
    /// What to do about it: the reason's fix, unless the state of the app knows a better one.
    pub fix: String,
}

/// Explains the state of an app.
pub fn explain(status: &AppStatus) -> Explanation {
    let mut causes = Causes::default();
    if let Some(error) = &status.error {
        let subject = match error.path.as_str() {
            "" => status.app.clone(),
            path => format!("{} {path}", status.app),
        };
        causes.add(subject, error.reason, &error.message);
    }
    if let Some(reason) = asked_for(status) {
        causes.add(status.app.clone(), reason, &status.scale_target);
    }
    if let Some(latest) = status.revisions.first().filter(|_| asleep(status)) {
        let fix = format!("Activate one: skerry revision activate {}.", latest.name);
        causes.tell(status.app.clone(), Reason::NoReadyReplica, "no revision is active", fix);
    }
    for warning in &status.warnings {
        causes.of_port(status, warning);
    }
    for (n, revision) in status.revisions.iter().enumerate() {
        // An old revision that is no longer active is history, unless it is the one that was asked for last.
        if revision.active || n == 0 {
            causes.of_revision(status, revision);
        }
        if 0 < revision.traffic_weight {
            causes.of_traffic(revision);
        }
    }
    Explanation { summary: summary(status), whys: causes.whys }
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

/// There are revisions and none may run, though nobody stopped the app.
fn asleep(status: &AppStatus) -> bool {
    let latest = status.revisions.first();
    status.running_status != RunningStatus::Stopped
        && status.revisions.iter().all(|revision| !revision.active)
        // One that was rolled back says so itself.
        && latest.is_some_and(|latest| latest.phase != Phase::RolledBack && latest.reason.is_none())
}

/// The causes so far, with what the status said of each: what a revision says, its replicas need not repeat.
#[derive(Default)]
struct Causes {
    whys: Vec<Why>,
    said: Vec<(Reason, String)>,
}

impl Causes {
    /// Adds it, unless something weightier has said the same.
    fn add(&mut self, subject: String, reason: Reason, details: &str) {
        if self.is_new(reason, details) {
            self.tell(subject, reason, details, reason.fix().to_owned());
        }
    }

    fn is_new(&mut self, reason: Reason, details: &str) -> bool {
        // A status without details repeats the sentence of its reason.
        let bare = details.is_empty() || details == reason.sentence();
        let same = |(known, said): &(Reason, String)| *known == reason && (bare || said == details);
        if self.said.iter().any(same) {
            return false;
        }
        self.said.push((reason, details.to_owned()));
        true
    }

    fn tell(&mut self, subject: String, reason: Reason, details: &str, fix: String) {
        self.whys.push(Why { subject, reason, details: details.to_owned(), fix });
    }

    fn of_revision(&mut self, status: &AppStatus, revision: &RevisionStatus) {
        if let Some(reason) = revision.reason {
            let rolled_back = revision.phase == Phase::RolledBack;
            if !rolled_back {
                self.add(revision.name.to_string(), reason, &revision.details);
            } else if self.is_new(reason, &revision.details) {
                let mut details = vec![revision.details.clone(), instead(status, revision)];
                details.retain(|text| !text.is_empty());
                let again = "end a newer document, or skerry.force: true.";
                let fix = match reason.fix() {
                    fix if fix.starts_with("Nothing to do") => format!("S{again}"),
                    fix => format!("{fix} Then s{again}"),
                };
                self.tell(revision.name.to_string(), reason, &details.join("; "), fix);
            }
        }
        for replica in &revision.replica_list {
            if let Some(reason) = replica.reason {
                self.add(replica.name.to_string(), reason, &replica.details);
            }
        }
    }

    /// A port that the app asks for and does not have: the app runs, and is not reached by it.
    fn of_port(&mut self, status: &AppStatus, warning: &Finding) {
        if matches!(warning.reason, Reason::PortConflict | Reason::PortTaken) {
            let subject = format!("{} {}", status.app, warning.path);
            self.add(subject, warning.reason, &warning.message);
        }
    }

    /// Traffic that is meant for a revision and finds nobody there, where the revision gives no reason for it.
    fn of_traffic(&mut self, revision: &RevisionStatus) {
        let name = revision.name.as_str();
        let known = |why: &Why| why.subject.starts_with(name);
        if serves(revision) || self.whys.iter().any(known) {
            return;
        }
        let share = format!("{} % of the traffic is meant for it", revision.traffic_weight);
        let app = name.split("--").next().unwrap_or(name);
        let elsewhere = format!("send its traffic elsewhere: skerry traffic {app}");
        let (details, fix) = if revision.active {
            (format!("{share}, and it is not ready"), format!("Wait for it, or {elsewhere}."))
        } else {
            let activate = format!("Activate it: skerry revision activate {name}; or");
            (format!("{share}, and it is inactive"), format!("{activate} {elsewhere}."))
        };
        self.tell(name.to_owned(), Reason::NoReadyReplica, &details, fix);
    }
}

/// A request that is sent to it is answered: by a replica, or by the one that it wakes.
fn serves(revision: &RevisionStatus) -> bool {
    0 < revision.ready_replicas
        || (revision.active && revision.running_state == RunningState::ScaledToZero)
}

/// Who has the traffic in place of a revision that was rolled back.
fn instead(status: &AppStatus, failed: &RevisionStatus) -> String {
    let others: Vec<&str> = status
        .revisions
        .iter()
        .filter(|revision| 0 < revision.traffic_weight && revision.name != failed.name)
        .map(|revision| revision.name.as_str())
        .collect();
    match others.as_slice() {
        [] => "no other revision serves".to_owned(),
        [one] => format!("{one} serves instead"),
        several => format!("{} serve instead", several.join(" and ")),
    }
}

/// The answer in one line: the app, its replicas, who has the traffic, how far the newest revision has come.
fn summary(status: &AppStatus) -> String {
    let word = status.running_status.word();
    let active = || status.revisions.iter().filter(|revision| revision.active);
    let replicas: u32 = active().map(|revision| revision.replicas).sum();
    let ready: u32 = active().map(|revision| revision.ready_replicas).sum();
    let mut line = match replicas {
        0 => format!("{} is {word}, no replica", status.app),
        _ => format!("{} is {word}, {ready} of {replicas} replicas ready", status.app),
    };
    if status.running_status == RunningStatus::Stopped {
        return line;
    }
    for revision in status.revisions.iter().filter(|revision| revision.traffic_weight != 0) {
        let unready = if serves(revision) { "" } else { ", which is not ready" };
        let (weight, name) = (revision.traffic_weight, &revision.name);
        line = format!("{line}, {weight} % of the traffic on {name}{unready}");
    }
    match status.revisions.first().and_then(progress) {
        Some(progress) => format!("{line}; {progress}"),
        None => line,
    }
}

/// How far the newest revision has come, while it is on its way or came back from it.
fn progress(latest: &RevisionStatus) -> Option<String> {
    let name = &latest.name;
    let because = latest.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    match latest.phase {
        Phase::RolledBack => Some(format!("{name} was rolled back{because}")),
        Phase::Committed => None,
        Phase::Fetching | Phase::Staged | Phase::Starting | Phase::Probation if !latest.active => {
            None
        }
        Phase::Fetching => Some(format!("{name} waits for its images{because}")),
        Phase::Staged => Some(format!("{name} waits to start{because}")),
        Phase::Starting => Some(format!("{name} is starting{because}")),
        Phase::Probation => Some(format!("{name} is on trial{because}")),
    }
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
            exposed_port: 0,
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
            wanted_replicas: u32::from(active),
            scaled_by: String::new(),
            standby_memory_bytes: 0,
            standby: "",
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

    /// The newest of two revisions in `phase`; the older one has the traffic.
    fn rollout(phase: Phase, reason: Option<Reason>, details: &str) -> AppStatus {
        let mut status = app();
        let old = RevisionStatus { traffic_weight: 100, ..revision(1, true) };
        let new = RevisionStatus {
            phase,
            active: phase != Phase::RolledBack,
            traffic_weight: 0,
            ready_replicas: 0,
            replicas: 0,
            reason,
            details: details.to_owned(),
            ..revision(2, true)
        };
        status.revisions = vec![new, old];
        status
    }

    #[track_caller]
    fn check_summary(status: &AppStatus, expected: &str) {
        assert_eq!(explain(status).summary, expected);
    }

    #[test]
    fn a_revision_that_was_rolled_back_says_who_serves_instead() {
        let details = "GET :8080/ answered 500";
        let mut status = rollout(Phase::RolledBack, Some(Reason::ProbeFailed), details);
        status.revisions[0].replica_list = vec![replica(Reason::ProbeFailed, details)];
        check_summary(
            &status,
            "hello is Running, 1 of 1 replicas ready, 100 % of the traffic on hello--0000001; \
             hello--0000002 was rolled back (ProbeFailed)",
        );
        check(
            &status,
            &[
                "hello--0000002: ProbeFailed: GET :8080/ answered 500; hello--0000001 serves instead",
            ],
        );
        let fix = &explain(&status).whys[0].fix;
        assert!(fix.ends_with("Then send a newer document, or skerry.force: true."), "{fix}");
        status.revisions.pop();
        check(
            &status,
            &["hello--0000002: ProbeFailed: GET :8080/ answered 500; no other revision serves"],
        );
    }

    #[test]
    fn a_rollout_says_in_the_first_line_how_far_it_is_and_what_holds_it() {
        let start =
            "hello is Running, 1 of 1 replicas ready, 100 % of the traffic on hello--0000001";
        let memory = Some(Reason::InsufficientMemory);
        for (phase, reason, expected) in [
            (Phase::Fetching, None, "waits for its images"),
            (Phase::Staged, None, "waits to start"),
            (Phase::Staged, memory, "waits to start (InsufficientMemory)"),
            (Phase::Starting, None, "is starting"),
            (Phase::Probation, None, "is on trial"),
        ] {
            let status = rollout(phase, reason, "");
            check_summary(&status, &format!("{start}; hello--0000002 {expected}"));
        }
        let status = rollout(Phase::Staged, memory, "12 MiB are free");
        check(&status, &["hello--0000002: InsufficientMemory: 12 MiB are free"]);
        assert_eq!(explain(&status).whys[0].fix, Reason::InsufficientMemory.fix());
        check(&rollout(Phase::Probation, None, ""), &[]);
    }

    #[test]
    fn traffic_for_a_revision_that_cannot_serve_is_a_cause_of_its_own() {
        let mut status = rollout(Phase::Committed, None, "");
        status.revisions[0].traffic_weight = 30;
        status.revisions[1].traffic_weight = 70;
        check_summary(
            &status,
            "hello is Running, 1 of 1 replicas ready, 30 % of the traffic on hello--0000002, \
             which is not ready, 70 % of the traffic on hello--0000001",
        );
        let unready = "30 % of the traffic is meant for it, and it is not ready";
        check(&status, &[&format!("hello--0000002: NoReadyReplica: {unready}")]);
        status.revisions[0].active = false;
        let inactive = "30 % of the traffic is meant for it, and it is inactive";
        check(&status, &[&format!("hello--0000002: NoReadyReplica: {inactive}")]);
        assert_eq!(
            explain(&status).whys[0].fix,
            "Activate it: skerry revision activate hello--0000002; or send its traffic elsewhere: skerry traffic hello."
        );
        // Its own reason says why; and one that sleeps is woken by a request.
        status.revisions[0].active = true;
        status.revisions[0].reason = Some(Reason::PullingImage);
        check(&status, &["hello--0000002: PullingImage: "]);
        status.revisions[0].reason = None;
        status.revisions[0].running_state = RunningState::ScaledToZero;
        check(&status, &[]);
    }

    #[test]
    fn an_app_without_an_active_revision_says_which_to_activate() {
        let mut status = app();
        status.revisions[0] = revision(2, false);
        check(&status, &["hello: NoReadyReplica: no revision is active"]);
        let fix = "Activate one: skerry revision activate hello--0000002.";
        assert_eq!(explain(&status).whys[0].fix, fix);
        check_summary(&status, "hello is Running, no replica");
    }

    #[test]
    fn every_reason_can_stand_at_every_phase() {
        for reason in Reason::ALL {
            for phase in [Phase::Fetching, Phase::Staged, Phase::Probation, Phase::RolledBack] {
                let explanation = explain(&rollout(phase, Some(*reason), "details"));
                assert!(explanation.summary.ends_with(&format!("({reason})")), "{reason}");
                let [why] = &explanation.whys[..] else { panic!("{:?}", explanation.whys) };
                assert!(why.fix.ends_with('.') && why.details.starts_with("details"), "{why:?}");
            }
        }
    }

    #[test]
    fn a_stop_and_a_pin_are_named_as_reasons() {
        let mut status = app();
        status.scale_target = "replicas=0".to_owned();
        check(&status, &["hello: PinnedToZero: replicas=0"]);
        status.scale_target = String::new();
        status.running_status = RunningStatus::Stopped;
        check(&status, &["hello: AppStopped: "]);
        let stopped = revision(1, true);
        let details = Reason::AppStopped.sentence().to_owned();
        let reason = Some(Reason::AppStopped);
        status.revisions = vec![RevisionStatus { reason, details, ..stopped }];
        check(&status, &["hello: AppStopped: "]);
    }
}
