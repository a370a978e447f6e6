//! Records and processes, folded into what the loop calls a replica.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use containerd_client::types::v1::{Process, Status};
use domain::model::{Digest, Moment, ReplicaName};
use domain::replica::{ContainerState, ObservedReplica};

use super::record::{Record, Role};

/// What a process that vanished with its shim is said to have ended with: a kill.
const VANISHED: u32 = 128 + 9;

/// For so long after an end there may be last words that are not written yet; later, none are looked for.
const WORDS_WAIT: Duration = Duration::from_secs(5);

/// What was seen before, so that a moment is when something was first seen and not when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, Seen>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// A container that is started again is another process.
    pid: u32,
    since: Moment,
    /// Since when it is frozen, if it is.
    frozen: Option<Moment>,
    ended: Option<End>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    code: u32,
    oom: bool,
    at: Moment,
    words: String,
}

/// What folding needs to ask of the board.
pub(super) trait Traces {
    /// The container's process was started in this boot.
    fn started(&self, record: &Record) -> bool;
    /// The init container has ended well and is not to run again.
    fn done(&self, record: &Record) -> bool;
    /// Its process is paused in the freezer.
    fn frozen(&self, record: &Record) -> bool;
    /// The kernel killed it for memory.
    fn oom_killed(&self, record: &Record) -> bool;
    /// The last line that it wrote since it was started; empty where it wrote none.
    fn words(&self, record: &Record) -> String;
}

impl Seen {
    fn new(pid: u32, since: Moment) -> Self {
        Self { pid, since, frozen: None, ended: None }
    }
}

impl Memory {
    /// A process of `id` was started just now.
    pub(super) fn started(&self, id: &str, pid: u32, now: Moment) {
        let seen = Seen::new(pid, now);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), seen);
    }

    /// Folds one look at containerd.
    pub(super) fn fold(
        &self,
        records: Vec<Record>,
        tasks: Vec<Process>,
        traces: &impl Traces,
        now: Moment,
    ) -> BTreeMap<ReplicaName, ObservedReplica> {
        let tasks: BTreeMap<String, Process> =
            tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut replicas = BTreeMap::new();
        let mut known = BTreeMap::new();
        for record in records {
            let before = memory.get(&record.id).cloned();
            let (state, seen) = look(&record, tasks.get(&record.id), before, traces, now);
            known.extend(seen.map(|seen| (record.id.clone(), seen)));
            let ended_well = matches!(state, ContainerState::Exited { code: 0, .. });
            let over = record.facts.role == Role::Init && (ended_well || traces.done(&record));
            let replica = replicas.entry(record.replica.clone()).or_insert_with(|| empty(&record));
            if !over {
                replica.containers.insert(record.container, state);
            }
        }
        *memory = known;
        replicas
    }
}

fn empty(record: &Record) -> ObservedReplica {
    // A digest that cannot be read matches no template, so the replica is replaced rather than adopted.
    let unknown = || Digest::of(record.facts.template_digest.as_bytes());
    ObservedReplica {
        app: record.app.clone(),
        revision: record.revision.clone(),
        environment: record.environment.clone(),
        boot: record.boot.clone(),
        template_digest: record.facts.template_digest.parse().unwrap_or_else(|_| unknown()),
        grace: record.facts.grace_secs.map(|secs| Duration::from_secs(secs.into())),
        address: record.facts.address,
        containers: BTreeMap::new(),
    }
}

fn look(
    record: &Record,
    task: Option<&Process>,
    before: Option<Seen>,
    traces: &impl Traces,
    now: Moment,
) -> (ContainerState, Option<Seen>) {
    let Some(task) = task else {
        if !traces.started(record) {
            return (ContainerState::Created, None);
        }
        let seen = before.unwrap_or(Seen::new(0, now));
        return ended(record, seen, VANISHED, traces, now);
    };
    let before = before.filter(|seen| seen.pid == task.pid);
    let seen = before.unwrap_or(Seen::new(task.pid, now));
    match task.status() {
        Status::Created | Status::Unknown => (ContainerState::Armed, None),
        // containerd knows only of what was paused by its call.
        Status::Running | Status::Paused | Status::Pausing => {
            let frozen = traces.frozen(record).then(|| seen.frozen.unwrap_or(now));
            let state = match frozen {
                Some(since) => ContainerState::Frozen { since },
                None => ContainerState::Running { since: seen.since },
            };
            (state, Some(Seen { frozen, ..seen }))
        }
        Status::Stopped => ended(record, seen, task.exit_status, traces, now),
    }
}

fn ended(
    record: &Record,
    seen: Seen,
    code: u32,
    traces: &impl Traces,
    now: Moment,
) -> (ContainerState, Option<Seen>) {
    let mut end = seen.ended.unwrap_or_else(|| End {
        code,
        // Only a kill can be the kernel's; a program may have survived the loss of a child long before it ended.
        oom: code == VANISHED && traces.oom_killed(record),
        at: now,
        words: String::new(),
    });
    // Its log is written by another process, which may be a moment behind.
    if end.words.is_empty() && now <= end.at.after(WORDS_WAIT) {
        end.words = traces.words(record);
    }
    let End { code, oom, at, words } = end.clone();
    (ContainerState::Exited { code, oom, at, words }, Some(Seen { ended: Some(end), ..seen }))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::record::Facts;
    use super::*;

    struct Fixed {
        started: bool,
        done: bool,
        frozen: std::cell::Cell<bool>,
        oom: bool,
        words: RefCell<Vec<&'static str>>,
    }

    impl Traces for Fixed {
        fn started(&self, _: &Record) -> bool {
            self.started
        }
        fn done(&self, _: &Record) -> bool {
            self.done
        }
        fn frozen(&self, _: &Record) -> bool {
            self.frozen.get()
        }
        fn oom_killed(&self, _: &Record) -> bool {
            self.oom
        }
        fn words(&self, _: &Record) -> String {
            self.words.borrow_mut().pop().unwrap_or_default().to_owned()
        }
    }

    fn nothing() -> Fixed {
        Fixed {
            started: false,
            done: false,
            frozen: false.into(),
            oom: false,
            words: RefCell::default(),
        }
    }

    fn record(container: &str, role: Role) -> Record {
        Record {
            id: container.to_owned(),
            environment: "default".parse().unwrap(),
            app: "a".parse().unwrap(),
            revision: "a--1".parse().unwrap(),
            replica: "a--1-22222".parse().unwrap(),
            container: container.to_owned(),
            boot: "b".to_owned(),
            facts: Facts {
                template_digest: Digest::of(b"t").to_string(),
                grace_secs: None,
                address: [10, 0, 0, 2].into(),
                role,
                stop_signal: 15,
            },
        }
    }

    fn task(id: &str, pid: u32, status: Status, exit_status: u32) -> Process {
        let id = id.to_owned();
        Process { id, pid, status: status.into(), exit_status, ..Process::default() }
    }

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn states(
        memory: &Memory,
        records: &[(&str, Role)],
        tasks: Vec<Process>,
        traces: &Fixed,
        now: u64,
    ) -> BTreeMap<String, ContainerState> {
        let records = records.iter().map(|(name, role)| record(name, *role)).collect();
        let mut found = memory.fold(records, tasks, traces, at(now));
        found.pop_first().map(|(_, replica)| replica.containers).unwrap_or_default()
    }

    #[test]
    fn moments_are_when_something_was_first_seen() {
        let memory = Memory::default();
        let look =
            |tasks, now| states(&memory, &[("m", Role::Main)], tasks, &nothing(), now)["m"].clone();
        assert_eq!(look(vec![], 1), ContainerState::Created);
        let running = || vec![task("m", 7, Status::Running, 0)];
        assert_eq!(look(running(), 2), ContainerState::Running { since: at(2) });
        assert_eq!(look(running(), 3), ContainerState::Running { since: at(2) });
        let stopped = || vec![task("m", 7, Status::Stopped, 3)];
        let exited =
            ContainerState::Exited { code: 3, oom: false, at: at(4), words: String::new() };
        assert_eq!(look(stopped(), 4), exited);
        assert_eq!(look(stopped(), 5), exited);
        let again = vec![task("m", 8, Status::Running, 0)];
        assert_eq!(look(again, 6), ContainerState::Running { since: at(6) });
    }

    #[test]
    fn what_stands_by_is_told_from_what_runs_and_from_what_has_no_process() {
        let (memory, traces) = (Memory::default(), nothing());
        let look =
            |tasks, now| states(&memory, &[("m", Role::Main)], tasks, &traces, now)["m"].clone();
        let task = |status| vec![task("m", 7, status, 0)];
        assert_eq!(look(vec![], 1), ContainerState::Created);
        assert_eq!(look(task(Status::Created), 2), ContainerState::Armed);
        assert_eq!(look(task(Status::Running), 3), ContainerState::Running { since: at(3) });
        traces.frozen.set(true);
        assert_eq!(look(task(Status::Running), 4), ContainerState::Frozen { since: at(4) });
        assert_eq!(look(task(Status::Running), 5), ContainerState::Frozen { since: at(4) });
        // It is the process that it was.
        traces.frozen.set(false);
        assert_eq!(look(task(Status::Running), 6), ContainerState::Running { since: at(3) });
        traces.frozen.set(true);
        assert_eq!(look(task(Status::Paused), 7), ContainerState::Frozen { since: at(7) });
        assert!(matches!(look(task(Status::Stopped), 8), ContainerState::Exited { .. }));
    }

    #[test]
    fn last_words_are_read_once_and_waited_for_a_moment() {
        let words = |told: &[&'static str], looks: &[u64]| {
            let memory = Memory::default();
            let traces = Fixed { words: RefCell::new(told.to_vec()), ..nothing() };
            let look = |now: &u64| {
                let tasks = vec![task("m", 7, Status::Stopped, 3)];
                match states(&memory, &[("m", Role::Main)], tasks, &traces, *now).remove("m") {
                    Some(ContainerState::Exited { words, at: since, .. }) => {
                        assert_eq!(since, at(looks[0]));
                        words
                    }
                    other => panic!("{other:?}"),
                }
            };
            looks.iter().map(look).collect::<Vec<_>>()
        };
        // They are told from the end of the list on.
        assert_eq!(words(&["another", "bye"], &[4, 5, 6]), ["bye", "bye", "bye"]);
        assert_eq!(words(&["late", ""], &[4, 5, 6]), ["", "late", "late"]);
        assert_eq!(words(&["too late", ""], &[4, 10, 11]), ["", "", ""]);
    }

    #[test]
    fn a_process_that_vanished_has_ended() {
        let memory = Memory::default();
        let traces = Fixed { started: true, oom: true, ..nothing() };
        let look = |now| states(&memory, &[("m", Role::Main)], vec![], &traces, now)["m"].clone();
        let exited =
            ContainerState::Exited { code: 137, oom: true, at: at(4), words: String::new() };
        assert_eq!(look(4), exited);
        assert_eq!(look(9), exited);
    }

    #[test]
    fn an_init_container_that_is_over_is_not_listed() {
        let memory = Memory::default();
        let both = [("i", Role::Init), ("m", Role::Main)];
        let ended = vec![task("i", 7, Status::Stopped, 0)];
        let names = |found: BTreeMap<String, ContainerState>| found.into_keys().collect::<Vec<_>>();
        assert_eq!(names(states(&memory, &both, ended, &nothing(), 1)), ["m"]);
        let failed = vec![task("i", 7, Status::Stopped, 1)];
        assert_eq!(names(states(&Memory::default(), &both, failed, &nothing(), 1)), ["i", "m"]);
        let done = Fixed { done: true, ..nothing() };
        assert_eq!(names(states(&memory, &both, vec![], &done, 1)), ["m"]);
    }
}
