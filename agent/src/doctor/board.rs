//! What a check sees of a board: files below a root, space on disks, the configuration, and the date.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::model::WallTime;

use super::Asked;
use crate::clock::{BUILT, believed};
use crate::config::Config;
use crate::sled_store;
use crate::space::Space;

/// The most of a file that is read. A kernel's configuration takes 300 KB.
const LARGEST_FILE: u64 = 4 << 20;

/// A board to look at.
#[derive(Debug)]
pub struct Board {
    /// Where `/` is.
    pub root: PathBuf,
    /// What the agent runs with; the defaults where the file is wrong.
    pub config: Config,
    /// What is wrong with the configuration.
    pub config_error: Option<String>,
    /// The date, as the system tells it.
    pub now: WallTime,
    /// When this program was built.
    pub built: WallTime,
    /// Whoever is asked beside the files.
    pub asked: Asked,
    /// Asks a file system for its space.
    pub space: fn(&Path) -> Option<Space>,
}

impl Board {
    /// The board that this process runs on.
    pub fn here(config: Result<Config, String>, now: WallTime) -> Self {
        let (config, config_error) = match config {
            Ok(config) => (config, None),
            Err(error) => (Config::default(), Some(error)),
        };
        Self {
            root: "/".into(),
            config,
            config_error,
            now,
            built: BUILT,
            asked: Asked::default(),
            space: space_at,
        }
    }

    /// The date below which no clock is believed: that of the build, or the last that was stored.
    pub(super) fn floor(&self) -> WallTime {
        let stored = sled_store::inspect_copy(&self.place(&self.config.state.dir));
        let stored = stored.ok().flatten().map(believed).unwrap_or_default();
        self.built.max(WallTime(Duration::from_secs(stored)))
    }

    /// The date that certificates are judged by.
    pub(super) fn date(&self) -> WallTime {
        self.now.max(self.floor())
    }

    /// Where a path of the board is.
    pub(super) fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's bytes, or why there are none.
    pub(super) fn bytes(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(self.place(path))?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A file's text without the space around it; none where it cannot be read.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// There is such a file or folder.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.place(path).exists()
    }

    /// The names in a folder, sorted; none where it cannot be read.
    pub(super) fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.place(dir)).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The kernel has `module` built in, loaded, or beside it.
    pub(super) fn has_module(&self, module: &str) -> bool {
        if self.has(format!("/sys/module/{module}")) {
            return true;
        }
        let release = self.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let file = format!("/{module}.ko");
        ["modules.builtin", "modules.dep"].into_iter().any(|list| {
            let text = self.text(format!("/lib/modules/{release}/{list}")).unwrap_or_default();
            text.lines().any(|line| line.split(':').next().unwrap_or_default().contains(&file))
        })
    }

    /// Whether the kernel's modules are listed at all: a kernel with everything built in may have no such list.
    pub(super) fn knows_modules(&self) -> bool {
        let release = self.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        self.has(format!("/lib/modules/{release}/modules.builtin"))
    }

    /// The program's place, where the agent and containerd look for programs.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        dirs.into_iter().map(|dir| Path::new(dir).join(name)).find(|path| self.has(path))
    }

    /// The mount that `path` is on: its type and its options.
    pub(super) fn mount(&self, path: &Path) -> Option<(String, String)> {
        let mounts = self.text("/proc/mounts")?;
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let on = fields.filter(|field| 3 < field.len() && path.starts_with(field[1]));
        // Of two on one place, the later one is on top.
        let best = on.max_by_key(|field| field[1].len())?;
        Some((best[2].to_owned(), best[3].to_owned()))
    }
}

/// What the kernel says of the file system that `path`, or the nearest folder above it, is on.
fn space_at(path: &Path) -> Option<Space> {
    Space::at(path.ancestors().find(|path| path.exists())?).ok()
}
