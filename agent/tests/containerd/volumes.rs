//! Volumes, storages and devices, as containers find them and as the board is left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use domain::document::{Capabilities, Container, Device, Extras, Volume, VolumeSource};
use domain::reason::Reason;
use domain::replica::{
    ContainerState, ReplicaOrder, Secret, StorageOptions, StoragePlace, StorageSource,
};
use skerry::runtime::Runtime as _;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, reason, run, sh, state, until};
use crate::{LONG, NO_TIME, empty_dir, mounted, with_volume};

fn volume(name: &str, source: VolumeSource, options: &str) -> Volume {
    let mount_options = (!options.is_empty()).then(|| options.to_owned());
    Volume { name: name.to_owned(), source, mount_options }
}

fn storage_volume(name: &str, storage: &str, options: &str) -> Volume {
    volume(name, VolumeSource::Storage { storage_name: storage.to_owned() }, options)
}

fn place(source: StorageSource) -> StoragePlace {
    StoragePlace { source, read_only: false, options: StorageOptions::default() }
}

fn folder(path: &Path) -> StoragePlace {
    place(StorageSource::Path(path.display().to_string()))
}

/// An order for one container that runs `script` with `volumes`, each at its name.
fn order(board: &Board, n: u64, script: &str, volumes: Vec<Volume>) -> ReplicaOrder {
    let main = volumes.iter().fold(sh("main", script), |main: Container, volume| {
        mounted(main, &volume.name, &format!("/{}", volume.name), "")
    });
    let mut order = board.order(n, vec![main]);
    for volume in volumes {
        with_volume(&mut order, volume);
    }
    order
}

/// What is mounted below the board's folders of volumes.
fn mounts(board: &Board) -> Vec<String> {
    let below = board.dir.join("run/volumes").display().to_string();
    let all = fs::read_to_string("/proc/self/mounts").unwrap();
    all.lines().filter(|line| line.contains(&below)).map(str::to_owned).collect()
}

#[track_caller]
fn assert_nothing_is_left(board: &Board) {
    assert_eq!(mounts(board), [""; 0]);
    let left: Vec<PathBuf> = fs::read_dir(board.dir.join("run/volumes"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_dir_is_full_at_its_bound_and_gone_with_its_replica() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let script = "busybox dd if=/dev/zero of=/data/big bs=1M count=16 2>/dev/null || echo full; \
                  stat -c %s /data/big; grep ' /data ' /proc/mounts; echo end; exec sleep 999";
    let volumes = vec![volume("data", VolumeSource::EmptyDir, "size=8Mi")];
    let order = order(&board, 1, script, volumes);
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    let log = board.log(&order, "main");
    assert_eq!(log[..2], ["full", "8388608"], "{log:#?}");
    assert!(log[2].contains("tmpfs") && log[2].contains("nosuid,nodev"), "{log:#?}");
    assert_eq!(mounts(&board).len(), 1);
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert_nothing_is_left(&board);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secrets_of_a_volume_stay_in_memory_and_any_user_reads_them() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd_with(|image| image.user = "web".to_owned());
    let script = "id -u; cat /keys/token /keys/other; (echo x > /keys/token) 2>/dev/null && echo broken; \
                  stat -c %a /keys/token; grep ' /keys ' /proc/mounts; echo end; exec sleep 999";
    let volumes = vec![volume("keys", VolumeSource::Secret { items: Vec::new() }, "")];
    let mut order = order(&board, 1, script, volumes);
    for (name, value) in [("token", "s3cret\n"), ("other", "t00\n")] {
        order.secrets.insert(name.to_owned(), Secret(value.to_owned()));
    }
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    let log = board.log(&order, "main");
    assert_eq!(log[..4], ["33", "s3cret", "t00", "444"], "{log:#?}");
    assert!(log[4].contains("ramfs ro,"), "{log:#?}");
    // Below the mount there is nothing: no disk has seen the values.
    let target = board.dir.join(format!("run/volumes/{}/keys", order.replica));
    nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert_nothing_is_left(&board);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_changed_is_there_whole_after_a_restart_and_too_much_is_refused() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let script = "ls /keys; cat /keys/*; echo end; exec sleep 999";
    let volumes = vec![volume("keys", VolumeSource::Secret { items: Vec::new() }, "")];
    let mut order = order(&board, 1, script, volumes);
    let secret = |value: String| Secret(value);
    order.secrets.insert("token".to_owned(), secret("x".repeat((1 << 20) + 1)));
    let (failed, details) = reason(containerd.create(&order).await);
    assert_eq!(failed, Reason::VolumeFailed);
    assert!(details.ends_with("hold 1048577 bytes; 1 MiB is the most"), "{details}");
    order.secrets.insert("token".to_owned(), secret("first\n".to_owned()));
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    assert_eq!(board.log(&order, "main"), ["token", "first", "end"]);
    order.secrets.clear();
    order.secrets.insert("other".to_owned(), secret("second\n".to_owned()));
    containerd.restart(&order, "main", NO_TIME).await.unwrap();
    board.logged(&order, "main", "second").await;
    assert_eq!(board.log(&order, "main")[3..5], ["other", "second"]);
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert_nothing_is_left(&board);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_could_not_be_made_again_is_not_ended_for_it() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let elsewhere = board.dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let volumes = vec![
        storage_volume("data", "data", ""),
        volume("keys", VolumeSource::Secret { items: Vec::new() }, ""),
    ];
    let mut order = order(&board, 1, "exec sleep 999", volumes);
    order.storages.insert("data".to_owned(), folder(&elsewhere));
    run(&containerd, &order).await;
    let before = state(&containerd, &order, "main").await;
    assert!(matches!(before, Some(ContainerState::Running { .. })), "{before:?}");

    fs::remove_dir(&elsewhere).unwrap();
    let gone = reason(containerd.restart(&order, "main", NO_TIME).await);
    assert_eq!(gone.0, Reason::VolumeFailed, "{}", gone.1);
    fs::create_dir(&elsewhere).unwrap();
    let mut unplugged = order.clone();
    Arc::make_mut(&mut unplugged.template).extras.devices.push(Device {
        host_path: board.dir.join("gadget").display().to_string(),
        container_path: "/dev/gadget".to_owned(),
        permissions: "r".to_owned(),
    });
    let gone = reason(containerd.restart(&unplugged, "main", NO_TIME).await);
    assert_eq!(gone.0, Reason::DeviceMissing, "{}", gone.1);
    order.secrets.insert("big".to_owned(), Secret("x".repeat(2 << 20)));
    let refused = reason(containerd.restart(&order, "main", NO_TIME).await);
    assert_eq!(refused.0, Reason::VolumeFailed, "{}", refused.1);
    assert_eq!(state(&containerd, &order, "main").await, before);
    order.secrets.clear();
    containerd.restart(&order, "main", NO_TIME).await.unwrap();
    assert_ne!(state(&containerd, &order, "main").await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_whose_replica_is_no_more_are_removed_when_the_agent_starts() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let with_volume = |n| {
        order(&board, n, "exec sleep 999", vec![volume("data", VolumeSource::EmptyDir, "size=1Mi")])
    };
    let (lives, lost) = (with_volume(1), with_volume(2));
    containerd.create(&lost).await.unwrap();
    for id in board.listed(&["containers", "ls", "-q"]) {
        assert!(board.ctr(&["containers", "rm", &id]).status.success());
    }
    run(&containerd, &lives).await;
    let own = |order: &ReplicaOrder| board.dir.join("run/volumes").join(order.replica.as_str());
    assert!(own(&lost).exists() && mounts(&board).len() == 2);
    let successor = board.containerd();
    // It is made by the successor itself, and not a remainder.
    let new = with_volume(3);
    successor.create(&new).await.unwrap();
    let (pulses, _pulse) = tokio::sync::watch::channel(0);
    let stop = CancellationToken::new();
    let tasks = skerry::tasks::Tasks::default();
    tasks.spawn_short(tracing::Span::none(), successor.clone().watch(pulses, stop.clone()));
    until("they are removed", async || (!own(&lost).exists()).then_some(())).await;
    assert_eq!(mounts(&board).len(), 2);
    assert!(own(&lives).exists() && own(&new).exists());
    stop.cancel();
    tasks.shut_down(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_the_board_outlives_its_replicas() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let own = board.dir.join("state/volumes/team/data");
    let other = board.dir.join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("note"), "theirs\n").unwrap();
    let script = "echo mine > /own/note; cat /other/note; (echo x > /other/x) 2>/dev/null && echo broken; \
                  (echo x > /same/x) 2>/dev/null && echo broken; cat /same/note; echo end; exec sleep 999";
    let volumes = vec![
        storage_volume("own", "own", ""),
        storage_volume("other", "other", ""),
        storage_volume("same", "own", "uid=1, RO"),
    ];
    let mut order = order(&board, 1, script, volumes);
    let missing = reason(containerd.create(&order).await);
    assert_eq!(missing.0, Reason::StorageMissing);
    let options = StorageOptions { uid: Some(33), gid: Some(34), ..StorageOptions::default() };
    order.storages.insert("own".to_owned(), StoragePlace { options, ..folder(&own) });
    let nowhere = folder(&board.dir.join("nowhere"));
    order.storages.insert("other".to_owned(), nowhere);
    let (failed, details) = reason(containerd.create(&order).await);
    assert_eq!(failed, Reason::VolumeFailed);
    assert!(details.contains("there is no folder") && details.contains("nowhere"), "{details}");
    let read_only = StoragePlace { read_only: true, ..folder(&other) };
    order.storages.insert("other".to_owned(), read_only);
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    assert_eq!(board.log(&order, "main"), ["theirs", "mine", "end"]);
    let found = fs::metadata(&own).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (33, 34, 0o777));
    containerd.stop(&order.replica, NO_TIME).await.unwrap();
    assert_nothing_is_left(&board);
    assert_eq!(fs::read_to_string(own.join("note")).unwrap(), "mine\n");
    assert_eq!(fs::read_to_string(other.join("note")).unwrap(), "theirs\n");
}

/// A disk that is a file, with a file system and a label; gone with the guard.
struct Disk {
    device: String,
    link: PathBuf,
}

impl Disk {
    /// None where no loop device can be had.
    fn new(board: &Board, label: &str) -> Option<Self> {
        let file = board.dir.join("disk");
        fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-L", label]).arg(&file).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: no mkfs.ext4");
            return None;
        }
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        let Some(output) = attached.ok().filter(|output| output.status.success()) else {
            println!("skipped: no loop device");
            return None;
        };
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let link = Path::new("/dev/disk/by-label").join(label);
        fs::create_dir_all("/dev/disk/by-label").unwrap();
        let _ = std::os::unix::fs::symlink(&device, &link);
        Some(Self { device, link })
    }

    fn is_used(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.starts_with(&format!("{} ", self.device)))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.link);
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_device_is_shared_while_it_is_used_and_let_go_after() {
    let Some(board) = Board::new().await else { return };
    let label = format!("skt{}", std::process::id());
    let Some(disk) = Disk::new(&board, &label) else { return };
    let containerd = board.containerd();
    let on_disk = |n, script: &str, named: &str| {
        let mut order = order(&board, n, script, vec![storage_volume("disk", "disk", "")]);
        let source = StorageSource::Device(named.to_owned());
        order.storages.insert("disk".to_owned(), place(source));
        order
    };
    let gone = on_disk(3, "true", "LABEL=no-such-label");
    let (failed, details) = reason(containerd.create(&gone).await);
    assert_eq!(failed, Reason::VolumeFailed);
    assert!(details.contains("LABEL=no-such-label is not there"), "{details}");
    containerd.stop(&gone.replica, NO_TIME).await.unwrap();

    let script = "echo written > /disk/note; echo end; exec sleep 999";
    let first = on_disk(1, script, &format!("LABEL={label}"));
    run(&containerd, &first).await;
    board.logged(&first, "main", "end").await;
    let reads =
        "cat /disk/note; (echo x > /disk/x) 2>/dev/null && echo broken; echo end; exec sleep 999";
    let mut second = on_disk(2, reads, &disk.device);
    second.storages.get_mut("disk").unwrap().read_only = true;
    run(&containerd, &second).await;
    board.logged(&second, "main", "end").await;
    assert_eq!(board.log(&second, "main"), ["written", "end"]);
    let of_second = |line: &&String| line.contains(second.replica.as_str());
    let mounts = mounts(&board);
    let mount = mounts.iter().find(of_second).unwrap();
    assert!(mount.contains(" ro,nosuid,nodev"), "{mount}");
    containerd.stop(&first.replica, NO_TIME).await.unwrap();
    assert!(disk.is_used(), "the other replica has it still");
    containerd.stop(&second.replica, NO_TIME).await.unwrap();
    assert!(!disk.is_used());
    assert_nothing_is_left(&board);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_volume_is_what_it_is_when_the_container_starts_and_never_outside() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let script =
        "cat /site/index /note; echo new > /made/file; ls /data/deep/er; echo end; exec sleep 999";
    let main = [("/site", "site"), ("/note", "site/index"), ("/made", "deep/er"), ("/data", "")];
    let main = main
        .into_iter()
        .fold(sh("main", script), |main, (path, part)| mounted(main, "data", path, part));
    let prepare = "busybox mkdir -p /data/real; echo page > /data/real/index; \
                   busybox ln -s real /data/site; busybox ln -s /etc /data/evil; busybox ln -s ../../.. /data/up";
    let first = mounted(sh("first", prepare), "data", "/data", "");
    let with_init = |n, main: Container| {
        let mut order = board.order(n, vec![main]);
        Arc::make_mut(&mut order.template).init_containers = vec![first.clone()];
        with_volume(&mut order, empty_dir("data"));
        order
    };
    let good = with_init(1, main);
    run(&containerd, &good).await;
    board.logged(&good, "main", "end").await;
    assert_eq!(board.log(&good, "main"), ["page", "page", "file", "end"]);
    containerd.stop(&good.replica, NO_TIME).await.unwrap();
    for (n, part) in [(2, "evil"), (3, "evil/new"), (4, "up/x"), (5, "site/index/x")] {
        let bad = with_init(n, mounted(sh("main", "exec sleep 999"), "data", "/x", part));
        containerd.create(&bad).await.unwrap();
        let (failed, details) = reason(containerd.start(&bad).await);
        assert_eq!(failed, Reason::VolumeFailed, "{part}: {details}");
        assert!(details.contains("leads"), "{part}: {details}");
        containerd.stop(&bad.replica, NO_TIME).await.unwrap();
    }
    assert!(!Path::new("/etc/new").exists());
    assert_nothing_is_left(&board);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_gets_the_devices_and_capabilities_that_are_asked_for_and_no_more() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd_with(|image| image.user = "web".to_owned());
    let node = board.dir.join("gadget");
    let script = "true < /dev/gadget && echo opened; (true > /dev/gadget) 2>/dev/null && echo broken; \
                  stat -c %t:%T:%a:%g /dev/gadget; id -G; grep -E 'Cap(Eff|Bnd)' /proc/self/status; echo end; \
                  exec sleep 999";
    let mut order = order(&board, 1, script, Vec::new());
    Arc::make_mut(&mut order.template).extras = Extras {
        devices: vec![Device {
            host_path: node.display().to_string(),
            container_path: "/dev/gadget".to_owned(),
            permissions: "r".to_owned(),
        }],
        capabilities: Capabilities {
            add: vec!["NET_ADMIN".to_owned()],
            drop: vec!["CHOWN".to_owned()],
        },
        ..Extras::default()
    };
    let (failed, details) = reason(containerd.create(&order).await);
    assert_eq!(failed, Reason::DeviceMissing);
    assert!(details.contains("gadget is not there"), "{details}");
    // Plugged in: the number is that of a device which containers do not get by themselves.
    let made = Command::new("mknod").arg(&node).args(["c", "10", "229"]).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::chown(&node, Some(0), Some(4321)).unwrap();
    fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    let log = board.log(&order, "main");
    // 10 and 229 as stat writes them; NET_ADMIN is bit 12, CHOWN bit 0.
    assert_eq!(log[..2], ["opened", "a:e5:660:4321"], "{log:#?}");
    assert!(log[2].split(' ').any(|group| group == "4321"), "{log:#?}");
    assert_eq!(log[3], "CapEff:\t0000000000001000");
    let bounding = log[4].rsplit('\t').next().unwrap();
    let bounding = u64::from_str_radix(bounding, 16).unwrap();
    assert_eq!((bounding >> 12 & 1, bounding & 1), (1, 0), "{log:#?}");
    let others =
        crate::volumes::order(&board, 2, "ls /dev/gadget || echo none; exec sleep 999", Vec::new());
    run(&containerd, &others).await;
    until("it has none", async || {
        board.log(&others, "main").iter().any(|l| l == "none").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capability_comes_with_the_calls_that_it_is_for() {
    let Some(board) = Board::new().await else { return };
    let containerd = board.containerd();
    let script = "mount -t tmpfs x /tmp && echo mounted; echo end; exec sleep 999";
    let mut order = order(&board, 1, script, Vec::new());
    Arc::make_mut(&mut order.template).extras.capabilities.add = vec!["SYS_ADMIN".to_owned()];
    run(&containerd, &order).await;
    board.logged(&order, "main", "end").await;
    assert_eq!(board.log(&order, "main"), ["mounted", "end"]);
}
