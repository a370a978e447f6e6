//! Replicas on a real containerd, with real shims, runc and log sinks.

// Only by this attribute does clippy know it as a part of tests.
#[cfg(test)]
mod beside;
#[cfg(test)]
mod board;
#[cfg(test)]
mod standby;
#[cfg(test)]
mod volumes;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use domain::document::{
    Container, EnvValue, EnvVar, Resources, SecretItem, Volume, VolumeMount, VolumeSource,
};
use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{ContainerState, FetchOrder, ReplicaOrder, Secret};
use skerry::runtime::{Runtime, RuntimeError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use board::{Board, LOG_FILE_BYTES, answer, exit, observed, reason, run, sh, state, until};

const NO_TIME: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);

fn with_volume(order: &mut ReplicaOrder, volume: Volume) {
    Arc::make_mut(&mut order.template).volumes.push(volume);
}

fn empty_dir(name: &str) -> Volume {
    Volume { name: name.to_owned(), source: VolumeSource::EmptyDir, mount_options: None }
}

fn mounted(mut container: Container, volume: &str, path: &str, sub_path: &str) -> Container {
    container.volume_mounts.push(VolumeMount {
        volume_name: volume.to_owned(),
        mount_path: path.to_owned(),
        sub_path: sub_path.to_owned(),
    });
    container
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_starts_serves_and_is_observed_and_leaves_nothing_behind() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec httpd -f -p 8080 -h /www")]);
    containerd.create(&order).await.unwrap();
    containerd.create(&order).await.unwrap();
    assert_eq!(state(&containerd, &order, "main").await, Some(ContainerState::Created));
    containerd.start(&order).await.unwrap();
    containerd.start(&order).await.unwrap();
    let seen = observed(&containerd, &order).await.unwrap();
    assert!(matches!(seen.containers["main"], ContainerState::Running { .. }));
    assert_eq!(seen.containers.len(), 1);
    assert_eq!((seen.app, seen.revision), (order.app.clone(), order.revision.clone()));
    assert_eq!((seen.boot.as_str(), seen.address), ("this-boot", order.place.address));
    assert_eq!(seen.template_digest, Digest::of(b"template"));
    assert_eq!(answer(&order).await, b"hello\n");
    assert_eq!((board.shims().len(), board.sinks().len()), (1, 1));

    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert_eq!(observed(&containerd, &order).await, None);
    until("shim and sink are gone", async || {
        (board.shims().is_empty() && board.sinks().is_empty()).then_some(())
    })
    .await;
    assert_eq!(board.listed(&["containers", "ls", "-q"]), [""; 0]);
    assert_eq!(board.listed(&["tasks", "ls", "-q"]), [""; 0]);
    let snapshots = board.listed(&["snapshots", "ls"]);
    assert!(snapshots.iter().all(|line| !line.contains("Active")), "{snapshots:?}");
    assert_eq!(board.cgroups("memory"), [""; 0].map(std::path::PathBuf::from));
    for folder in ["run/etc", "run/volumes", "state/io.containerd.runtime.v2.task"] {
        let left = fs::read_dir(board.dir.join(folder)).into_iter().flatten().flatten();
        let left: Vec<_> = left
            .flat_map(|entry| match folder {
                // containerd keeps a folder for each namespace.
                "state/io.containerd.runtime.v2.task" => fs::read_dir(entry.path())
                    .unwrap()
                    .flatten()
                    .map(|entry| entry.path())
                    .collect(),
                _ => vec![entry.path()],
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_containers_of_a_replica_share_its_network_and_one_shim() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let client =
        "until wget -qO- http://127.0.0.1:8080/hello; do usleep 20000; done; exec sleep 999";
    let order =
        board.order(1, vec![sh("main", "exec httpd -f -p 8080 -h /www"), sh("client", client)]);
    run(&containerd, &order).await;
    board.logged(&order, "client", "hello").await;
    assert_eq!((board.shims().len(), board.sinks().len()), (1, 2));
    let other = board.order(2, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &other).await;
    assert_eq!(board.shims().len(), 2, "another replica has a shim of its own");
    assert_eq!(containerd.observe().await.unwrap().len(), 2);
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert!(matches!(
        state(&containerd, &other, "main").await,
        Some(ContainerState::Running { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_container_has_a_fresh_root_and_the_same_volumes_and_network() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let script = "[ -e /stale ] && echo stale; touch /stale; echo x >> /data/starts; \
                  echo start $(wc -l < /data/starts); exec sleep 999";
    let main = mounted(sh("main", script), "data", "/data", "");
    let side = mounted(sh("side", "exec sleep 999"), "data", "/data", "");
    let mut order = board.order(1, vec![main, side]);
    with_volume(&mut order, empty_dir("data"));
    // As process 1 without a handler, `sleep` would not heed SIGTERM, so there is no grace.
    run(&containerd, &order).await;
    board.logged(&order, "main", "start 1").await;
    let side_before = state(&containerd, &order, "side").await.unwrap();
    for n in 2..5 {
        containerd.restart(&order, "main", NO_TIME).await.unwrap();
        board.logged(&order, "main", &format!("start {n}")).await;
    }
    assert!(!board.log(&order, "main").contains(&"stale".to_owned()));
    assert_eq!(state(&containerd, &order, "side").await.unwrap(), side_before);
    assert_eq!(board.shims().len(), 1);
    let unknown = containerd.restart(&order, "nobody", NO_TIME).await;
    assert_eq!(reason(unknown).0, Reason::ContainerStartFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_container_of_a_replica_can_be_restarted_whatever_its_shim_does() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exit 3")]);
    run(&containerd, &order).await;
    for _ in 0..10 {
        assert_eq!(exit(&containerd, &order, "main").await, (3, false));
        containerd.restart(&order, "main", NO_TIME).await.unwrap();
    }
    assert_eq!(exit(&containerd, &order, "main").await, (3, false));
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    until("shims are gone", async || board.shims().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_asks_first_and_kills_after_the_grace() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd_with(|image| image.stop_signal = "SIGINT".to_owned());
    let polite = "trap 'echo bye; exit 0' INT; echo ready; while :; do sleep 0.05; done";
    let order = board.order(1, vec![sh("main", polite)]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    let began = Instant::now();
    containerd.stop(&order.replica, LONG).await.unwrap();
    assert!(began.elapsed() < LONG / 2, "it ended by itself");
    assert_eq!(board.log(&order, "main"), ["ready", "bye"], "the last words are kept");

    let deaf = "trap '' INT TERM; echo ready; while :; do sleep 0.05; done";
    let order = board.order(2, vec![sh("main", deaf), sh("side", "exec sleep 999")]);
    run(&containerd, &order).await;
    board.logged(&order, "main", "ready").await;
    let grace = Duration::from_millis(600);
    let began = Instant::now();
    containerd.stop(&order.replica, grace).await.unwrap();
    assert!(grace <= began.elapsed() && began.elapsed() < LONG);
    assert_eq!(observed(&containerd, &order).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_command_is_told_by_name() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let mut missing = sh("main", "");
    missing.command = vec!["nosuch".to_owned()];
    let order = board.order(1, vec![missing]);
    containerd.create(&order).await.unwrap();
    let (word, details) = reason(containerd.start(&order).await);
    assert_eq!(word, Reason::CommandNotFound);
    assert_eq!(details, "container \"main\": the image has no command \"nosuch\"");
    assert_eq!(state(&containerd, &order, "main").await, Some(ContainerState::Created));
    assert_eq!(reason(containerd.start(&order).await).0, Reason::CommandNotFound, "again the same");
    containerd.stop(&order.replica, NO_TIME).await.unwrap();

    let mut data = sh("main", "");
    data.command = vec!["/etc/passwd".to_owned()];
    let order = board.order(2, vec![data]);
    containerd.create(&order).await.unwrap();
    assert_eq!(reason(containerd.start(&order).await).0, Reason::CommandNotExecutable);
    containerd.stop(&order.replica, NO_TIME).await.unwrap();

    let mut lost = sh("main", "true");
    lost.volume_mounts = mounted(lost.clone(), "none", "/x", "").volume_mounts;
    let order = board.order(3, vec![lost]);
    assert_eq!(reason(containerd.create(&order).await).0, Reason::VolumeFailed);
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    until("no shim is left", async || board.shims().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_are_observed_with_their_code_and_a_kill_for_memory_as_such() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let mut hungry = sh("hungry", "exec tail /dev/zero");
    hungry.resources = Resources { cpu_millis: 1000, memory_bytes: 16 << 20 };
    let order = board.order(1, vec![sh("well", "exit 0"), sh("ill", "exit 7"), hungry]);
    run(&containerd, &order).await;
    assert_eq!(exit(&containerd, &order, "well").await, (0, false));
    assert_eq!(exit(&containerd, &order, "ill").await, (7, false));
    assert_eq!(exit(&containerd, &order, "hungry").await, (137, true));
    let before = observed(&containerd, &order).await.unwrap();
    containerd.start(&order).await.unwrap();
    assert_eq!(
        observed(&containerd, &order).await.unwrap(),
        before,
        "what has ended is left alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_run_in_order_and_a_failing_one_holds_the_others_back() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let shared = |name: &str, script: &str| mounted(sh(name, script), "data", "/data", "");
    let mut order = board.order(1, vec![shared("main", "cat /data/log; exec sleep 999")]);
    with_volume(&mut order, empty_dir("data"));
    Arc::make_mut(&mut order.template).init_containers =
        vec![shared("one", "echo one >> /data/log"), shared("two", "echo two >> /data/log")];
    run(&containerd, &order).await;
    board.logged(&order, "main", "two").await;
    assert_eq!(board.log(&order, "main"), ["one", "two"]);
    let seen = observed(&containerd, &order).await.unwrap();
    assert_eq!(seen.containers.keys().collect::<Vec<_>>(), ["main"]);
    assert_eq!(board.shims().len(), 1);
    assert_eq!(board.listed(&["containers", "ls", "-q"]).len(), 1);
    containerd.create(&order).await.unwrap();
    containerd.start(&order).await.unwrap();
    assert_eq!(
        board.listed(&["containers", "ls", "-q"]).len(),
        1,
        "what is done is not done again"
    );

    let mut failing = board.order(2, vec![shared("main", "exec sleep 999")]);
    with_volume(&mut failing, empty_dir("data"));
    let init = shared("init", "[ -e /data/tried ] || { touch /data/tried; exit 5; }");
    Arc::make_mut(&mut failing.template).init_containers = vec![init];
    containerd.create(&failing).await.unwrap();
    let (word, details) = reason(containerd.start(&failing).await);
    assert_eq!(word, Reason::InitContainerFailed);
    assert_eq!(details, "init container \"init\" exited with 5");
    assert_eq!(state(&containerd, &failing, "main").await, Some(ContainerState::Created));
    containerd.start(&failing).await.unwrap();
    assert!(matches!(
        state(&containerd, &failing, "main").await,
        Some(ContainerState::Running { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_is_the_images_then_acas_then_the_containers_own() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let mut main = sh("main", "env; echo args $0 $1; echo end");
    main.args = vec!["zero".to_owned(), "one".to_owned()];
    let plain = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: EnvValue::Plain(value.to_owned()),
    };
    let secret = EnvVar { name: "TOKEN".to_owned(), value: EnvValue::Secret("token".to_owned()) };
    main.env = vec![plain("OWN", "1"), plain("FROM", "container"), plain("OWN", "2"), secret];
    let mut order = board.order(1, vec![main]);
    let (word, _) = reason(containerd.create(&order).await);
    assert_eq!(word, Reason::SecretValueMissing);
    order.secrets.insert("token".to_owned(), Secret("s3cret".to_owned()));
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    let log = board.log(&order, "main");
    for line in [
        "IMAGE=1",
        "FROM=container",
        "CONTAINER_APP_NAME=hello",
        "OWN=2",
        "TOKEN=s3cret",
        "PATH=/bin",
        "args zero one",
    ] {
        assert!(log.iter().any(|logged| logged == line), "{line} in {log:?}");
    }
    assert!(!log.iter().any(|line| line == "FROM=aca" || line == "OWN=1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_walled_in_and_knows_its_place() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd_with(|image| {
        image.user = "web".to_owned();
        image.working_dir = "/www".to_owned();
    });
    let script = "id -u; id -G; cat /etc/hosts /etc/resolv.conf; hostname; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; \
                  mount -t tmpfs x /tmp && echo broken; unshare -r true && echo broken; unshare -n true && echo broken; \
                  touch /proc/sys/kernel/x && echo broken; cat /proc/kcore | wc -c; pwd; \
                  cat /keys/inner/token; touch /data/mine && ls /data; echo end";
    let main = mounted(sh("main", script), "keys", "/keys", "");
    let main = mounted(main, "data", "/data", "deep/inside");
    let mut order = board.order(1, vec![main]);
    order.secrets.insert("token".to_owned(), Secret("s3cret\n".to_owned()));
    let items = vec![SecretItem { secret_ref: "token".to_owned(), path: "inner/token".to_owned() }];
    with_volume(&mut order, empty_dir("data"));
    with_volume(
        &mut order,
        Volume {
            name: "keys".to_owned(),
            source: VolumeSource::Secret { items },
            mount_options: None,
        },
    );
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    let log = board.log(&order, "main");
    for line in [
        "33",
        "34 50",
        "nameserver 10.247.0.1",
        "search default.test.internal",
        order.replica.as_str(),
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "0",
        "/www",
        "s3cret",
        "mine",
    ] {
        assert!(log.iter().any(|logged| logged == line), "{line:?} in {log:#?}");
    }
    assert!(log.iter().any(|line| line == &format!("10.247.0.5\t{}", order.replica)));
    assert!(!log.iter().any(|line| line == "broken"), "{log:#?}");
    assert!(
        board.dir.join(format!("run/volumes/{}/data/deep/inside/mine", order.replica)).exists()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_stand_in_the_cgroup() {
    let Some(board) = Board::new().await else { return };
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: the file names below are those of cgroup v1");
        return;
    }
    let containerd = board.containerd();
    let mut main = sh("main", "exec sleep 999");
    main.resources = Resources { cpu_millis: 500, memory_bytes: 64 << 20 };
    let order = board.order(1, vec![main]);
    run(&containerd, &order).await;
    let read = |controller: &str, file: &str| {
        let groups = board.cgroups(controller);
        assert_eq!(groups.len(), 1, "{controller}");
        fs::read_to_string(groups[0].join(file)).unwrap().trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpu", "cpu.cfs_period_us"), "100000");
    assert_eq!(read("cpu", "cpu.shares"), "512");
    assert_eq!(read("pids", "pids.max"), "1024");
    let pid = read("pids", "cgroup.procs");
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logs_stays_within_its_bound_without_the_agent() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec yes a line that comes again and again")]);
    run(&containerd, &order).await;
    drop(containerd);
    let log = skerry::logger::container_log(
        &board.log_dir(),
        &order.app,
        &order.revision,
        &order.replica,
        "main",
    );
    let rotated = log.with_file_name("main.log.1");
    until("it rotated once", async || rotated.exists().then_some(())).await;
    let before = anonymous_kilobytes(&board);
    let inode = || Some(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&rotated).ok()?));
    let mut rotations = BTreeSet::new();
    until("it rotated twice more", async || {
        rotations.extend(inode());
        let files: Vec<_> = fs::read_dir(log.parent()?).ok()?.flatten().collect();
        let bytes: u64 = files.iter().flat_map(fs::DirEntry::metadata).map(|m| m.len()).sum();
        assert!(bytes <= 2 * LOG_FILE_BYTES, "{bytes} bytes");
        (2 < rotations.len()).then_some(())
    })
    .await;
    // What its relocations take differs from build to build; what the flood adds must be next to nothing.
    let after = anonymous_kilobytes(&board);
    assert!(after <= before + 128, "a sink does not grow: from {before} to {after} kB");
    board.containerd().stop(&order.replica, NO_TIME).await.unwrap();
}

/// Memory that the first sink of a board has to itself.
fn anonymous_kilobytes(board: &Board) -> u64 {
    let path = format!("/proc/{}/status", board.sinks()[0]);
    let status = fs::read_to_string(path).expect("the sink runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = resident.map(|text| text.trim().trim_end_matches(" kB"));
    kilobytes.and_then(|text| text.parse().ok()).expect("the kernel tells RssAnon")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_agent_adopts_what_runs() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec sleep 999"), sh("over", "exit 4")]);
    run(&containerd, &order).await;
    exit(&containerd, &order, "over").await;
    let first = observed(&containerd, &order).await.unwrap();
    drop(containerd);
    let pids = || board.listed(&["tasks", "ls"]).into_iter().collect::<BTreeSet<_>>();
    let before = pids();
    let successor = board.containerd();
    let second = observed(&successor, &order).await.unwrap();
    assert!(matches!(second.containers["main"], ContainerState::Running { .. }));
    assert!(matches!(second.containers["over"], ContainerState::Exited { code: 4, .. }));
    assert_eq!(
        (first.template_digest, first.address, first.boot),
        (second.template_digest, second.address, second.boot)
    );
    successor.start(&order).await.unwrap();
    assert_eq!(pids(), before, "nothing was started again");
    successor.stop(&order.replica, NO_TIME).await.unwrap();
    assert!(successor.observe().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_shim_died_has_ended_and_can_be_stopped() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let order = board.order(1, vec![sh("main", "exec sleep 999")]);
    run(&containerd, &order).await;
    for shim in board.shims() {
        let shim = nix::unistd::Pid::from_raw(shim);
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    assert_eq!(exit(&containerd, &order, "main").await.0, 137);
    containerd.restart(&order, "main", NO_TIME).await.unwrap();
    assert!(matches!(
        state(&containerd, &order, "main").await,
        Some(ContainerState::Running { .. })
    ));
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert!(board.listed(&["containers", "ls", "-q"]).is_empty());
    // A record that a reboot has left: no process, no marks.
    let order = board.order(2, vec![sh("main", "exec sleep 999")]);
    containerd.create(&order).await.unwrap();
    fs::remove_dir_all(board.dir.join("run")).unwrap();
    assert_eq!(state(&containerd, &order, "main").await, Some(ContainerState::Created));
    containerd.stop(&order.replica, LONG).await.unwrap();
    assert!(board.listed(&["containers", "ls", "-q"]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_left_between_making_and_starting_is_taken_up_where_it_was() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    for (n, starts) in [(1, true), (2, false)] {
        let order = board.order(n, vec![sh("main", "exec sleep 999")]);
        containerd.create(&order).await.unwrap();
        let ids = board.listed(&["containers", "ls", "-q"]);
        assert_eq!(ids.len(), 1);
        board.make_task(&ids[0]).await;
        assert_eq!(state(&containerd, &order, "main").await, Some(ContainerState::Armed));
        if starts {
            containerd.start(&order).await.unwrap();
            let running = state(&containerd, &order, "main").await;
            assert!(matches!(running, Some(ContainerState::Running { .. })));
        }
        containerd.stop(&order.replica, Duration::from_millis(100)).await.unwrap();
        assert!(board.listed(&["containers", "ls", "-q"]).is_empty());
    }
    until("no shim is left", async || board.shims().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_a_pulse_and_so_is_containerds_return() {
    let Some(board) = Board::new().await else { return };
    board.kill_daemon();
    let containerd = board.containerd();
    let (pulses, mut pulse) = tokio::sync::watch::channel(0);
    let stop = CancellationToken::new();
    let tasks = skerry::tasks::Tasks::default();
    tasks.spawn_short(tracing::Span::none(), containerd.clone().watch(pulses, stop.clone()));
    assert!(matches!(containerd.observe().await, Err(RuntimeError::Unavailable(_))));
    board.start_daemon().await;
    let wait = async |pulse: &mut tokio::sync::watch::Receiver<u64>| {
        tokio::time::timeout(LONG, pulse.changed()).await.unwrap().unwrap();
    };
    wait(&mut pulse).await;
    let order = board.order(1, vec![sh("main", "read line; exit 1")]);
    run(&containerd, &order).await;
    wait(&mut pulse).await;
    exit(&containerd, &order, "main").await;
    board.kill_daemon();
    board.start_daemon().await;
    pulse.mark_unchanged();
    wait(&mut pulse).await;
    exit(&containerd, &order, "main").await;
    containerd.restart(&order, "main", NO_TIME).await.unwrap();
    wait(&mut pulse).await;
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    stop.cancel();
    tasks.shut_down(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_fetched_one_after_the_other_in_order() {
    let Some(board) = Board::new().await else { return };
    let images = vec!["busybox".to_owned(), "other".to_owned()];
    let revision = "hello--0000001".parse().unwrap();
    let order = FetchOrder { revision, images: images.clone(), logins: vec![] };
    let resolved = board.containerd().fetch(order).await.unwrap();
    let references: Vec<_> = resolved.into_iter().map(|image| image.reference).collect();
    assert_eq!(references, images);
}
