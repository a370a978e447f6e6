//! What the local API reads of logs, from the adapter that has them.

use std::path::PathBuf;

use domain::reason::Reason;
use domain::replica::Trouble;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tracing::info_span;

use crate::api::sources::{LogLine, LogLines, LogQuery, LogSource, LogStream};
use crate::logger;
use crate::tasks::Tasks;

/// Lines that wait for a slow reader. A reader that is slower still holds up its own follower and nobody else.
const LINES_WAITING: usize = 256;

/// Lines of a `logs` without `--tail`.
const ALL_LINES: usize = usize::MAX;

/// The log files of the board.
#[derive(Debug)]
pub(super) struct BoardLogs {
    dir: PathBuf,
    tasks: Tasks,
}

impl BoardLogs {
    pub(super) fn new(dir: PathBuf, tasks: Tasks) -> Self {
        Self { dir, tasks }
    }
}

impl LogSource for BoardLogs {
    async fn lines(&self, query: LogQuery) -> Result<LogLines, Trouble> {
        let (dir, wanted) = (self.dir.clone(), query.clone());
        let read = move || {
            let count = wanted.tail.map_or(ALL_LINES, |tail| tail as usize);
            if wanted.follow {
                let takes = wanted.clone();
                let (lines, follower) = logger::Follower::new(&dir, &wanted.app, ALL_LINES)?;
                let lines =
                    lines.into_iter().filter(|line| takes.takes(&line.replica, &line.container));
                let lines: Vec<_> = lines.collect();
                let surplus = lines.len().saturating_sub(count);
                return Ok((lines.into_iter().skip(surplus).collect(), Some(follower)));
            }
            let mut sources = logger::sources(&dir, &wanted.app);
            sources.retain(|source| wanted.takes(&source.replica, &source.container));
            Ok((logger::tail(&sources, count), None))
        };
        let read: std::io::Result<(Vec<logger::LogLine>, Option<logger::Follower>)> =
            tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.into()));
        let (known, follower) = read.map_err(|error| {
            let details = format!("cannot read the logs of {}: {error}", query.app);
            Trouble { reason: Reason::StorageFailed, details }
        })?;
        let known = stream::iter(known.into_iter().map(|line| Ok(shown(line))));
        let Some(follower) = follower else { return Ok(known.boxed()) };
        let (sender, receiver) = mpsc::channel(LINES_WAITING);
        self.tasks.spawn_short(info_span!("logs"), follower.run(sender));
        let news = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|line| (line, receiver))
        });
        let news = news.filter_map(move |line: logger::LogLine| {
            let takes = query.takes(&line.replica, &line.container);
            std::future::ready(takes.then(|| Ok(shown(line))))
        });
        Ok(known.chain(news).boxed())
    }
}

fn shown(line: logger::LogLine) -> LogLine {
    LogLine {
        time: line.time,
        replica: line.replica,
        container: line.container,
        stream: match line.stream {
            logger::Stream::Stdout => LogStream::Stdout,
            logger::Stream::Stderr => LogStream::Stderr,
        },
        line: line.text,
    }
}
