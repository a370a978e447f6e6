//! What is done and seen beside a container's process: commands in it, its memory, its lock, its ports, its last words.

use std::fs;
use std::time::Duration;

use domain::reason::Reason;
use domain::replica::{ContainerState, Executed, Listener, ReplicaOrder};
use skerry::containerd::Containerd;
use skerry::runtime::{Exec as _, Runtime as _, RuntimeError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::board::{Board, OneImage, exit, run, sh, state, until};

const LONG: Duration = Duration::from_secs(20);

async fn exec(
    containerd: &Containerd<OneImage>,
    order: &ReplicaOrder,
    script: &str,
    limit: Duration,
) -> Result<Executed, RuntimeError> {
    let command = ["sh", "-c", script].map(str::to_owned);
    containerd.exec(&order.replica, "main", &command, limit).await
}

/// Pipes of commands that were not removed.
fn pipes(board: &Board) -> usize {
    fs::read_dir(board.dir.join("run/exec")).into_iter().flatten().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_as_the_containers_own_process_does() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd_with(|image| {
        image.user = "web".to_owned();
        image.working_dir = "/www".to_owned();
    });
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &order).await;
    let script = "echo $(id -u):$(id -g) $FROM $(busybox pwd); cat hello >&2; exit 3";
    let executed = exec(&containerd, &order, script, LONG).await.unwrap();
    // What was written to one stream may overtake what was written to the other.
    let mut lines: Vec<&str> = executed.output.lines().collect();
    lines.sort_unstable();
    assert_eq!((executed.code, lines), (3, vec!["33:34 aca /www", "hello"]));
    let many = (0..12).map(|n| {
        let (containerd, order) = (containerd.clone(), order.clone());
        async move {
            let executed = exec(&containerd, &order, &format!("echo {n}"), LONG).await.unwrap();
            assert_eq!(executed, Executed { code: 0, output: format!("{n}\n") });
        }
    });
    futures_util::future::join_all(many).await;
    let killed = exec(&containerd, &order, "kill -9 $$", LONG).await.unwrap();
    assert_eq!(killed, Executed { code: 137, output: String::new() });
    assert_eq!(pipes(&board), 0);
    assert_eq!(board.shims().len(), 1, "the shim took no harm");
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_long_output_is_kept() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &order).await;
    let script = "yes x | busybox head -c 1000000; echo; echo last";
    let executed = exec(&containerd, &order, script, LONG).await.unwrap();
    assert_eq!((executed.code, executed.output.len()), (0, 4096));
    assert!(executed.output.ends_with("x\n\nlast\n"), "{:?}", executed.output);
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_does_not_end_is_killed_and_leaves_nothing() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &order).await;
    let began = Instant::now();
    let limit = Duration::from_millis(300);
    let late = exec(&containerd, &order, "exec sleep 777", limit).await.unwrap_err().trouble();
    assert_eq!((late.reason, late.details.as_str()), (Reason::ProbeFailed, "no end within 0.3 s"));
    assert!(limit <= began.elapsed() && began.elapsed() < LONG / 2);
    let left = until("it is gone", async || board_process(&board, "777").is_none().then_some(()));
    left.await;
    assert_eq!(pipes(&board), 0);
    let running = state(&containerd, &order, "main").await;
    assert!(matches!(running, Some(ContainerState::Running { .. })));
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

/// A process whose command line has `word` in it, in a container of the board.
fn board_process(board: &Board, word: &str) -> Option<i32> {
    let groups = board.cgroups("pids").into_iter();
    let mut processes = groups.flat_map(|group| {
        let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    processes.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_run_is_told_by_name() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &order).await;
    let wrong = ["nosuch".to_owned()];
    let refused = containerd.exec(&order.replica, "main", &wrong, LONG).await.unwrap_err();
    let details = "container \"main\": the image has no command \"nosuch\"";
    assert_eq!(refused.trouble().details, details);
    let nobody = containerd.exec(&order.replica, "nobody", &wrong, LONG).await;
    assert!(matches!(nobody, Err(RuntimeError::Failed(_))), "{nobody:?}");
    assert_eq!(pipes(&board), 0);
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
    let stopped = exec(&containerd, &order, "true", LONG).await;
    assert!(matches!(stopped, Err(RuntimeError::Failed(_))), "{stopped:?}");
    assert_eq!(pipes(&board), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_left_behind_is_ended_by_the_next() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &order).await;
    // The agent ends at every moment of a command's making, and while it runs.
    for millis in (0..120).step_by(10) {
        let cut_off = exec(&containerd, &order, "exec sleep 888", LONG);
        assert!(timeout(Duration::from_millis(millis), cut_off).await.is_err());
    }
    until("a command runs", async || board_process(&board, "888")).await;
    assert!(1 < pipes(&board), "their pipes tell of them");

    let successor = board.containerd();
    let (pulses, _pulse) = tokio::sync::watch::channel(0);
    let stop = CancellationToken::new();
    let tasks = skerry::tasks::Tasks::default();
    tasks.spawn_short(tracing::Span::none(), successor.clone().watch(pulses, stop.clone()));
    until("the pipes are removed", async || (pipes(&board) == 0).then_some(())).await;
    until("and the commands ended", async || board_process(&board, "888").is_none().then_some(()))
        .await;
    let executed = exec(&successor, &order, "echo well", LONG).await.unwrap();
    assert_eq!(executed.output, "well\n");
    stop.cancel();
    tasks.shut_down(LONG).await;
    // What nobody swept goes with the container.
    let cut_off = exec(&successor, &order, "exec sleep 888", LONG);
    assert!(timeout(Duration::from_millis(300), cut_off).await.is_err());
    successor.stop(&order.replica, Duration::ZERO).await.unwrap();
    assert_eq!(pipes(&board), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_serves_nobody_is_ended_and_one_that_serves_is_not() {
    let Some(board) = Board::new().await else { return };
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&board.containerd(), &order).await;
    let serving = board.shims();
    // As containerd starts one, of which it then hears no more.
    let bundle = board.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), "{}").unwrap();
    let socket = board.dir.join("c.sock").display().to_string();
    let started = std::process::Command::new("containerd-shim-runc-v2")
        .args(["-namespace", &board.namespace, "-id", "sk-0123456789abcdef01234567"])
        .args(["-address", &socket, "start"])
        .env("TTRPC_ADDRESS", format!("{socket}.ttrpc"))
        .current_dir(&bundle)
        .output()
        .unwrap();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    until("there is one more", async || (board.shims().len() == serving.len() + 1).then_some(()))
        .await;

    let (pulses, _pulse) = tokio::sync::watch::channel(0);
    let stop = CancellationToken::new();
    let tasks = skerry::tasks::Tasks::default();
    tasks.spawn_short(tracing::Span::none(), board.containerd().watch(pulses, stop.clone()));
    until("it is gone", async || (board.shims() == serving).then_some(())).await;
    assert!(matches!(
        state(&board.containerd(), &order, "main").await,
        Some(ContainerState::Running { .. })
    ));
    stop.cancel();
    tasks.shut_down(LONG).await;
    board.containerd().stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survey_measures_replicas_and_finds_their_locks() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let fill =
        "busybox dd if=/dev/zero of=/dev/shm/fill bs=1M count=32; echo filled; exec sleep 999";
    let large = board.order(1, vec![sh("main", "exec sleep 999"), sh("side", fill)]);
    let small = board.order(2, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &large).await;
    run(&containerd, &small).await;
    board.logged(&large, "side", "filled").await;
    let asked = vec![small.replica.clone(), large.replica.clone()];
    let survey = containerd.survey(asked.clone()).await.unwrap();
    assert!(0 < survey.available && survey.available < survey.total);
    let (little, much) = (survey.working_sets[&asked[0]], survey.working_sets[&asked[1]]);
    assert!(0 < little && little < 16 << 20, "{little}");
    assert!((32 << 20..64 << 20).contains(&much), "{much}");
    assert_eq!(survey.locked_by, None);

    let lock = "busybox mkdir -p /run/skerry; touch /run/skerry/lock";
    assert_eq!(exec(&containerd, &large, lock, LONG).await.unwrap().code, 0);
    let survey = containerd.survey(asked.clone()).await.unwrap();
    assert_eq!(survey.locked_by, Some(large.replica.clone()));
    let others = containerd.survey(vec![small.replica.clone()]).await.unwrap();
    assert_eq!((others.locked_by, others.working_sets.len()), (None, 1));
    let gone = exec(&containerd, &large, "busybox rm /run/skerry/lock", LONG).await.unwrap();
    assert_eq!(gone.code, 0);
    assert_eq!(containerd.survey(asked).await.unwrap().locked_by, None);
    for order in [large, small] {
        containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ports_that_a_replica_listens_on_are_told() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(
        1,
        vec![
            sh("main", "httpd -p 127.0.0.1:3000 -h /www; exec sleep 999"),
            sh("side", "exec httpd -f -p 8080 -h /www"),
        ],
    );
    run(&containerd, &order).await;
    let expected =
        [Listener { port: 3000, loopback: true }, Listener { port: 8080, loopback: false }];
    until("both listen", async || {
        (containerd.listening(&order.replica).await.unwrap() == expected).then_some(())
    })
    .await;
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
    assert_eq!(containerd.listening(&order.replica).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_of_a_container_are_those_of_its_last_run() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let script = "[ -e /data/again ] && exit 2; touch /data/again; echo hello; usleep 200000; echo 'no database' >&2; exit 1";
    let mut main = sh("main", script);
    main.volume_mounts.push(domain::document::VolumeMount {
        volume_name: "data".to_owned(),
        mount_path: "/data".to_owned(),
        sub_path: String::new(),
    });
    let mut order = board.order(1, vec![main]);
    super::with_volume(&mut order, super::empty_dir("data"));
    run(&containerd, &order).await;
    assert_eq!(exit(&containerd, &order, "main").await, (1, false));
    let words = async || match state(&containerd, &order, "main").await {
        Some(ContainerState::Exited { words, .. }) => words,
        other => panic!("{other:?}"),
    };
    until("its words are read", async || (words().await == "no database").then_some(())).await;
    // An agent that comes later reads them too.
    assert!(matches!(state(&board.containerd(), &order, "main").await,
        Some(ContainerState::Exited { words, .. }) if words == "no database"));
    containerd.restart(&order, "main", Duration::ZERO).await.unwrap();
    assert_eq!(exit(&containerd, &order, "main").await, (2, false));
    assert_eq!(words().await, "", "the second run said nothing");
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_runs_is_asked_to_end_before_it_is_started_again() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let polite = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let order = board.order(1, vec![sh("main", polite), sh("deaf", deaf)]);
    run(&containerd, &order).await;
    for container in ["main", "deaf"] {
        board.logged(&order, container, "ready").await;
    }
    let began = Instant::now();
    containerd.restart(&order, "main", LONG).await.unwrap();
    assert!(began.elapsed() < LONG / 2, "it ended by itself");
    board.logged(&order, "main", "bye").await;
    let grace = Duration::from_millis(600);
    let began = Instant::now();
    containerd.restart(&order, "deaf", grace).await.unwrap();
    assert!(grace <= began.elapsed() && began.elapsed() < LONG);
    containerd.stop(&order.replica, Duration::ZERO).await.unwrap();
}
