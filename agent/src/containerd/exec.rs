//! Commands beside a container's process: probes, with an end that is certain and an output that is bounded.
//!
//! ```text
//!   pipe ─▶ exec ─▶ start ─▶ wait ─(too late)─▶ kill ─▶ wait ─▶ delete ─▶ no pipe
//! ```
//!
//! A command's pipe has the command's id for its name and goes last, so a pipe of an earlier run of the agent tells of
//! a command that nobody waits for any more: such are ended when the agent starts. An agent that goes away while the
//! shim starts a command leaves a process that the shim has given up; it is known by its mark. The shim that runs the command is
//! the replica's own, and all of its containers hang on it: it is never given one stream without the other.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerd_client::tonic::Code;
use domain::model::ReplicaName;
use domain::reason::Reason;
use domain::replica::Executed;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::sync::{Semaphore, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Containerd;
use super::calls::Calls;
use super::exec_calls::MARK;
use super::failure::start_failure;
use super::image_source::ImageSource;
use super::lifecycle::failure;
use super::record::container_id;
use crate::runtime::{Exec, RuntimeError};

/// What is kept of a command's output, from its end: the last line is the one that says why.
const OUTPUT_BYTES: usize = 4 << 10;

/// Commands that run at a time. Each costs a process of runc, and the probes of all replicas fall on one instant.
const AT_ONCE: usize = 4;

/// A killed command is gone in milliseconds; one in an uninterruptible sleep may take the disk's time.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Between two tries to end what an earlier run left, while containerd is away.
const SWEEP_WAIT: Duration = Duration::from_secs(10);

/// A process that joins a container is the command within milliseconds. One without any variables, which may be the
/// app's own, is not waited for any longer.
const BECOMING: Duration = Duration::from_secs(2);

const BECOMING_LOOK: Duration = Duration::from_millis(5);

/// Between an id's parts: the container's id, this run of the agent, and a number.
const SEPARATOR: char = '.';

/// The commands of this run of the agent.
#[derive(Debug)]
pub(super) struct Execs {
    dir: PathBuf,
    /// No other run has it.
    run: String,
    count: AtomicU64,
    turns: Semaphore,
    /// How many are under way, by container.
    underway: watch::Sender<BTreeMap<String, usize>>,
}

/// A command under way in a container, as those who freeze it must know.
struct Underway {
    container: String,
    all: watch::Sender<BTreeMap<String, usize>>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.all.send_modify(|all| {
            if let Some(count) = all.get_mut(&self.container) {
                *count -= 1;
            }
            all.retain(|_, count| 0 < *count);
        });
    }
}

/// One command's id, and the pipe that it writes to.
struct Pipe {
    exec: String,
    path: PathBuf,
    receiver: Receiver,
}

impl Execs {
    pub(super) fn new(run_dir: &Path) -> Self {
        let since_boot =
            clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self {
            dir: run_dir.join("exec"),
            run: format!("{:x}", since_boot.as_nanos()),
            count: AtomicU64::new(0),
            turns: Semaphore::new(AT_ONCE),
            underway: watch::Sender::default(),
        }
    }

    /// Takes note of a command that is to begin, unless its container is frozen.
    fn enter(&self, container: &str, is_frozen: impl FnOnce() -> bool) -> Option<Underway> {
        let entered = self.underway.send_if_modified(|all| {
            let enters = !is_frozen();
            if enters {
                *all.entry(container.to_owned()).or_default() += 1;
            }
            enters
        });
        let underway = || Underway { container: container.to_owned(), all: self.underway.clone() };
        entered.then(underway)
    }

    /// Does `work` once no command is under way in these containers, and before the next one begins.
    pub(super) async fn between<T>(&self, containers: &[String], work: impl Fn() -> T) -> T {
        let mut changes = self.underway.subscribe();
        loop {
            let mut done = None;
            self.underway.send_if_modified(|all| {
                if !containers.iter().any(|id| all.contains_key(id)) {
                    done = Some(work());
                }
                false
            });
            if let Some(done) = done {
                return done;
            }
            changes.changed().await.expect("the sender is here");
        }
    }

    /// A new command's id.
    fn name(&self, container: &str) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{container}{SEPARATOR}{}{SEPARATOR}{number:x}", self.run)
    }

    /// A command's pipe. It is open for writing too, so that it never ends while nobody writes.
    fn pipe(&self, exec: String) -> io::Result<Pipe> {
        fs::create_dir_all(&self.dir)?;
        let path = self.dir.join(&exec);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let receiver = OpenOptions::new().read_write(true).open_receiver(&path)?;
        Ok(Pipe { exec, path, receiver })
    }

    /// Pipes of earlier runs: container, command, path.
    fn leftovers(&self) -> Vec<(String, String, PathBuf)> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files
            .filter_map(|file| {
                let exec = file.file_name().into_string().ok()?;
                let (container, rest) = exec.split_once(SEPARATOR)?;
                let old = rest.split(SEPARATOR).next() != Some(self.run.as_str());
                old.then(|| (container.to_owned(), exec.clone(), file.path()))
            })
            .collect()
    }

    /// The container is gone, and every command in it.
    pub(super) fn forget(&self, container: &str) {
        for file in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = file.file_name();
            let of = name.to_str().and_then(|name| name.split_once(SEPARATOR));
            if of.is_some_and(|(id, _)| id == container) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Ends the commands that an earlier run of the agent began. containerd may come late.
    pub(super) async fn sweep(
        &self,
        calls: &Calls,
        processes: impl Fn(&str) -> Vec<i32>,
        stop: &CancellationToken,
    ) {
        let leftovers = self.leftovers();
        // A shim that opens a pipe which nobody has open waits for a reader, and with it all that is asked of the shim.
        let open = |path| OpenOptions::new().read_write(true).open_receiver(path);
        let readers: Vec<_> = leftovers.iter().map(|(_, _, path)| open(path)).collect();
        for (container, exec, path) in leftovers {
            while let Err(error) = end(calls, &container, &exec).await {
                if let RuntimeError::Failed(trouble) = &error {
                    warn!(exec, details = trouble.details, "a command of an earlier run is left");
                    break;
                }
                if stop.run_until_cancelled(time::sleep(SWEEP_WAIT)).await.is_none() {
                    return;
                }
            }
            let gone = end_given_up(|| processes(&container), &exec);
            if time::timeout(BECOMING, gone).await.is_err() {
                warn!(exec, "a process is still becoming what it will be; it may stay");
            }
            info!(exec, "a command of an earlier run is ended");
            let _ = fs::remove_file(path);
        }
        drop(readers);
    }
}

impl<I: ImageSource> Exec for Containerd<I> {
    async fn exec(
        &self,
        replica: &ReplicaName,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<Executed, RuntimeError> {
        let (calls, execs) = (&self.shared.calls, &self.shared.execs);
        let _turn = execs.turns.acquire().await;
        let id = container_id(replica, container);
        let no_pipe = |error: io::Error| {
            let details = format!("no pipe for a command in container {container:?}: {error}");
            RuntimeError::Unavailable(details)
        };
        let is_frozen = || self.shared.freezer.is_frozen(&self.cgroup_path(&id));
        let Some(_underway) = execs.enter(&id, is_frozen) else {
            let details = format!("container {container:?} is frozen: no command can run in it");
            return Err(RuntimeError::Unavailable(details));
        };
        let exec = execs.name(&id);
        let process = calls.process(&id, &exec, command).await?;
        let mut pipe = execs.pipe(exec).map_err(no_pipe)?;
        let mut output = Vec::new();
        let ended = async {
            if let Err(status) = calls.make_exec(&id, &pipe.exec, &pipe.path, process).await? {
                return Err(start_failure(container, &status));
            }
            if let Err(status) = calls.start_exec(&id, &pipe.exec).await? {
                return Err(start_failure(container, &status));
            }
            let waited = time::timeout(limit, calls.wait_exec(&id, &pipe.exec)).await;
            let late = |_| Err(failure(Reason::ProbeFailed, no_end(limit)));
            waited.unwrap_or_else(late)
        };
        let course = async {
            let ended = ended.await;
            // Its output is complete once it is deleted.
            let removed = end(calls, &id, &pipe.exec).await;
            (ended, removed)
        };
        let (ended, removed) = tokio::select! {
            over = course => over,
            () = drain(&pipe.receiver, &mut output) => unreachable!("the pipe is open for writing here"),
        };
        take(&mut pipe.receiver, &mut output);
        match removed {
            Ok(()) => drop(fs::remove_file(&pipe.path)),
            // The pipe stays, and with it the knowledge of what is left.
            Err(error) => warn!(exec = pipe.exec, %error, "a command could not be removed"),
        }
        Ok(Executed { code: ended?, output: String::from_utf8_lossy(&output).into_owned() })
    }
}

/// Kills what the shim gave up of a command; returns once none is there, nor anything that may yet become one.
async fn end_given_up(processes: impl Fn() -> Vec<i32>, exec: &str) {
    let mark = format!("{MARK}={exec}");
    loop {
        let kinds: Vec<_> =
            processes().into_iter().map(|pid| (pid, Kind::of(pid, &mark))).collect();
        for (pid, _) in kinds.iter().filter(|(_, kind)| *kind == Kind::Marked) {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if kinds.iter().all(|(_, kind)| *kind == Kind::Other) {
            return;
        }
        time::sleep(BECOMING_LOOK).await;
    }
}

/// What a process in a container is to a command that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It carries the command's mark.
    Marked,
    /// runc's own, which has not yet turned into the command; or one between the two, without variables.
    Becoming,
    Other,
}

impl Kind {
    fn of(pid: i32, mark: &str) -> Self {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}"));
        let (Ok(name), Ok(variables)) = (read("comm"), read("environ")) else { return Self::Other };
        if variables.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            Self::Marked
        } else if name.starts_with(b"runc:") || variables.is_empty() {
            Self::Becoming
        } else {
            Self::Other
        }
    }
}

fn no_end(limit: Duration) -> String {
    format!("no end within {} s", limit.as_secs_f32())
}

/// Kills what still runs of a command and deletes it; what is not there is fine.
async fn end(calls: &Calls, container: &str, exec: &str) -> Result<(), RuntimeError> {
    // Most have ended by now, and are deleted at once.
    if calls.delete_exec(container, exec).await?.is_ok() {
        return Ok(());
    }
    calls.kill_exec(container, exec).await?;
    let _ = time::timeout(KILL_WAIT, calls.wait_exec(container, exec)).await;
    match calls.delete_exec(container, exec).await? {
        Ok(()) => Ok(()),
        Err(status) if status.code() == Code::Unavailable => {
            Err(RuntimeError::Unavailable(status.message().to_owned()))
        }
        Err(status) => Err(failure(Reason::ContainerdFailed, status.message().to_owned())),
    }
}

/// Takes what comes, for as long as it is asked to: a command must not wait for a reader.
async fn drain(receiver: &Receiver, output: &mut Vec<u8>) {
    let mut chunk = [0; OUTPUT_BYTES];
    loop {
        if receiver.readable().await.is_err() {
            return std::future::pending().await;
        }
        if let Ok(read) = receiver.try_read(&mut chunk) {
            keep(output, &chunk[..read]);
        }
    }
}

/// Takes what is there. Asks the kernel, who knows of it before the runtime does.
fn take(receiver: &mut Receiver, output: &mut Vec<u8>) {
    let mut chunk = [0; OUTPUT_BYTES];
    loop {
        match nix::unistd::read(&*receiver, &mut chunk) {
            Ok(read) if 0 < read => keep(output, &chunk[..read]),
            Err(Errno::EINTR) => (),
            Ok(_) | Err(_) => return,
        }
    }
}

fn keep(output: &mut Vec<u8>, more: &[u8]) {
    output.extend_from_slice(more);
    let surplus = output.len().saturating_sub(OUTPUT_BYTES);
    output.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ids_differ_and_are_short_enough_and_tell_their_run() {
        let folder = tempfile::tempdir().unwrap();
        let execs = Execs::new(folder.path());
        let container = container_id(&"app--1-22222".parse().unwrap(), "main");
        let pipe = || execs.pipe(execs.name(&container)).unwrap();
        let (one, two) = (pipe(), pipe());
        assert_ne!(one.exec, two.exec);
        let longest = one.exec.len() + 2 * u64::BITS as usize / 4;
        assert!(longest <= 76, "{} with the longest numbers", one.exec);
        assert_eq!(execs.leftovers(), []);
        let next = Execs::new(folder.path());
        let left: Vec<_> = next.leftovers().into_iter().map(|(id, exec, _)| (id, exec)).collect();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&(container.clone(), one.exec)));
        next.forget("sk-other");
        assert_eq!(next.leftovers().len(), 2);
        next.forget(&container);
        assert_eq!(next.leftovers(), []);
    }

    #[tokio::test]
    async fn the_end_of_an_output_is_kept_and_no_writer_waits() {
        let folder = tempfile::tempdir().unwrap();
        let mut pipe = Execs::new(folder.path()).pipe("sk-a.1.1".to_owned()).unwrap();
        let mut output = Vec::new();
        let path = pipe.path.clone();
        let writing = tokio::task::spawn_blocking(move || {
            // More than a pipe holds.
            let text = "first\n".to_owned() + &"x".repeat(300_000) + "\nlast\n";
            fs::write(path, text).unwrap();
        });
        tokio::select! {
            written = writing => written.unwrap(),
            () = drain(&pipe.receiver, &mut output) => panic!("it never ends"),
        }
        take(&mut pipe.receiver, &mut output);
        assert_eq!(output.len(), OUTPUT_BYTES);
        assert!(output.ends_with(b"x\nlast\n"));
    }
}
