//! The agent's folders: made where there are none, before anything looks for its own in them; and the lock that keeps a
//! second agent from the same state.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::AgentError;
use crate::config::Config;

/// How often, and with what between, the lock is asked for: two seconds in all.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Makes the folders, and takes the lock. The lock ends with what is returned.
pub(super) async fn make(config: &Config) -> Result<Flock<File>, AgentError> {
    let folder = |path: &Path, mode: u32| {
        make_lasting(path, mode)
            .map_err(|source| AgentError::Folder { path: path.to_owned(), source })
    };
    folder(&config.state.dir, 0o700)?;
    folder(&config.state.run_dir, 0o755)?;
    folder(&config.log_dir(), 0o750)?;
    let path = config.state.dir.join("lock");
    let mut file =
        File::create(&path).map_err(|source| AgentError::Folder { path: path.clone(), source })?;
    // A program that an agent was starting when it was killed has the lock for a moment more.
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, _)) => file = back,
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(AgentError::SecondAgent(path))
}

/// Makes a folder and those above it. What is new is durable: a key in a folder that a power cut takes away is lost.
fn make_lasting(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let above = missing.into_iter().filter_map(Path::parent);
    for parent in above.filter(|parent| *parent != Path::new("")) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::keys::Keys;

    fn config(root: &Path) -> Config {
        let root = root.display();
        let text = format!("[state]\ndir = '{root}/data/skerry'\nrun_dir = '{root}/run/skerry'\n");
        Config::parse(Path::new("agent.toml"), &text, "pi-1").unwrap()
    }

    #[tokio::test]
    async fn the_folders_of_the_configuration_are_made_before_the_keys_lie_in_them() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let _lock = make(&config).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&config.state.dir), 0o700);
        assert_eq!(mode(&config.state.run_dir), 0o755);
        let first = Keys::load(&config.state.dir, None).unwrap();
        assert_eq!(Keys::load(&config.state.dir, None).unwrap().records, first.records);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_agent_is_kept_from_the_same_state() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let lock = make(&config).await.unwrap();
        assert!(matches!(make(&config).await, Err(AgentError::SecondAgent(_))));
        drop(lock);
        make(&config).await.unwrap();
    }
}
