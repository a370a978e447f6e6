//! A containerd of its own, with one image and as many network namespaces as a test asks for. All goes with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use containerd_client::services::v1::CreateTaskRequest;
use containerd_client::services::v1::snapshots::MountsRequest;
use domain::document::{Container, Template};
use domain::keep::{Cleared, Clearing};
use domain::model::{Digest, ReplicaName};
use domain::reason::Reason;
use domain::replica::{
    ContainerState, ObservedReplica, Place, RegistryLogin, ReplicaOrder, ResolvedImage,
};
use skerry::clock::Clock;
use skerry::containerd::connection::Connection;
use skerry::containerd::{Containerd, ImageConfig, ImageSource, Settings};
use skerry::logger;
use skerry::runtime::{Runtime as _, RuntimeError};

/// The most that any level may take to be reached on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Small, so that a flood rotates at once.
pub(crate) const LOG_FILE_BYTES: u64 = 128 << 10;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The image's configuration, without any registry.
#[derive(Debug, Clone)]
pub(crate) struct OneImage(pub(crate) ImageConfig);

impl ImageSource for OneImage {
    async fn ensure(
        &self,
        reference: &str,
        _: &[RegistryLogin],
    ) -> Result<ResolvedImage, RuntimeError> {
        Ok(resolved(reference))
    }

    async fn config(&self, _: &ResolvedImage) -> Result<ImageConfig, RuntimeError> {
        Ok(self.0.clone())
    }

    async fn clear(&self, _: Clearing) -> Result<Cleared, RuntimeError> {
        Ok(Cleared::default())
    }
}

pub(crate) struct Board {
    pub(crate) dir: PathBuf,
    pub(crate) namespace: String,
    pub(crate) image: ImageConfig,
    daemon: Mutex<Option<Child>>,
    netns: Mutex<Vec<String>>,
}

impl Board {
    /// A board, or nothing where containers cannot be made.
    pub(crate) async fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: containers need root");
            return None;
        }
        if Command::new("containerd").arg("--version").output().is_err() {
            println!("skipped: there is no containerd");
            return None;
        }
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("skreplicas-{}-{n}", std::process::id());
        let dir = PathBuf::from(format!("/tmp/{namespace}"));
        fs::create_dir_all(dir.join("opt")).unwrap();
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/c.sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{0}/opt\"\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut board = Self {
            dir,
            namespace,
            image: ImageConfig::default(),
            daemon: Mutex::new(None),
            netns: Mutex::default(),
        };
        board.start_daemon().await;
        board.image = board.import();
        Some(board)
    }

    pub(crate) async fn start_daemon(&self) {
        let log = fs::File::create(self.dir.join("containerd.log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.daemon.lock().unwrap() = Some(daemon);
        until("containerd answers", async || self.ctr(&["version"]).status.success().then_some(()))
            .await;
    }

    pub(crate) fn kill_daemon(&self) {
        if let Some(mut daemon) = self.daemon.lock().unwrap().take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        let mut ctr = Command::new("ctr");
        ctr.arg("-a").arg(self.dir.join("c.sock")).args(["-n", &self.namespace]).args(arguments);
        ctr.output().unwrap()
    }

    /// Lines of a listing.
    pub(crate) fn listed(&self, arguments: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.ctr(arguments).stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// An image of busybox alone, made by hand as an OCI layout.
    fn import(&self) -> ImageConfig {
        let layout = self.dir.join("layout");
        let root = self.dir.join("rootfs");
        for folder in ["bin", "etc", "tmp", "www", "dev", "proc", "sys"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for link in [
            "sh", "sleep", "httpd", "wget", "cat", "echo", "touch", "env", "id", "yes", "tail",
            "wc", "mount", "unshare", "hostname", "grep", "true", "false", "usleep", "ls", "stat",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(link)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
            .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nextra:x:50:web\n").unwrap();
        fs::write(root.join("www/hello"), "hello\n").unwrap();
        let layer = self.dir.join("layer.tar");
        let tar = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&layer).arg(".").status();
        assert!(tar.unwrap().success());
        let layer = fs::read(layer).unwrap();
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let blob = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            digest.to_string()
        };
        let diff_id = blob(&layer);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::json!({"architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = serde_json::json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": layer.len()}]});
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob(&manifest), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": "localhost/busybox:1"}}]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
        let archive = self.dir.join("image.tar");
        let tar =
            Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg(".").status();
        assert!(tar.unwrap().success());
        let imported = self.ctr(&["images", "import", archive.to_str().unwrap()]);
        assert!(imported.status.success(), "{imported:?}");
        ImageConfig {
            chain_id: diff_id,
            env: vec!["PATH=/bin".to_owned(), "FROM=image".to_owned(), "IMAGE=1".to_owned()],
            cmd: vec!["sh".to_owned()],
            ..ImageConfig::default()
        }
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::new(self.dir.join("c.sock"), self.namespace.clone())
    }

    pub(crate) fn containerd(&self) -> Containerd<OneImage> {
        self.containerd_with(|_| ())
    }

    pub(crate) fn containerd_with(
        &self,
        change: impl FnOnce(&mut ImageConfig),
    ) -> Containerd<OneImage> {
        let settings = Settings {
            namespace: self.namespace.clone(),
            snapshotter: "overlayfs".to_owned(),
            runtime: "io.containerd.runc.v2".to_owned(),
            run_dir: self.dir.join("run"),
            volumes_dir: self.dir.join("state/volumes"),
            log_dir: self.log_dir(),
            max_log_file_bytes: LOG_FILE_BYTES,
            max_log_files: 2,
            logger: env!("CARGO_BIN_EXE_skerry").into(),
        };
        let mut image = self.image.clone();
        change(&mut image);
        Containerd::new(self.connection(), settings, OneImage(image), Clock::default())
    }

    /// Does the first half of a start.
    pub(crate) async fn make_task(&self, id: &str) {
        let connection = self.connection();
        let client = connection.client().await.unwrap();
        let mounts = MountsRequest { snapshotter: "overlayfs".to_owned(), key: id.to_owned() };
        let mounts = client.snapshots().mounts(connection.request(mounts)).await.unwrap();
        let task = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs: mounts.into_inner().mounts,
            ..CreateTaskRequest::default()
        };
        client.tasks().create(connection.request(task)).await.unwrap();
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join("run/logs")
    }

    /// An order for a replica with a network namespace of its own.
    pub(crate) fn order(&self, n: u64, containers: Vec<Container>) -> ReplicaOrder {
        let revision: domain::model::RevisionName = "hello--0000001".parse().unwrap();
        let netns = format!("{}-{n}", self.namespace);
        ip(&["netns", "add", &netns]);
        ip(&["-n", &netns, "link", "set", "lo", "up"]);
        self.netns.lock().unwrap().push(netns.clone());
        ReplicaOrder {
            replica: ReplicaName::new(&revision, n),
            revision,
            app: "hello".parse().unwrap(),
            environment: "default".parse().unwrap(),
            template: Template { containers, ..Template::default() }.into(),
            template_digest: Digest::of(b"template"),
            images: BTreeMap::from([("busybox".to_owned(), resolved("busybox"))]),
            variables: vec![
                ("FROM".to_owned(), "aca".to_owned()),
                ("CONTAINER_APP_NAME".to_owned(), "hello".to_owned()),
            ],
            secrets: BTreeMap::new(),
            storages: BTreeMap::new(),
            place: Place {
                bridge: "skreplicas".to_owned(),
                subnet: "10.247.0.0/24".parse().unwrap(),
                gateway: [10, 247, 0, 1].into(),
                address: [10, 247, 0, 5].into(),
                netns: Path::new("/run/netns").join(netns),
            },
            dns_search: "default.test.internal".to_owned(),
            boot: "this-boot".to_owned(),
        }
    }

    /// The texts that a container of the order's replica has logged.
    pub(crate) fn log(&self, order: &ReplicaOrder, container: &str) -> Vec<String> {
        let all = logger::sources(&self.log_dir(), &order.app).into_iter();
        let own: Vec<_> = all
            .filter(|source| {
                source.replica == order.replica.as_str() && source.container == container
            })
            .collect();
        logger::tail(&own, 1000).into_iter().map(|line| line.text).collect()
    }

    pub(crate) async fn logged(&self, order: &ReplicaOrder, container: &str, text: &str) {
        let what = format!("{container} logs {text:?}");
        let found = until(&what, async || {
            self.log(order, container).iter().any(|line| line == text).then_some(())
        });
        found.await;
    }

    /// Processes of this board whose command line has `word` in it.
    pub(crate) fn processes(&self, word: &str) -> Vec<i32> {
        let mark = self.dir.display().to_string();
        let own = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&mark) && line.contains(word)
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(own)
            .collect()
    }

    pub(crate) fn shims(&self) -> Vec<i32> {
        self.processes("containerd-shim")
    }

    /// Log sinks; the path of a log, with the board's folder in it, is their argument.
    pub(crate) fn sinks(&self) -> Vec<i32> {
        self.processes(" logger ")
    }

    /// Folders of the containers' cgroups in one controller.
    pub(crate) fn cgroups(&self, controller: &str) -> Vec<PathBuf> {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = Path::new("/sys/fs/cgroup").join(if v2 { "" } else { controller });
        let found = fs::read_dir(root.join(&self.namespace)).into_iter().flatten().flatten();
        found.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(15).collect();
            println!("containerd, newest first:\n{}", last.join("\n"));
        }
        // What is frozen does not die.
        for group in self.cgroups("freezer") {
            let _ = fs::write(group.join("freezer.state"), "THAWED");
        }
        for group in self.cgroups("pids") {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            text.lines().filter_map(|pid| pid.parse().ok()).for_each(kill);
        }
        self.kill_daemon();
        self.shims().into_iter().chain(self.sinks()).for_each(kill);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.display().to_string();
        let below: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        for mount in below.into_iter().rev().filter(|path| path.starts_with(&dir)) {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
        for netns in self.netns.lock().unwrap().iter() {
            ip(&["netns", "del", netns]);
        }
        // A killed process leaves its cgroup a moment later.
        for _ in 0..40 {
            let busy = self.cgroups("pids").into_iter().any(|group| fs::remove_dir(group).is_err());
            if !busy || Command::new("sleep").arg("0.05").status().is_err() {
                break;
            }
        }
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let name = controller.file_name().to_string_lossy().into_owned();
            self.cgroups(&name).into_iter().for_each(|group| {
                let _ = fs::remove_dir(group);
            });
            let _ = fs::remove_dir(controller.path().join(&self.namespace));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.namespace));
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&self.namespace));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn kill(pid: i32) {
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn ip(arguments: &[&str]) {
    let _ = Command::new("ip").args(arguments).output();
}

fn resolved(reference: &str) -> ResolvedImage {
    ResolvedImage {
        reference: reference.to_owned(),
        name: "localhost/busybox:1".to_owned(),
        digest: Digest::of(b"image"),
        warning: None,
    }
}

/// A container that runs a script of the shell.
pub(crate) fn sh(name: &str, script: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: "busybox".to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        ..Container::default()
    }
}

/// Waits for a level, with a deadline.
pub(crate) async fn until<T>(what: &str, mut level: impl AsyncFnMut() -> Option<T>) -> T {
    let reached = async {
        loop {
            if let Some(reached) = level().await {
                return reached;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.unwrap_or_else(|_| panic!("not reached: {what}"))
}

pub(crate) async fn observed(
    containerd: &Containerd<OneImage>,
    order: &ReplicaOrder,
) -> Option<ObservedReplica> {
    containerd.observe().await.unwrap().remove(&order.replica)
}

pub(crate) async fn state(
    containerd: &Containerd<OneImage>,
    order: &ReplicaOrder,
    container: &str,
) -> Option<ContainerState> {
    observed(containerd, order).await?.containers.remove(container)
}

/// Code and reason of a container's end, when it has come.
pub(crate) async fn exit(
    containerd: &Containerd<OneImage>,
    order: &ReplicaOrder,
    container: &str,
) -> (u32, bool) {
    until("the container has ended", async || match state(containerd, order, container).await? {
        ContainerState::Exited { code, oom, .. } => Some((code, oom)),
        ContainerState::Created
        | ContainerState::Armed
        | ContainerState::Running { .. }
        | ContainerState::Frozen { .. } => None,
    })
    .await
}

/// What a replica answers on port 8080 of its loopback, once it does.
pub(crate) async fn answer(order: &ReplicaOrder) -> Vec<u8> {
    let netns = order.place.netns.file_name().unwrap().to_str().unwrap().to_owned();
    let fetch = format!("ip netns exec {netns} busybox wget -qO- http://127.0.0.1:8080/hello");
    until("it serves", async || {
        let output = Command::new("sh").arg("-c").arg(&fetch).output().unwrap();
        output.status.success().then_some(output.stdout)
    })
    .await
}

/// Makes a replica and starts it.
pub(crate) async fn run(containerd: &Containerd<OneImage>, order: &ReplicaOrder) {
    containerd.create(order).await.unwrap();
    containerd.start(order).await.unwrap();
}

/// What a failure is told as.
#[track_caller]
pub(crate) fn reason(result: Result<(), RuntimeError>) -> (Reason, String) {
    let trouble = result.unwrap_err().trouble();
    (trouble.reason, trouble.details)
}
