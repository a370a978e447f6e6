//! The threads that run tasks.
//!
//! The ingress has one of its own. What a request wakes then runs where it was woken: between two threads of one runtime
//! half of it changes over, and each change costs more than what is done. Nor does a request wait for whoever computes
//! elsewhere, such as the reader of a large document.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads that run all but the ingress. More would not do more on a small board, and each costs memory.
const WORKERS: usize = 2;

/// Threads that may wait for the disk at a time: the store, an import, and room for a few more.
const BLOCKING_THREADS: usize = 8;

/// What still blocks at the end has this long.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Both runtimes.
pub(super) struct Workers {
    main: Runtime,
    ingress: Runtime,
}

impl Workers {
    pub(super) fn new() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.enable_all();
        let ingress = builder.worker_threads(1).thread_name("ingress").max_blocking_threads(1);
        let ingress = ingress.build()?;
        let main = builder.worker_threads(WORKERS).thread_name("worker");
        let main = main.max_blocking_threads(BLOCKING_THREADS).build()?;
        Ok(Self { main, ingress })
    }

    /// Runs `work` to its end; it is told where the ingress is to run.
    pub(super) fn run<F: Future>(self, work: impl FnOnce(Handle) -> F) -> F::Output {
        let ended = self.main.block_on(work(self.ingress.handle().clone()));
        self.main.shutdown_timeout(LAST_WAIT);
        self.ingress.shutdown_timeout(LAST_WAIT);
        ended
    }
}
