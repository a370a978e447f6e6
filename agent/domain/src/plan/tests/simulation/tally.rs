//! How often things happened, over all runs: rules that are never put to the test hold without a reason.

use std::collections::BTreeMap;

/// Counts by what happened.
pub(super) type Tally = BTreeMap<&'static str, u64>;

/// What must have happened in 10,000 runs, and how often at least.
pub(super) const EXPECTED: &[(&str, u64)] = &[
    ("RevisionOnTrial", 500),
    ("StandbyGivenUp", 30),
    ("RevisionCommitted", 300),
    ("RevisionRolledBack", 500),
    ("RevisionRetired", 1_000),
    ("DeviceBusy", 300),
    ("WaitingForStop", 300),
    ("InsufficientMemory", 4),
    ("LockedByApp", 4),
    ("WaitingForWindow", 30),
    ("falls", 500),
    ("forced", 300),
    ("late start", 2),
    ("restart by hand", 500),
];

/// The same of runs of apps that scale.
pub(super) const EXPECTED_OF_SWINGS: &[(&str, u64)] = &[
    ("prepared", 3_000),
    ("created", 2_000),
    ("frozen", 1_000),
    ("thawed", 500),
    ("rests", 3_000),
    ("waits for a replica", 3_000),
    ("was waited for", 3_000),
    ("asked as it goes", 200),
    ("nothing calls", 3_000),
    ("sent to zero", 300),
    ("falls", 300),
];

/// Adds one to a count.
pub(super) fn add(tally: &mut Tally, what: &'static str) {
    *tally.entry(what).or_default() += 1;
}

/// The sum of two.
pub(super) fn sum(mut one: Tally, other: Tally) -> Tally {
    for (what, count) in other {
        *one.entry(what).or_default() += count;
    }
    one
}

/// What happened in so many runs.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) tally: Tally,
    pub(super) runs: u64,
}

impl Played {
    /// What happened less often than it should.
    pub(super) fn seldom(&self, expected: &[(&str, u64)]) -> Vec<String> {
        let missing = expected.iter().filter_map(|(what, least)| {
            let count = self.tally.get(what).copied().unwrap_or(0);
            let least = least * self.runs / 10_000;
            (count < least).then(|| format!("{what}: {count} of {least}"))
        });
        missing.collect()
    }
}
