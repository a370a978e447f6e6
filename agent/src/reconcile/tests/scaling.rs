//! How the loop follows the load: up, down, to zero, and back.

use std::time::Duration;

use domain::reason::Reason;
use domain::replica::{ContainerState, Secret};
use domain::route::Sleep;
use domain::scale::{Asked, Credentials, Source};
use domain::status::{AppStatus, Phase, RunningState, RunningStatus};

use tokio::time::{Instant, sleep};

use super::world::{Board, World, document};
use crate::inbox::Run;

const REVISION: &str = "hello--0000001";

/// An app that may go to zero.
fn lazy() -> String {
    document("hello", "v1", 1).replace("minReplicas: 1", "minReplicas: 0, maxReplicas: 6")
}

fn waiting(waiting: u64) -> Asked {
    Asked { waiting, ..Asked::default() }
}

fn has(count: u32) -> impl Fn(&AppStatus) -> bool {
    move |status| {
        let revision = &status.revisions[0];
        (revision.replicas, revision.ready_replicas) == (count, count)
    }
}

async fn board() -> Board {
    let mut board = Board::start();
    board.send("hello", &lazy()).await.unwrap();
    board.until("hello", has(1)).await;
    board
}

#[tokio::test(start_paused = true)]
async fn an_app_that_nobody_asks_for_is_at_zero_after_the_cool_down_and_a_request_wakes_it() {
    let mut board = board().await;
    let begun = Instant::now();
    let status = board.until("hello", has(0)).await;
    let waited = begun.elapsed();
    let minutes = Duration::from_mins(5);
    assert!(minutes <= waited && waited < minutes + Duration::from_secs(2), "{waited:?}");
    assert_eq!(status.running_status, RunningStatus::Running, "a request is served all the same");
    let revision = &status.revisions[0];
    assert_eq!((revision.running_state, revision.reason), (RunningState::ScaledToZero, None));
    let status = standing_by(&mut board, "prepared").await;
    assert_eq!(states(&board), [ContainerState::Created], "nothing runs: {status:?}");
    assert_eq!(board.sleep_of("hello", REVISION), Some(Sleep::Wakes));
    board.ask_for(REVISION, waiting(1));
    board.until("hello", has(1)).await;
    assert_eq!(board.sleep_of("hello", REVISION), None, "it is awake");
    assert_eq!(board.backends("hello").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_is_followed_up_in_steps_and_down_after_a_while() {
    let mut board = board().await;
    board.ask_for(REVISION, Asked { begun: 15 * 55, open: 3, waiting: 0 });
    board.until("hello", has(4)).await;
    let status = board.until("hello", has(6)).await;
    let revision = &status.revisions[0];
    assert_eq!((revision.wanted_replicas, revision.scaled_by.as_str()), (6, "http"));
    assert_eq!(revision.running_state, RunningState::RunningAtMaxScale);
    let begun = Instant::now();
    board.ask_for(REVISION, Asked { begun: 15, open: 0, waiting: 0 });
    board.until("hello", has(1)).await;
    assert!(Duration::from_mins(5) <= begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_fails_is_told_with_its_reason_and_tried_again() {
    let mut board = board().await;
    // Nothing can be made to stand by for it either.
    board.world().volume_trouble =
        Some(domain::replica::Trouble { reason: Reason::VolumeFailed, details: "no".to_owned() });
    let status = board.until("hello", has(0)).await;
    assert_eq!((status.revisions[0].standby, status.revisions[0].reason), ("", None));
    board.ask_for(REVISION, waiting(1));
    board.until("hello", |status| status.revisions[0].reason == Some(Reason::VolumeFailed)).await;
    assert_eq!(board.sleep_of("hello", REVISION), Some(Sleep::Fails(Reason::VolumeFailed)));
    board.world().volume_trouble = None;
    board.until("hello", has(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_person_sends_it_to_zero_unless_something_keeps_it() {
    let mut board = board().await;
    board.ask_for(REVISION, Asked { begun: 100, open: 0, waiting: 0 });
    board.to_zero("hello").await.unwrap();
    board.until("hello", has(0)).await;
    board.ask_for(REVISION, waiting(1));
    board.until("hello", has(1)).await;
    assert_eq!(board.told(Reason::SentToZero), 1);
    board.scale("hello", "{minReplicas: 2}").await.unwrap();
    board.until("hello", has(2)).await;
    let refused = board.to_zero("hello").await.unwrap_err();
    assert_eq!(refused.findings[0].reason, Reason::KeepsReplicas);
    board.scale("hello", "{replicas: 0}").await.unwrap();
    board.until("hello", has(0)).await;
    assert_eq!(board.sleep_of("hello", REVISION), None, "what is pinned is not woken");
    assert_eq!(board.unready("hello"), Reason::PinnedToZero);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_takes_over_what_runs_and_a_reboot_begins_at_zero() {
    let mut board = board().await;
    board.ask_for(REVISION, Asked { begun: 15 * 25, open: 0, waiting: 0 });
    board.until("hello", has(3)).await;
    let starts = board.world().starts;
    let mut board = board.restart().await;
    board.until("hello", has(3)).await;
    assert_eq!(board.world().starts, starts, "none is started anew");
    board.world().reboot();
    let mut board = board.restart().await;
    let status = board.until("hello", has(0)).await;
    assert_eq!(status.revisions[0].running_state, RunningState::ScaledToZero);
    assert_eq!(board.sleep_of("hello", REVISION), Some(Sleep::Wakes));
    board.ask_for(REVISION, waiting(1));
    board.until("hello", has(1)).await;
    // Who starts an app wants to see it run.
    board.run("hello", Run::Stopped).await.unwrap();
    board.until("hello", has(0)).await;
    board.run("hello", Run::Started).await.unwrap();
    board.until("hello", has(1)).await;
}

/// The states of the containers of each replica.
fn states(board: &Board) -> Vec<ContainerState> {
    let world = board.world();
    world.replicas.values().flat_map(|replica| replica.containers.values().cloned()).collect()
}

async fn standing_by(board: &mut Board, tier: &str) -> AppStatus {
    let stands = |status: &AppStatus| {
        let revision = &status.revisions[0];
        (revision.standby, revision.replicas) == (tier, 0)
    };
    board.until("hello", stands).await
}

#[tokio::test(start_paused = true)]
async fn at_zero_one_replica_stands_by_as_far_as_asked_and_is_the_one_that_comes_back() {
    for (asked, tier) in [("none", "prepared"), ("created", "created"), ("frozen", "frozen")] {
        let mut board = Board::start();
        let document = format!("{}  standby: {asked}\n", with_block(&lazy()));
        board.send("hello", &document).await.unwrap();
        board.until("hello", has(1)).await;
        let status = standing_by(&mut board, tier).await;
        assert_eq!(status.revisions[0].running_state, RunningState::ScaledToZero);
        assert_eq!(board.sleep_of("hello", REVISION), Some(Sleep::Wakes));
        let names: Vec<_> = board.world().replicas.keys().cloned().collect();
        let (starts, created) = (board.world().starts, names.len());
        assert_eq!(created, 1, "{asked}: {names:?}");
        board.ask_for(REVISION, waiting(1));
        let status = board.until("hello", has(1)).await;
        assert_eq!(status.revisions[0].replica_list[0].name, names[0], "{asked}");
        assert_eq!(status.revisions[0].standby, "");
        let again = u32::from(asked != "frozen");
        assert_eq!(board.world().starts, starts + again, "{asked}: a thaw starts nothing");
        assert_eq!(board.backends("hello").len(), 1);
        board.ask_for(REVISION, Asked::default());
        standing_by(&mut board, tier).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_midst_of_a_freeze_has_it_called_off() {
    // While something is open still, and while its processes come to a stand.
    for (open, restless) in [(true, false), (false, true)] {
        let mut board = Board::start();
        let document = format!("{}  standby: frozen\n", with_block(&lazy()));
        board.send("hello", &document).await.unwrap();
        board.until("hello", has(1)).await;
        let (name, starts) = {
            let mut world = board.world();
            (world.open, world.restless) = (open, restless);
            (world.replicas.keys().next().cloned().unwrap(), world.starts)
        };
        board.to_zero("hello").await.unwrap();
        board.until("hello", has(0)).await;
        board.until_world(|world| runs(world) != restless).await;
        board.ask_for(REVISION, waiting(1));
        board.until("hello", has(1)).await;
        {
            let world = board.world();
            let names: Vec<_> = world.replicas.keys().cloned().collect();
            assert_eq!((names, world.starts), (vec![name.clone()], starts), "it serves on itself");
            assert!(runs(&world), "it is let go");
        }
        assert_eq!(board.backends("hello").len(), 1);
        assert_eq!(board.told(Reason::ReplicaStarted), 1, "nothing was started");
        // The next freeze is one like any other.
        (board.world().open, board.world().restless) = (false, false);
        board.ask_for(REVISION, Asked::default());
        standing_by(&mut board, "frozen").await;
        assert_eq!(board.world().replicas.keys().next(), Some(&name));
        board.ask_for(REVISION, waiting(1));
        board.until("hello", has(1)).await;
    }
}

/// Every container of the board runs.
fn runs(world: &World) -> bool {
    let mut states = world.replicas.values().flat_map(|replica| replica.containers.values());
    states.all(|state| matches!(state, ContainerState::Running { .. }))
}

/// `skerry` as a block, so that a line can be added to it.
fn with_block(document: &str) -> String {
    document.replace("skerry: {generation: 1}", "skerry:\n  generation: 1")
}

#[tokio::test(start_paused = true)]
async fn what_stands_by_is_adopted_and_goes_with_its_app() {
    let mut board = Board::start();
    let document = format!("{}  standby: frozen\n", with_block(&lazy()));
    board.send("hello", &document).await.unwrap();
    board.until("hello", has(1)).await;
    standing_by(&mut board, "frozen").await;
    let mut board = board.restart().await;
    standing_by(&mut board, "frozen").await;
    assert_eq!(board.world().replicas.len(), 1, "the same one");
    board.ask_for(REVISION, waiting(1));
    board.until("hello", has(1)).await;
    board.ask_for(REVISION, Asked::default());
    standing_by(&mut board, "frozen").await;
    // Another tier is asked for: what stands by is exchanged.
    let changed =
        document.replace("standby: frozen", "standby: created").replace("tion: 1", "tion: 2");
    board.send("hello", &changed).await.unwrap();
    standing_by(&mut board, "created").await;
    board.until_world(|world| world.replicas.len() == 1).await;
    assert_eq!(states(&board), [ContainerState::Armed]);
    board.delete(domain::status::Source::Local, "hello").await.unwrap_err();
    board.run("hello", Run::Stopped).await.unwrap();
    board.until_world(|world| world.replicas.is_empty() && world.namespaces.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_low_what_stands_by_gives_up_what_it_takes_of_it() {
    let mut board = Board::start();
    let document = format!("{}  standby: created\n", with_block(&lazy()));
    board.send("hello", &document).await.unwrap();
    board.until("hello", has(1)).await;
    standing_by(&mut board, "created").await;
    board.press_or_not(true);
    standing_by(&mut board, "prepared").await;
    board.press_or_not(false);
    sleep(Duration::from_hours(1)).await;
    standing_by(&mut board, "prepared").await;
    // It would press again: once it was awake there is no telling.
    board.ask_for(REVISION, waiting(1));
    board.until("hello", has(1)).await;
    board.ask_for(REVISION, Asked::default());
    standing_by(&mut board, "created").await;
    assert_eq!(board.told(Reason::StandbyGivenUp), 1);
}

#[tokio::test(start_paused = true)]
async fn what_stands_by_is_made_anew_where_a_secret_changed() {
    let mut board = Board::start();
    let secret = "env: [{name: KEY, secretRef: key}]}]";
    let document = format!("{}  standby: created\n", with_block(&lazy()))
        .replace("}]\n", &format!(", {secret}\n"))
        .replace("configuration:\n", "configuration:\n    secrets: [{name: key, value: old}]\n");
    board.send("hello", &document).await.unwrap();
    board.until("hello", has(1)).await;
    standing_by(&mut board, "created").await;
    let before: Vec<_> = board.world().replicas.keys().cloned().collect();
    board.set_secret("hello", "key", Some("new")).await.unwrap();
    board
        .until_world(|world| {
            let mut names = world.replicas.keys();
            world.replicas.len() == 1 && names.all(|name| !before.contains(name))
        })
        .await;
    assert_eq!(board.world().given["key"].0, "new");
    standing_by(&mut board, "created").await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_sampled_with_the_value_that_its_secret_has_now() {
    let mut board = Board::start();
    let rule = "rules: [{name: queue, custom: {type: metrics-api, metadata: {url: 'http://counter/', \
                valueLocation: length, targetValue: '5', authMode: bearer}, \
                auth: [{secretRef: key, triggerParameter: token}]}}]";
    let document = lazy()
        .replace("maxReplicas: 6}", &format!("maxReplicas: 6, {rule}}}"))
        .replace("configuration:\n", "configuration:\n    secrets: [{name: key, value: old}]\n");
    board.send("hello", &document).await.unwrap();
    let with = |value: &'static str| {
        move |source: &Source| {
            let Source::MetricsApi(api) = source else { return false };
            api.credentials == Credentials::Bearer(Secret(value.to_owned()))
        }
    };
    board.until_sampled(with("old")).await;
    board.set_secret("hello", "key", Some("new")).await.unwrap();
    board.until_sampled(with("new")).await;
}

#[tokio::test(start_paused = true)]
async fn the_one_that_stands_by_for_one_on_trial_stays_awake_until_the_trial_is_over() {
    let mut board = Board::start();
    let quick = lazy().replace("maxReplicas: 6", "maxReplicas: 6, cooldownPeriod: 1");
    board.send("hello", &quick).await.unwrap();
    board.until("hello", has(1)).await;
    let next = quick.replace(":v1", ":v2").replace("generation: 1", "generation: 2");
    board.send("hello", &next).await.unwrap();
    board.until("hello", |status| status.revisions[0].phase == Phase::Probation).await;
    sleep(Duration::from_secs(50)).await;
    let status = board.until("hello", |_| true).await;
    assert_eq!(status.revisions[0].phase, Phase::Probation);
    let replicas: Vec<u32> = status.revisions.iter().map(|one| one.replicas).collect();
    assert_eq!(replicas, [1, 1], "both are awake, though nobody asks for either");
    board.until("hello", |status| !status.revisions[1].active).await;
    board.until("hello", has(0)).await;
    // An update of an app at zero starts the new one alone.
    let last = next.replace(":v2", ":v3").replace("generation: 2", "generation: 3");
    let starts = board.world().starts;
    board.send("hello", &last).await.unwrap();
    board.until("hello", |status| status.revisions[0].name.as_str() == "hello--0000003").await;
    board.until("hello", |status| !status.revisions[1].active).await;
    assert_eq!(board.world().starts, starts + 1);
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_low_no_app_grows_beyond_its_least() {
    let mut board = board().await;
    board.press_or_not(true);
    board.ask_for(REVISION, Asked { begun: 15 * 25, open: 3, waiting: 0 });
    let held = |status: &AppStatus| {
        let revision = &status.revisions[0];
        revision.reason == Some(Reason::InsufficientMemory) && revision.replicas == 1
    };
    let status = board.until("hello", held).await;
    assert_eq!(status.revisions[0].details, "memory is low: 1 of 3 replicas");
    assert_eq!(board.backends("hello").len(), 1, "it serves on");
    board.press_or_not(false);
    let status = board.until("hello", has(3)).await;
    assert_eq!(status.revisions[0].reason, None);
}
