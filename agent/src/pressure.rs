//! Memory pressure: whether processes of the board wait for memory, as the kernel tells (PSI).
//!
//! The kernel is asked once to tell when processes lost so much of a window to waiting for memory. It tells at most once
//! per window, for as long as that goes on; while nothing presses nothing here wakes. Each word of it keeps the level up
//! for a while, so that pressure that comes in bursts is one level.
//!
//! ```text
//!   kernel ──POLLPRI──▶ low ──10 s without another──▶ not low
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::report::Chain;

/// Where the kernel tells of memory pressure, if it does.
const SOURCE: &str = "/proc/pressure/memory";

/// Some process waits for memory for 200 ms of two seconds, which is where systemd has services shrink too: less is the
/// ordinary business of a full page cache. A window of whole two seconds needs no right of its own. In microseconds.
const TRIGGER: &str = "some 200000 2000000";

/// Memory is no longer low when the kernel was silent for so long.
const LINGERS: Duration = Duration::from_secs(10);

/// Publishes whether memory is low until `stop` fires. A kernel that does not tell leaves it at what it is: not low.
pub async fn run(low: watch::Sender<bool>, stop: CancellationToken) {
    match Kernel::open(Path::new(SOURCE)) {
        Ok(kernel) => {
            tokio::select! {
                () = stop.cancelled() => return,
                () = follow(kernel, &low) => (),
            }
        }
        Err(error) => debug!(error = %Chain(&error), "the kernel does not tell of memory pressure"),
    }
    stop.cancelled().await;
}

/// Who tells that processes wait for memory.
trait Source {
    /// Returns with the next word of it. After an error there is none any more.
    async fn pressed(&mut self) -> io::Result<()>;
}

/// Makes words a level. Returns when the source has ended.
async fn follow(mut source: impl Source, low: &watch::Sender<bool>) {
    let mut level = false;
    loop {
        let word = if level {
            time::timeout(LINGERS, source.pressed()).await
        } else {
            Ok(source.pressed().await)
        };
        match word {
            Ok(Ok(())) if level => (),
            Ok(Ok(())) => {
                level = true;
                low.send_replace(true);
                info!("processes wait for memory");
            }
            Err(_) => {
                level = false;
                low.send_replace(false);
                info!("no process waits for memory any more");
            }
            Ok(Err(error)) => {
                low.send_replace(false);
                warn!(error = %Chain(&error), "the kernel tells no more of memory pressure");
                return;
            }
        }
    }
}

/// A trigger of the kernel's; it goes with the file.
#[derive(Debug)]
struct Kernel(AsyncFd<File>);

impl Kernel {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        // In one write, with the zero that ends it.
        file.write_all(format!("{TRIGGER}\0").as_bytes())?;
        #[expect(
            deprecated,
            reason = "what it asks of its argument and cannot check a `File` keeps: it owns its descriptor; the \
                      successor is `unsafe`"
        )]
        AsyncFd::with_interest(file, Interest::PRIORITY).map(Self)
    }
}

impl Source for Kernel {
    async fn pressed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.ready(Interest::PRIORITY).await?;
            let failed = ready.ready().is_error();
            ready.clear_ready();
            if failed {
                return Err(io::Error::other("the trigger is gone"));
            }
            // Triggers were seen to fire on and on while nobody waited: the average has to say so too.
            if fs::read_to_string(SOURCE).is_ok_and(|text| !is_quiet(&text)) {
                return Ok(());
            }
        }
    }
}

/// Whether hardly anybody waited in the last ten seconds: less than one per cent of the time. A wait of 200 ms in two
/// seconds shows there as nearly two.
fn is_quiet(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("some avg10=0."))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    impl Source for mpsc::Receiver<()> {
        async fn pressed(&mut self) -> io::Result<()> {
            self.recv().await.ok_or_else(|| io::Error::other("it ended"))
        }
    }

    #[test]
    fn less_than_a_hundredth_is_quiet() {
        assert!(is_quiet("some avg10=0.99 avg60=3.00 avg300=0.10 total=1\nfull avg10=2.00"));
        assert!(!is_quiet("some avg10=1.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00"));
        assert!(!is_quiet("some avg10=10.05 avg60=0.00 avg300=0.00 total=1"));
    }

    /// A source to press with, the level, and what follows them.
    fn followed() -> (mpsc::Sender<()>, watch::Receiver<bool>, impl Future<Output = ()>) {
        let (press, source) = mpsc::channel(8);
        let (low, level) = watch::channel(false);
        (press, level, async move { follow(source, &low).await })
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_low_while_it_presses_and_for_a_while_after() {
        let (press, mut level, follow) = followed();
        let told = async {
            let began = Instant::now();
            for _ in 0..5 {
                press.send(()).await.unwrap();
                level.wait_for(|low| *low).await.unwrap();
                time::sleep(LINGERS * 9 / 10).await;
            }
            assert!(level.has_changed().is_ok_and(|changed| !changed), "one level, however often");
            level.wait_for(|low| !*low).await.unwrap();
            let last = 4 * LINGERS * 9 / 10;
            assert_eq!(began.elapsed().as_secs(), (last + LINGERS).as_secs());
            // And again.
            press.send(()).await.unwrap();
            level.wait_for(|low| *low).await.unwrap();
        };
        tokio::select! {
            () = told => (),
            () = follow => panic!("the source has not ended"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_nothing_presses_nothing_wakes() {
        let (press, level, follow) = followed();
        // With time paused the clock jumps to whatever timer there is: to this one, or to one of what follows.
        let day = Duration::from_hours(24);
        let began = Instant::now();
        let mut follow = Box::pin(follow);
        assert!(time::timeout(day, &mut follow).await.is_err());
        assert_eq!((began.elapsed(), *level.borrow()), (day, false));
        drop(press);
        follow.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_ends_leaves_memory_as_not_low() {
        let (press, level, follow) = followed();
        press.send(()).await.unwrap();
        drop(press);
        follow.await;
        assert!(!*level.borrow());
    }

    #[tokio::test]
    async fn a_kernel_that_does_not_tell_is_no_failure_and_one_that_does_takes_the_trigger() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Kernel::open(&folder.path().join("memory")).is_err());
        // A board may have a kernel without it; one that has it takes what is asked.
        if Path::new(SOURCE).exists() && nix::unistd::geteuid().is_root() {
            Kernel::open(Path::new(SOURCE)).unwrap();
        }
    }
}
