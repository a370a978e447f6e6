//! The log sink: a small process per container that outlives the agent, and the reader of what it wrote.
//!
//! ```text
//!   container ──stdout──▶ fd 3 ┐                        main.log
//!             ──stderr──▶ fd 4 ┴▶ skerry logger ──▶     main.log.1 … max_files - 1
//! ```
//!
//! The shim starts it (`binary://` in containerd's words) and it ends when the container has closed both streams. It
//! holds the bound by itself, so the agent may be away for as long as it likes. It never makes the container wait for
//! anything but the file system, and where that is full it drops lines and says later how many.
//!
//! A record is one line: `<RFC 3339 with nanoseconds, UTC> <stdout|stderr> <text>`. A text longer than 16 KiB is cut
//! into several records; all but the last have a `+` behind the stream: `stdout+`.

mod follow;
mod lines;
mod place;
mod read;
mod sink;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};

use self::lines::Lines;
use self::sink::Sink;

pub use self::follow::Follower;
pub use self::place::{container_log, prune};
pub use self::read::{LogLine, LogSource, Stream, sources, tail, written_since};

/// The first argument that makes this binary a sink.
const VERB: &str = "logger";

/// The shim sets it for a sink, and nobody else does.
const MARK: &str = "CONTAINER_ID";

/// What is read at once: a pipe holds no more.
const CHUNK_BYTES: usize = 64 << 10;

/// The second thread only copies; the default of 2 MiB would count against the container's board.
const STACK_BYTES: usize = 256 << 10;

/// What a sink is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The current file; older ones have `.1` and so on behind it.
    pub path: PathBuf,
    /// Bytes of one file before it is rotated.
    pub max_file_bytes: u64,
    /// Files, the current one included.
    pub max_files: u32,
}

impl Order {
    /// The order that this process was started with, if a shim started it as a sink.
    pub fn of_this_process() -> Option<Self> {
        std::env::var_os(MARK)?;
        let mut arguments = std::env::args().skip(1);
        if arguments.next()? != VERB {
            return None;
        }
        Self::parse(&arguments.next()?)
    }

    /// The URI for the streams of a container, so that its shim starts `executable` as its sink.
    ///
    /// There is one pair in the query only: the shim passes several in no particular order.
    pub fn uri(&self, executable: &Path) -> String {
        let argument =
            format!("{}:{}:{}", self.max_file_bytes, self.max_files, self.path.display());
        let executable = executable.display().to_string();
        format!("binary://{}?{VERB}={}", escaped(&executable), escaped(&argument))
    }

    fn parse(argument: &str) -> Option<Self> {
        let mut parts = argument.splitn(3, ':');
        let max_file_bytes = parts.next()?.parse().ok()?;
        let max_files = parts.next()?.parse().ok()?;
        let path = parts.next().filter(|path| path.starts_with('/'))?.into();
        Some(Self { path, max_file_bytes, max_files })
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// Copies the container's streams into the file until both have ended.
pub fn run(order: &Order) -> ExitCode {
    // The shim asks by SIGTERM before it lets go of a container, and a hang-up may come with the session it was started
    // in. What ends a sink is the end of its streams, so that the last words are kept. Threads inherit the mask.
    let mut deaf = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        deaf.add(signal);
    }
    let _ = deaf.thread_block();
    let (Ok(stdout), Ok(stderr)) = (reopened(3), reopened(4)) else { return ExitCode::FAILURE };
    let sink = Mutex::new(Sink::open(order));
    // The shim waits for this one to be closed before it goes on to make the container.
    let _ = nix::unistd::close(5);
    thread::scope(|scope| {
        let second = thread::Builder::new().stack_size(STACK_BYTES);
        let copy_stderr = || copy(stderr, Stream::Stderr, &sink);
        if second.spawn_scoped(scope, copy_stderr).is_err() {
            // Better one stream than none.
            report(&sink, "stderr is not recorded: no thread for it");
        }
        copy(stdout, Stream::Stdout, &sink);
    });
    ExitCode::SUCCESS
}

/// An inherited descriptor as a file of our own; the inherited one is closed.
fn reopened(descriptor: i32) -> io::Result<File> {
    let file = File::open(format!("/proc/self/fd/{descriptor}"))?;
    nix::unistd::close(descriptor)?;
    Ok(file)
}

fn copy(mut from: File, stream: Stream, sink: &Mutex<Sink>) {
    let mut lines = Lines::new(stream);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        lines.feed(&chunk[..read], &now(), |batch, count| write(sink, batch, count));
    }
    lines.finish(&now(), |batch, count| write(sink, batch, count));
}

fn write(sink: &Mutex<Sink>, batch: &[u8], count: u64) {
    sink.lock().unwrap_or_else(PoisonError::into_inner).write(batch, count);
}

fn report(sink: &Mutex<Sink>, what: &str) {
    let record = format!("{} {} skerry: {what}\n", now(), Stream::Stderr.word());
    write(sink, record.as_bytes(), 1);
}

/// The date with nanoseconds: as many characters each time, so that texts sort as times do.
fn now() -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .map_or(Duration::ZERO, Duration::from);
    rfc3339(UNIX_EPOCH + now)
}

fn rfc3339(time: SystemTime) -> String {
    let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(time.as_secs()).unwrap_or(0);
    chrono::DateTime::from_timestamp(seconds, time.subsec_nanos())
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}
