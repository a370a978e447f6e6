//! What goes and what never does: as a table, then with random boards.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::allowances::Allowances;
use crate::document::Document;
use crate::intake::{self, Incoming, Verdict};
use crate::replica::ResolvedImage;
use crate::status::{Phase, Source};

/// 2025-06-01, in hours.
const NOW: u64 = 1_748_736_000 / 3600;
const WEEK: u64 = 168;
const RULES: Rules =
    Rules { max_age: Duration::from_hours(WEEK), high_percent: 85, low_percent: 75 };

fn hour(hours: u64) -> WallTime {
    WallTime(Duration::from_hours(hours))
}

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn held(name: &str, origin: Origin, unneeded_for: Option<u64>) -> Held {
    let names = vec![name.to_owned()];
    let unneeded_since = unneeded_for.map(|hours| hour(NOW - hours));
    Held { digest: digest(name), names, origin, unneeded_since }
}

/// What goes, in order, of these, where each frees a tenth of the disk and so much is in use.
fn goes(held: &[Held], needs: &Needs, used: u64, room: u64, extent: Extent) -> Vec<String> {
    let mut disk = Disk { total: 1000, free: 1000 - used };
    let goal = RULES.goal(disk, room);
    let (mut held, mut gone) = (held.to_vec(), Vec::new());
    loop {
        let look = Look { now: hour(NOW), free: disk.free, goal, extent };
        let Some((image, cause)) = next(&held, needs, RULES, look) else { return gone };
        gone.push(format!("{} {}", image.names[0], cause.word()));
        let image = image.clone();
        held.retain(|other| *other != image);
        disk.free += 100;
    }
}

#[track_caller]
fn check(used: u64, room: u64, extent: Extent, expected: &[&str]) {
    let needs = Needs {
        digests: BTreeSet::from([digest("serving")]),
        references: BTreeSet::from(["staged".to_owned()]),
    };
    let images = [
        held("serving", Origin::Pulled, Some(999)),
        held("staged", Origin::Pulled, Some(999)),
        held("flashed", Origin::Preloaded, Some(999)),
        held("brought", Origin::Imported, Some(20)),
        held("brought-long-ago", Origin::Imported, Some(400)),
        held("yesterday", Origin::Pulled, Some(24)),
        held("older", Origin::Pulled, Some(WEEK - 1)),
        held("oldest", Origin::Pulled, Some(WEEK)),
        held("just-now", Origin::Pulled, None),
    ];
    assert_eq!(goes(&images, &needs, used, room, extent), expected);
}

#[test]
fn by_age_by_pressure_and_when_asked() {
    check(500, 0, Extent::Routine, &["oldest age"]);
    check(850, 0, Extent::Routine, &["oldest age"]);
    check(860, 0, Extent::Routine, &["oldest age", "older pressure"]);
    let all = ["oldest age", "older pressure", "yesterday pressure", "just-now pressure"];
    check(500, 950, Extent::Routine, &[&all[..], &["brought-long-ago pressure"]].concat());
    check(500, 700, Extent::Routine, &all[..2]);
    let asked = ["oldest age", "older asked", "yesterday asked", "just-now asked"];
    check(10, 0, Extent::Unneeded, &asked);
}

#[test]
fn no_age_at_all_is_never_too_old() {
    let rules = Rules { max_age: Duration::ZERO, ..RULES };
    let old = [held("old", Origin::Pulled, Some(9999))];
    let look = Look { now: hour(NOW), free: 1, goal: 0, extent: Extent::Routine };
    assert_eq!(next(&old, &Needs::default(), rules, look), None);
}

#[test]
fn a_board_that_does_not_know_the_date_ages_nothing() {
    let image = held("a", Origin::Pulled, None);
    let nothing = Needs::default();
    assert_eq!(note(&image, &nothing, hour(5)), None);
    assert_eq!(note(&image, &nothing, hour(NOW)), Some(Note::Unneeded(hour(NOW))));
    let noted = Held { unneeded_since: Some(hour(NOW)), ..image };
    assert_eq!(note(&noted, &nothing, hour(NOW + 1)), None);
    // The clock went back: it waits until it has caught up.
    let look = Look { now: hour(5), free: 1, goal: 0, extent: Extent::Routine };
    assert_eq!(next(std::slice::from_ref(&noted), &nothing, RULES, look), None);
    let needed = Needs { digests: BTreeSet::from([digest("a")]), ..Needs::default() };
    assert_eq!(note(&noted, &needed, hour(NOW + 1)), Some(Note::Needed));
}

/// The record after one more document, of an image with this tag.
fn after(known: Option<&AppRecord>, tag: &str) -> AppRecord {
    let text = format!(
        "template: {{initContainers: [{{name: first, image: 'init:{tag}'}}], containers: [{{name: main, image: 'i:{tag}'}}]}}\n"
    );
    let parsed = intake::take_apart(text.as_bytes(), Some("hello")).unwrap();
    let Document::App(document) = parsed.document else { panic!("a job") };
    let incoming = Incoming {
        source: Source::Mqtt,
        payload: text.as_bytes(),
        force: false,
        allowances: &Allowances::default(),
    };
    match intake::app(known, &parsed.name, *document, parsed.warnings, incoming) {
        Verdict::Changed(record) => *record,
        other @ (Verdict::Unchanged | Verdict::Refused(_)) => panic!("{other:?}"),
    }
}

#[test]
fn what_serves_what_comes_and_what_served_before_is_needed() {
    let mut record = after(None, "1");
    for tag in ["2", "3", "4"] {
        record = after(Some(&record), tag);
    }
    let phases = [
        (false, Phase::Committed),
        (false, Phase::Committed),
        (true, Phase::Committed),
        (true, Phase::Fetching),
    ];
    // Intake keeps no superseded candidate: the ones that served are put back by hand.
    let template = record.revisions[0].clone();
    record.revisions = (1..=4)
        .zip(phases)
        .map(|(n, (active, phase))| {
            let mut one = template.clone();
            let taken = after(None, &n.to_string());
            one.template = Arc::clone(&taken.revisions[0].template);
            (one.active, one.phase, one.was_ready) = (active, phase, phase == Phase::Committed);
            let image = |reference: &str| ResolvedImage {
                reference: reference.to_owned(),
                name: reference.to_owned(),
                digest: digest(reference),
                warning: None,
            };
            if phase == Phase::Committed {
                let all = one.template.images().map(|one| (one.to_owned(), image(one)));
                one.images = all.collect::<BTreeMap<_, _>>();
            }
            one
        })
        .collect();
    let mut state = State::default();
    state.apps.insert(record.name.clone(), record.clone());
    let needs = Needs::of(&state);
    let of = |tags: &[&str]| -> BTreeSet<String> {
        tags.iter().flat_map(|tag| [format!("i:{tag}"), format!("init:{tag}")]).collect()
    };
    assert_eq!(needs.references, of(&["2", "3", "4"]), "the oldest is not needed");
    let digests: BTreeSet<Digest> = of(&["2", "3"]).iter().map(|name| digest(name)).collect();
    assert_eq!(needs.digests, digests);

    // One that failed is nothing to go back to.
    record.revisions[1].phase = Phase::RolledBack;
    state.apps.insert(record.name.clone(), record.clone());
    assert_eq!(Needs::of(&state).references, of(&["1", "3", "4"]));
    intake::remove(&mut record);
    state.apps.insert(record.name.clone(), record);
    assert_eq!(Needs::of(&state), Needs::default());
}

fn origins() -> impl Strategy<Value = Origin> {
    prop_oneof![Just(Origin::Pulled), Just(Origin::Imported), Just(Origin::Preloaded)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_needed_or_preloaded_ever_goes_and_room_making_ends_with_room(
        board in prop::collection::vec((origins(), prop::option::of(0..2000_u64), any::<bool>(), 1..200_u64), 0..20),
        free in 0..1000_u64,
        room in 0..1200_u64,
        asked in any::<bool>(),
    ) {
        let mut images: Vec<Held> = board
            .iter()
            .enumerate()
            .map(|(n, (origin, age, _, _))| held(&n.to_string(), *origin, *age))
            .collect();
        let needed = |n: usize| board[n].2;
        let mut needs = Needs::default();
        for n in (0..board.len()).filter(|n| needed(*n)) {
            // Every other one by its name alone, as one that is still to be resolved.
            if n % 2 == 0 {
                needs.digests.insert(digest(&n.to_string()));
            } else {
                needs.references.insert(n.to_string());
            }
        }
        let extent = if asked { Extent::Unneeded } else { Extent::Routine };
        let mut disk = Disk { total: 1000, free };
        let goal = RULES.goal(disk, room);
        let look = |disk: Disk| Look { now: hour(NOW), free: disk.free, goal, extent };
        let mut last = None;
        while let Some((image, cause)) = next(&images, &needs, RULES, look(disk)) {
            let n: usize = image.names[0].parse().unwrap();
            prop_assert!(!needed(n) && board[n].0 != Origin::Preloaded, "{n} went by {cause:?}");
            prop_assert!(cause != Cause::Pressure || disk.free < goal, "{n} went without need");
            prop_assert!(cause != Cause::Asked || asked);
            let age = (image.origin, image.unneeded_since.unwrap_or(hour(NOW)));
            prop_assert!(last <= Some(age), "a younger one went before an older one");
            last = Some(age);
            let image = image.clone();
            images.retain(|other| *other != image);
            disk.free += board[n].3;
        }
        // Either there is room, or nothing is left that may go.
        let left = images.iter().filter(|image| image.origin == Origin::Pulled && !needs.holds(image));
        prop_assert!(goal <= disk.free || left.count() == 0);
    }
}
