//! A seeded world that must settle: random documents, crashes, lost power and slow starts, thousands of times.
//!
//! What must hold at every step: no two replicas with one address, no traffic to a replica that is not ready, no more
//! replicas than asked for and as many again while one revision takes over from another.

mod board;
mod simulation;

use std::collections::BTreeSet;

use self::board::{Board, Dice};
use crate::status::Phase;

#[test]
fn every_world_settles_and_no_step_breaks_a_rule() {
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let mut board = Board::new();
        for step in 0..60 {
            board.disturb(&mut dice);
            board.round(&mut dice, true);
            check_rules(&board, &format!("seed {seed}, step {step}"));
        }
        board.calm();
        let mut steps = 0;
        while !board.is_settled() {
            steps += 1;
            assert!(steps < 500, "seed {seed} does not settle: {board:#?}");
            board.round(&mut dice, false);
            check_rules(&board, &format!("seed {seed}, calm step {steps}"));
        }
        check_settled(&board, seed);
    }
}

#[track_caller]
fn check_rules(board: &Board, when: &str) {
    let living: Vec<_> = board.observed.iter().collect();
    let addresses: BTreeSet<_> = living.iter().map(|(_, replica)| replica.address).collect();
    assert_eq!(addresses.len(), living.len(), "{when}: two replicas share an address");
    for (app, record) in &board.state.apps {
        // Those of a retired revision are on their way out, even where a stop failed and is tried again.
        let active: BTreeSet<_> =
            record.revisions.iter().filter(|one| one.active).map(|one| &one.name).collect();
        let here = living.iter().filter(|(name, replica)| {
            active.contains(&replica.revision)
                && replica.boot == board.settings.boot
                && !board.stops(name)
        });
        let most = 2 * board::MOST_REPLICAS as usize;
        let names: Vec<_> = here.map(|(name, _)| (name.as_str(), board.doing_of(name))).collect();
        assert!(
            names.len() <= most,
            "{when}: more replicas of {app} than asked plus the surge: {names:#?}"
        );
        let serving =
            record.revisions.iter().filter(|revision| revision.active && revision.was_ready);
        assert!(serving.count() <= 2, "{when}: {app} has too many serving revisions");
    }
    let routes = board.routes();
    for service in routes.environments.values().flat_map(|routes| routes.apps.values()) {
        for backend in service.revisions.values().flatten() {
            assert!(board.is_ready(&backend.replica), "{when}: traffic to {}", backend.replica);
        }
    }
}

#[track_caller]
fn check_settled(board: &Board, seed: u64) {
    for (app, record) in &board.state.apps {
        let replicas = board.observed.values().filter(|replica| replica.app == *app);
        if record.removed {
            assert_eq!(replicas.count(), 0, "seed {seed}: {app} was removed");
            continue;
        }
        let mut newest = record.revisions.iter().rev();
        let latest = newest.find(|one| one.active).expect("an app has an active revision");
        assert_eq!(latest.phase, Phase::Committed, "seed {seed}: {app}");
        let revisions: BTreeSet<_> = replicas.map(|replica| &replica.revision).collect();
        assert_eq!(revisions, BTreeSet::from([&latest.name]), "seed {seed}: only the latest runs");
    }
    let known: BTreeSet<_> = board.observed.keys().collect();
    assert_eq!(known, board.namespaces.iter().collect(), "seed {seed}: a namespace is left over");
}
