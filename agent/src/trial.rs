//! A new agent is on trial until it has completed a round; one that completes none gives way to the one before it.
//!
//! ```text
//!   <dir>/previous    the agent that was there before, whole
//!   <dir>/trial-N     the new one was started N times; gone once it has completed a round
//!   <dir>/returned    the old one is back, and why
//! ```
//!
//! Counting is renaming, and so is going back where it can be: a disk that is full is no reason to stay with an agent that
//! does not work.
//!
//! Whoever installs a new agent makes the first two, in this order, and then puts the new one in its place. Before each
//! start the unit runs `previous guard`, so that the one that counts, and goes back, is the one that is known to work. It
//! needs nobody else: not whoever installed it, nor the new agent, nor a network.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where the unit looks for it.
pub const USUAL_DIR: &str = "/var/lib/skerry/upgrade";

/// Where the unit finds the agent.
pub const AGENT: &str = "/usr/bin/skerry";

/// A new agent is started so often. More than once, for a start may fail for want of something that comes a moment
/// later; not many times, for nobody looks after the apps meanwhile.
const STARTS: u32 = 3;

/// Why a new agent gave way, where there was no room to write it down.
const UNTOLD: &str = "it completed no round";

/// An agent on trial, or none.
#[derive(Debug, Clone)]
pub struct Trial {
    dir: PathBuf,
    agent: PathBuf,
}

/// What the guard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// No agent is on trial.
    Nothing,
    /// The new one is tried, for this time.
    Tried(u32),
    /// The old one is back.
    Returned,
}

/// Something of a trial cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct TrialError {
    /// What was tried.
    pub doing: &'static str,
    /// With what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl Trial {
    /// The trial of this board's agent.
    pub fn of_the_board() -> Self {
        Self::new(Path::new(USUAL_DIR), Path::new(AGENT))
    }

    /// The trial of the agent at `agent`, with its files in `dir`.
    pub fn new(dir: &Path, agent: &Path) -> Self {
        Self { dir: dir.to_owned(), agent: agent.to_owned() }
    }

    /// The agent's place.
    pub fn agent(&self) -> &Path {
        &self.agent
    }

    /// A place for a new agent, beside what belongs to its trial.
    pub fn next(&self) -> PathBuf {
        self.dir.join("next")
    }

    /// Keeps the agent that is there, so that another may take its place. Where one is on trial already, that which was
    /// there before stays the one to go back to.
    pub fn begin(&self) -> Result<(), TrialError> {
        let failed = |doing| doing_with(doing, &self.dir);
        fs::create_dir_all(&self.dir).map_err(failed("make"))?;
        let zero = self.stage(0);
        if let Some(starts) = self.starts() {
            rename(&self.stage(starts), &zero)?;
        } else {
            // What an earlier trial left behind would count, and take the room.
            self.clear()?;
            copy(&self.agent, &self.previous())?;
            File::create(&zero)
                .and_then(|_| sync_folder(&zero))
                .map_err(doing_with("make", &zero))?;
        }
        remove(&self.returned())
    }

    /// Copies `path` to [`next`](Self::next), as a program that can be run.
    pub fn fetch(&self, path: &Path) -> Result<(), TrialError> {
        fs::create_dir_all(&self.dir).map_err(doing_with("make", &self.dir))?;
        copy(path, &self.next())
    }

    /// Puts what lies at `path` into the agent's place, whole or not at all.
    pub fn install(&self, path: &Path) -> Result<(), TrialError> {
        copy(path, &self.agent)
    }

    /// Before a start of the agent: counts it, and goes back to the old one where the new one has had its chances.
    pub fn guard(&self) -> Result<Guarded, TrialError> {
        let Some(starts) = self.starts() else { return Ok(Guarded::Nothing) };
        if starts < STARTS {
            rename(&self.stage(starts), &self.stage(starts + 1))?;
            return Ok(Guarded::Tried(starts + 1));
        }
        self.go_back("it was started and completed no round")?;
        Ok(Guarded::Returned)
    }

    /// Puts the old agent back, for `why`.
    pub fn go_back(&self, why: &str) -> Result<(), TrialError> {
        self.put_back()?;
        if let Some(starts) = self.stages().next_back() {
            rename(&self.stage(starts), &self.returned())?;
        }
        // For people; where there is no room for it, that it is back says enough.
        drop(fs::write(self.returned(), why));
        remove(&self.previous())
    }

    /// The old agent where the new one is: by its name alone if they are on one disk, else copied.
    fn put_back(&self) -> Result<(), TrialError> {
        let (previous, agent) = (self.previous(), &self.agent);
        if fs::rename(&previous, agent).and_then(|()| sync_folder(agent)).is_ok() {
            return Ok(());
        }
        if copy(&previous, agent).is_ok() {
            return Ok(());
        }
        // There is no room for both.
        remove(agent)?;
        copy(&previous, agent)
    }

    /// The agent has completed a round: its trial is over. Says whether there was one.
    pub fn pass(&self) -> Result<bool, TrialError> {
        let was_on = self.is_on();
        if was_on {
            self.clear()?;
        }
        Ok(was_on)
    }

    /// The agent is on trial.
    pub fn is_on(&self) -> bool {
        self.stages().next().is_some()
    }

    fn clear(&self) -> Result<(), TrialError> {
        let stages: Vec<u32> = self.stages().collect();
        stages.into_iter().try_for_each(|starts| remove(&self.stage(starts)))?;
        remove(&self.previous())
    }

    /// Why the old agent is back, since the last trial began.
    pub fn came_back(&self) -> Option<String> {
        let why = fs::read_to_string(self.returned()).ok()?;
        Some(if why.is_empty() { UNTOLD.to_owned() } else { why })
    }

    /// How often the agent on trial was started. Without one to go back to there is no trial.
    fn starts(&self) -> Option<u32> {
        self.stages().next_back().filter(|_| self.previous().exists())
    }

    /// What is counted so far.
    fn stages(&self) -> impl DoubleEndedIterator<Item = u32> {
        (0..=STARTS).filter(move |starts| self.stage(*starts).exists())
    }

    fn stage(&self, starts: u32) -> PathBuf {
        self.dir.join(format!("trial-{starts}"))
    }

    fn previous(&self) -> PathBuf {
        self.dir.join("previous")
    }

    fn returned(&self) -> PathBuf {
        self.dir.join("returned")
    }
}

fn doing_with(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrialError + use<> {
    let path = path.to_owned();
    move |source| TrialError { doing, path, source }
}

/// Copies a program, durably and under its name only when it is whole.
fn copy(from: &Path, to: &Path) -> Result<(), TrialError> {
    let whole = beside(to);
    let copied = fs::copy(from, &whole)
        .and_then(|_| fs::set_permissions(&whole, Permissions::from_mode(0o755)))
        .and_then(|()| File::open(&whole)?.sync_all());
    if copied.is_err() {
        // A disk that is full is not to be full of this.
        drop(fs::remove_file(&whole));
    }
    copied.map_err(doing_with("copy to", &whole))?;
    rename(&whole, to)
}

/// Renames, and makes the new name durable.
fn rename(from: &Path, to: &Path) -> Result<(), TrialError> {
    let renamed = fs::rename(from, to).and_then(|()| sync_folder(to));
    renamed.map_err(doing_with("put in place", to))
}

fn remove(path: &Path) -> Result<(), TrialError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder(path)).map_err(doing_with("remove", path)),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The name under which a file is made that is to be whole under its own.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Board {
        _dir: tempfile::TempDir,
        trial: Trial,
        new: PathBuf,
    }

    fn board() -> Board {
        let dir = tempfile::tempdir().unwrap();
        let (agent, new) = (dir.path().join("skerry"), dir.path().join("new"));
        fs::write(&agent, "old").unwrap();
        fs::write(&new, "new").unwrap();
        Board { trial: Trial::new(&dir.path().join("upgrade"), &agent), new, _dir: dir }
    }

    fn installed(board: &Board) -> String {
        fs::read_to_string(board.trial.agent()).unwrap()
    }

    #[test]
    fn an_agent_that_completes_a_round_stays() {
        let board = board();
        assert_eq!(board.trial.guard().unwrap(), Guarded::Nothing);
        board.trial.begin().unwrap();
        board.trial.install(&board.new).unwrap();
        assert_eq!(board.trial.guard().unwrap(), Guarded::Tried(1));
        assert!(board.trial.pass().unwrap());
        assert!(!board.trial.pass().unwrap() && !board.trial.is_on());
        assert_eq!(board.trial.guard().unwrap(), Guarded::Nothing);
        assert_eq!((installed(&board).as_str(), board.trial.came_back()), ("new", None));
        let mode = fs::metadata(board.trial.agent()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn one_that_completes_none_gives_way_to_the_one_before_it() {
        let board = board();
        board.trial.begin().unwrap();
        board.trial.install(&board.new).unwrap();
        for start in 1..=STARTS {
            assert_eq!(board.trial.guard().unwrap(), Guarded::Tried(start));
        }
        assert_eq!(board.trial.guard().unwrap(), Guarded::Returned);
        assert_eq!(installed(&board), "old");
        assert!(board.trial.came_back().is_some() && !board.trial.is_on());
        // The next trial knows nothing of it.
        board.trial.begin().unwrap();
        assert_eq!(board.trial.came_back(), None);
    }

    #[test]
    fn a_second_new_one_during_a_trial_goes_back_to_the_one_that_worked() {
        let board = board();
        board.trial.begin().unwrap();
        board.trial.install(&board.new).unwrap();
        board.trial.guard().unwrap();
        board.trial.begin().unwrap();
        board.trial.install(&board.new).unwrap();
        assert_eq!(board.trial.guard().unwrap(), Guarded::Tried(1), "it has all its chances");
        board.trial.go_back("a test").unwrap();
        assert_eq!(installed(&board), "old");
    }

    #[test]
    fn what_a_trial_left_behind_does_not_count_in_the_next() {
        let board = board();
        fs::create_dir_all(board.trial.next().parent().unwrap()).unwrap();
        fs::write(board.trial.stage(STARTS), "").unwrap();
        board.trial.begin().unwrap();
        assert_eq!(board.trial.guard().unwrap(), Guarded::Tried(1));
    }

    #[test]
    fn without_an_agent_to_go_back_to_there_is_no_trial() {
        let board = board();
        fs::create_dir_all(board.trial.next().parent().unwrap()).unwrap();
        fs::write(board.trial.stage(3), "").unwrap();
        assert_eq!(board.trial.guard().unwrap(), Guarded::Nothing);
        assert!(board.trial.pass().unwrap());
        assert_eq!((installed(&board).as_str(), board.trial.is_on()), ("old", false));
    }

    #[test]
    fn a_power_cut_on_the_way_back_loses_neither_agent() {
        let board = board();
        board.trial.begin().unwrap();
        board.trial.install(&board.new).unwrap();
        fs::rename(board.trial.stage(0), board.trial.stage(STARTS)).unwrap();
        // The old one is in its place already, and the rest was not done.
        fs::copy(board.trial.previous(), board.trial.agent()).unwrap();
        assert_eq!(board.trial.guard().unwrap(), Guarded::Returned);
        assert_eq!(installed(&board), "old");
        assert_eq!(board.trial.guard().unwrap(), Guarded::Nothing);
    }
}
