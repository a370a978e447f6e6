//! Following logs as they grow. Sleeps until the kernel tells of a change; never polls.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::model::AppName;
use notify::event::CreateKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};

use super::place::rotated;
use super::read::{LogLine, LogSource, last_of_all, last_of_source, parsed, sources};

/// What is read of one file before the next has its turn.
const TURN_BYTES: u64 = 256 << 10;

/// A new folder is watched a moment after it was made; what was written in it by then is found by a second look.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// Logs of an app that are being followed.
#[derive(Debug)]
pub struct Follower {
    log_dir: PathBuf,
    app: AppName,
    cursors: BTreeMap<LogSource, Cursor>,
    changed: Arc<Notify>,
    new_folder: Arc<AtomicBool>,
    // Held for what its end would do: it tells of changes as long as it lives.
    _watcher: RecommendedWatcher,
}

#[derive(Debug, Clone, Default)]
struct Cursor {
    inode: u64,
    offset: u64,
    unfinished: Vec<u8>,
}

impl Follower {
    /// The last `count` lines by now, and what follows them without a gap.
    pub fn new(log_dir: &Path, app: &AppName, count: usize) -> io::Result<(Vec<LogLine>, Self)> {
        let folder = log_dir.join(app.as_str());
        fs::create_dir_all(&folder)?;
        let changed = Arc::new(Notify::new());
        let new_folder = Arc::new(AtomicBool::new(false));
        let (waker, folder_made) = (Arc::clone(&changed), Arc::clone(&new_folder));
        // The watch stands before the first look, so that nothing falls between the two. Opening a file is an event
        // too, and our own looks must not wake us.
        let wake = move |event: notify::Result<notify::Event>| match event.map(|event| event.kind) {
            Ok(EventKind::Access(_)) => (),
            Ok(EventKind::Create(CreateKind::Folder)) => {
                folder_made.store(true, Ordering::Relaxed);
                waker.notify_one();
            }
            Ok(
                EventKind::Any
                | EventKind::Create(_)
                | EventKind::Modify(_)
                | EventKind::Remove(_)
                | EventKind::Other,
            )
            | Err(_) => waker.notify_one(),
        };
        let mut watcher = notify::recommended_watcher(wake).map_err(io::Error::other)?;
        watcher.watch(&folder, RecursiveMode::Recursive).map_err(io::Error::other)?;
        let mut cursors = BTreeMap::new();
        let mut lines = Vec::new();
        for source in sources(log_dir, app) {
            let Ok(file) = File::open(&source.path) else { continue };
            let metadata = file.metadata()?;
            let (inode, offset) = (metadata.ino(), metadata.len());
            lines.append(&mut last_of_source(&source, file, offset, count));
            cursors.insert(source, Cursor { inode, offset, unfinished: Vec::new() });
        }
        let (log_dir, app) = (log_dir.to_owned(), app.clone());
        let follower = Self { log_dir, app, cursors, changed, new_folder, _watcher: watcher };
        Ok((last_of_all(lines, count), follower))
    }

    /// Hands on each new line until nobody takes them any more.
    pub async fn run(mut self, lines: mpsc::Sender<LogLine>) {
        loop {
            let Ok((follower, found)) = tokio::task::spawn_blocking(move || self.look()).await
            else {
                return;
            };
            self = follower;
            let idle = found.is_empty();
            for line in found {
                if lines.send(line).await.is_err() {
                    return;
                }
            }
            if idle {
                let again = self.new_folder.swap(false, Ordering::Relaxed);
                tokio::select! {
                    () = lines.closed() => return,
                    () = tokio::time::sleep(SECOND_LOOK), if again => (),
                    () = self.changed.notified() => (),
                }
            }
        }
    }

    fn look(mut self) -> (Self, Vec<LogLine>) {
        let mut found = Vec::new();
        let there = sources(&self.log_dir, &self.app);
        self.cursors.retain(|source, _| there.contains(source));
        for source in there {
            let cursor = self.cursors.entry(source.clone()).or_default();
            // A file that cannot be read now is looked at again with the next change.
            let _ = cursor.advance(&source, &mut found);
        }
        found.sort_by(|one, other| one.time.cmp(&other.time));
        (self, found)
    }
}

impl Cursor {
    fn advance(&mut self, source: &LogSource, found: &mut Vec<LogLine>) -> io::Result<()> {
        let current = File::open(&source.path)?;
        let inode = current.metadata()?.ino();
        if self.inode == 0 {
            self.inode = inode;
        }
        if inode == self.inode {
            self.read(source, current, found)?;
            return Ok(());
        }
        // It was rotated: first the rest of what was read so far, if that is still there, then the newer ones.
        let mut newer = vec![current];
        for n in 1.. {
            let Ok(older) = File::open(rotated(&source.path, n)) else { break };
            let known = older.metadata()?.ino() == self.inode;
            newer.push(older);
            if known {
                break;
            }
        }
        for file in newer.into_iter().rev() {
            let inode = file.metadata()?.ino();
            if inode != self.inode {
                (self.inode, self.offset) = (inode, 0);
            }
            if !self.read(source, file, found)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads one turn's worth; says whether that was all there is.
    fn read(
        &mut self,
        from: &LogSource,
        mut file: File,
        to: &mut Vec<LogLine>,
    ) -> io::Result<bool> {
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
            self.unfinished.clear();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        let read = file.take(TURN_BYTES).read_to_end(&mut bytes)? as u64;
        self.offset += read;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if let Some(line) = self.unfinished.strip_suffix(b"\n") {
                to.extend(parsed(from, line));
                self.unfinished.clear();
            }
        }
        Ok(read < TURN_BYTES)
    }
}
