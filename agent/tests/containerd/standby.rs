//! Replicas that stand by on a real containerd: armed and started, frozen and thawed, stopped in either state.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::replica::{ContainerState, ReplicaOrder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skerry::containerd::Containerd;
use skerry::runtime::{Exec as _, Runtime as _, RuntimeError};
use tokio::time::{Instant, timeout};

use super::board::{Board, OneImage, answer, exit, observed, reason, run, sh, state, until};

const LONG: Duration = Duration::from_secs(20);

/// Long enough for a process that runs to have used the processor many times over.
const A_WHILE: Duration = Duration::from_millis(300);

/// Counts as fast as it can, and ends by itself when asked to.
const COUNTS: &str = "trap 'echo bye; exit 0' TERM; echo ready; while :; do :; done";

async fn is_running(containerd: &Containerd<OneImage>, order: &ReplicaOrder) -> bool {
    matches!(state(containerd, order, "main").await, Some(ContainerState::Running { .. }))
}

async fn is_frozen(containerd: &Containerd<OneImage>, order: &ReplicaOrder) -> bool {
    matches!(state(containerd, order, "main").await, Some(ContainerState::Frozen { .. }))
}

/// Processes of the board's containers.
fn processes(board: &Board) -> Vec<i32> {
    let lists = board.cgroups("pids").into_iter();
    let lists = lists.filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Ticks of the processor that they have used.
fn ticks(board: &Board) -> u64 {
    let stats = processes(board).into_iter();
    let stats = stats.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let used = |stat: String| -> Option<u64> {
        stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse().ok()
    };
    stats.filter_map(used).sum()
}

async fn makes_progress(board: &Board) {
    let before = ticks(board);
    until("its processes go on", async || (before < ticks(board)).then_some(())).await;
}

async fn stands_still(board: &Board) {
    let before = ticks(board);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(ticks(board), before);
}

async fn nothing_is_left(board: &Board) {
    until("shim and sink are gone", async || {
        (board.shims().is_empty() && board.sinks().is_empty()).then_some(())
    })
    .await;
    assert_eq!(board.listed(&["containers", "ls", "-q"]), [""; 0]);
    assert_eq!(board.listed(&["tasks", "ls", "-q"]), [""; 0]);
    let snapshots = board.listed(&["snapshots", "ls"]);
    assert!(snapshots.iter().all(|line| !line.contains("Active")), "{snapshots:?}");
    for controller in ["freezer", "pids"] {
        assert_eq!(board.cgroups(controller), [""; 0].map(std::path::PathBuf::from));
    }
    let marks = fs::read_dir(board.dir.join("run/etc")).into_iter().flatten().count();
    assert_eq!(marks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_armed_replica_has_run_nothing_but_its_init_containers_and_then_starts() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let main = "echo main; exec httpd -f -p 8080 -h /www";
    let mut order = board.order(1, vec![sh("main", main), sh("side", "exec sleep 999")]);
    Arc::make_mut(&mut order.template).init_containers =
        vec![sh("one", "echo one"), sh("two", "echo two")];
    containerd.create(&order).await.unwrap();
    for _ in 0..2 {
        containerd.arm(&order).await.unwrap();
        let seen = observed(&containerd, &order).await.unwrap();
        assert_eq!(seen.containers.keys().collect::<Vec<_>>(), ["main", "side"]);
        assert!(seen.containers.values().all(|state| *state == ContainerState::Armed), "{seen:?}");
    }
    assert_eq!(board.log(&order, "two"), ["two"], "an init container runs once");
    assert!(board.log(&order, "main").is_empty());
    assert_eq!(board.listed(&["containers", "ls", "-q"]).len(), 2);
    assert_eq!((board.shims().len(), processes(&board).len()), (1, 2));
    assert_eq!(state(&board.containerd(), &order, "main").await, Some(ContainerState::Armed));

    let began = processes(&board);
    containerd.start(&order).await.unwrap();
    containerd.start(&order).await.unwrap();
    assert!(is_running(&containerd, &order).await);
    assert_eq!(answer(&order).await, b"hello\n");
    assert_eq!(board.log(&order, "main"), ["main"]);
    assert_eq!(board.log(&order, "one"), ["one"]);
    assert!(began.iter().all(|pid| processes(&board).contains(pid)), "no process was made anew");
    containerd.arm(&order).await.unwrap();
    assert!(is_running(&containerd, &order).await, "what runs is left alone");
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
    nothing_is_left(&board).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_armed_replica_is_stopped_without_being_asked_and_leaves_nothing() {
    let Some(board) = Board::new().await else { return };
    // runc itself would end of a SIGTERM, and does not of this.
    let containerd = board.containerd_with(|image| image.stop_signal = "SIGWINCH".to_owned());
    let order = board.order(1, vec![sh("main", "exec sleep 999"), sh("side", "exec sleep 999")]);
    containerd.create(&order).await.unwrap();
    containerd.arm(&order).await.unwrap();
    let began = Instant::now();
    containerd.stop(&order.replica, LONG).await.unwrap();
    assert!(began.elapsed() < LONG / 2, "there was nobody to wait for");
    assert_eq!(observed(&containerd, &order).await, None);
    nothing_is_left(&board).await;

    // Its shim is killed, by the kernel for memory: then there is a record, and no process.
    let order = board.order(2, vec![sh("main", "exec sleep 999")]);
    containerd.create(&order).await.unwrap();
    containerd.arm(&order).await.unwrap();
    kill(Pid::from_raw(board.shims()[0]), Signal::SIGKILL).unwrap();
    until("its process is gone", async || {
        (state(&containerd, &order, "main").await == Some(ContainerState::Created)).then_some(())
    })
    .await;
    containerd.arm(&order).await.unwrap();
    containerd.start(&order).await.unwrap();
    assert!(is_running(&containerd, &order).await);
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
    nothing_is_left(&board).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_armed_is_told_as_what_cannot_be_started() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let mut missing = sh("main", "");
    missing.command = vec!["nosuch".to_owned()];
    let order = board.order(1, vec![missing]);
    containerd.create(&order).await.unwrap();
    assert_eq!(reason(containerd.arm(&order).await).0, domain::reason::Reason::CommandNotFound);
    assert_eq!(state(&containerd, &order, "main").await, Some(ContainerState::Created));
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_stands_still_for_every_agent_and_goes_on_where_it_was() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", COUNTS), sh("side", COUNTS)]);
    run(&containerd, &order).await;
    board.logged(&order, "side", "ready").await;
    makes_progress(&board).await;
    for _ in 0..2 {
        containerd.freeze(&order.replica).await.unwrap();
        let seen = observed(&containerd, &order).await.unwrap();
        let frozen = |state: &ContainerState| matches!(state, ContainerState::Frozen { .. });
        assert!(seen.containers.values().all(frozen), "{seen:?}");
        stands_still(&board).await;
    }
    drop(containerd);
    let successor = board.containerd();
    assert!(is_frozen(&successor, &order).await);
    stands_still(&board).await;

    // Thawing asks nobody.
    board.kill_daemon();
    for _ in 0..2 {
        successor.thaw(&order.replica).await.unwrap();
        makes_progress(&board).await;
    }
    board.start_daemon().await;
    assert!(is_running(&successor, &order).await);
    successor.freeze(&order.replica).await.unwrap();
    successor.start(&order).await.unwrap();
    makes_progress(&board).await;
    successor.stop(&order.replica, Duration::ZERO).await.unwrap();
    successor.thaw(&order.replica).await.unwrap();
    nothing_is_left(&board).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_is_asked_to_end_and_is_started_again_as_any_other() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", COUNTS), sh("side", COUNTS)]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    containerd.freeze(&order.replica).await.unwrap();
    containerd.restart(&order, "main", LONG).await.unwrap();
    assert!(is_running(&containerd, &order).await);
    let side = state(&containerd, &order, "side").await;
    assert!(matches!(side, Some(ContainerState::Running { .. })), "all of it is thawed: {side:?}");
    until("it was asked, and then started again", async || {
        (board.log(&order, "main") == ["ready", "bye", "ready"]).then_some(())
    })
    .await;
    board.logged(&order, "side", "ready").await;

    containerd.freeze(&order.replica).await.unwrap();
    let began = Instant::now();
    containerd.stop(&order.replica, LONG).await.unwrap();
    assert!(began.elapsed() < LONG / 2, "it ended by itself");
    assert_eq!(board.log(&order, "side"), ["ready", "bye"]);
    nothing_is_left(&board).await;

    let deaf = board.order(2, vec![sh("main", "trap '' TERM; echo ready; while :; do :; done")]);
    run(&containerd, &deaf).await;
    board.logged(&deaf, "main", "ready").await;
    containerd.freeze(&deaf.replica).await.unwrap();
    timeout(LONG / 2, containerd.stop(&deaf.replica, Duration::ZERO)).await.unwrap().unwrap();
    nothing_is_left(&board).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_whose_shim_is_killed_has_ended_and_can_be_cleared_away() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", COUNTS)]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    containerd.freeze(&order.replica).await.unwrap();
    kill(Pid::from_raw(board.shims()[0]), Signal::SIGKILL).unwrap();
    assert_eq!(exit(&containerd, &order, "main").await.0, 137);
    timeout(LONG, containerd.stop(&order.replica, LONG)).await.unwrap().unwrap();
    until("its processes are gone", async || processes(&board).is_empty().then_some(())).await;
    nothing_is_left(&board).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_replica_that_runs_can_be_frozen_and_a_freeze_that_fails_leaves_it_running() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", COUNTS), sh("over", "exit 0")]);
    containerd.create(&order).await.unwrap();
    assert!(reason(containerd.freeze(&order.replica).await).1.contains("nothing of"));
    containerd.arm(&order).await.unwrap();
    assert!(containerd.freeze(&order.replica).await.is_err(), "an armed one is not started yet");
    containerd.start(&order).await.unwrap();
    board.logged(&order, "main", "ready").await;
    exit(&containerd, &order, "over").await;
    assert!(reason(containerd.freeze(&order.replica).await).1.contains("nothing runs in"));
    assert!(is_running(&containerd, &order).await);
    makes_progress(&board).await;
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_waited_for_before_a_freeze_and_refused_after_it() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", COUNTS)]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    let exec = async |script: &str| {
        let command = ["sh", "-c", script].map(str::to_owned);
        containerd.exec(&order.replica, "main", &command, LONG).await
    };
    // It begins before the freeze, and its end lets that go on.
    let slow = exec("touch /begun; sleep 0.5; echo over");
    let freeze = async {
        until("the command runs", async || (1 < processes(&board).len()).then_some(())).await;
        containerd.freeze(&order.replica).await
    };
    let (slow, frozen) = tokio::join!(slow, freeze);
    assert_eq!(slow.unwrap().output, "over\n");
    frozen.unwrap();
    assert!(is_frozen(&containerd, &order).await);
    let refused = timeout(LONG, exec("true")).await.unwrap();
    assert!(matches!(&refused, Err(RuntimeError::Unavailable(_))), "{refused:?}");
    containerd.thaw(&order.replica).await.unwrap();
    assert_eq!(exec("true").await.unwrap().code, 0);

    // A command that does not end is in the way of a freeze, which lets go.
    let endless = exec("sleep 8");
    let freeze = async {
        until("the command runs", async || (1 < processes(&board).len()).then_some(())).await;
        containerd.freeze(&order.replica).await
    };
    let (_, failed) = tokio::join!(endless, freeze);
    assert!(reason(failed).1.contains("does not end"));
    assert!(is_running(&containerd, &order).await);
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_is_given_up_leaves_the_replica_running() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", COUNTS)]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    for _ in 0..20 {
        // Polled once: told and not waited for, as a rule.
        let freeze = containerd.freeze(&order.replica);
        if timeout(Duration::ZERO, freeze).await.is_ok() {
            containerd.thaw(&order.replica).await.unwrap();
        }
        assert!(is_running(&containerd, &order).await);
    }
    makes_progress(&board).await;
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_come_and_go_are_frozen_too() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "echo ready; while :; do /bin/true; done")]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    for _ in 0..50 {
        let before = processes(&board);
        until("another process", async || (processes(&board) != before).then_some(())).await;
        containerd.freeze(&order.replica).await.unwrap();
        containerd.thaw(&order.replica).await.unwrap();
    }
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

/// How long each step takes here: printed, and held to what no machine that tests should exceed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_is_quicker_than_starting() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let mut times: std::collections::BTreeMap<&str, Vec<Duration>> =
        std::collections::BTreeMap::new();
    for n in 1..=9 {
        let order = board.order(n, vec![sh("main", "exec httpd -f -p 8080 -h /www")]);
        let mut note = |what, began: Instant| times.entry(what).or_default().push(began.elapsed());
        containerd.create(&order).await.unwrap();
        let began = Instant::now();
        containerd.arm(&order).await.unwrap();
        note("arm", began);
        let began = Instant::now();
        containerd.start(&order).await.unwrap();
        note("start of armed", began);
        listens(&order).await;
        note("start of armed, to listening", began);
        let began = Instant::now();
        containerd.freeze(&order.replica).await.unwrap();
        note("freeze", began);
        let began = Instant::now();
        containerd.observe().await.unwrap();
        note("observe", began);
        let began = Instant::now();
        containerd.thaw(&order.replica).await.unwrap();
        note("thaw", began);
        answer(&order).await;
        containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
        let cold = board.order(100 + n, vec![sh("main", "exec httpd -f -p 8080 -h /www")]);
        containerd.create(&cold).await.unwrap();
        let began = Instant::now();
        containerd.start(&cold).await.unwrap();
        note("start", began);
        containerd.stop(&cold.replica, Duration::ZERO).await.unwrap();
    }
    let median = |what: &str| {
        let mut all = times[what].clone();
        all.sort();
        all[all.len() / 2]
    };
    for what in times.keys() {
        println!("{what}: {:?}", median(what));
    }
    assert!(median("start of armed") < median("start"));
    assert!(median("thaw") < median("start of armed"));
}

/// Something in the replica listens on port 8080, as its namespace tells.
async fn listens(order: &ReplicaOrder) {
    let netns = order.place.netns.clone();
    let looking = std::thread::spawn(move || {
        let netns = fs::File::open(Path::new(&netns)).unwrap();
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let began = std::net::TcpStream::connect("127.0.0.1:8080");
        let mut connected = began;
        while connected.is_err() {
            connected = std::net::TcpStream::connect("127.0.0.1:8080");
        }
    });
    tokio::task::spawn_blocking(move || looking.join().unwrap()).await.unwrap();
}
