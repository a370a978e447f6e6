//! The board's time zone database: one small file for each zone. Reads those that are asked for, and nothing else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use domain::window::{Zone, Zones};
use tracing::debug;

/// Where tzdata puts it.
const USUAL_DIR: &str = "/usr/share/zoneinfo";

/// Zones take 1 to 4 KB; this catches what is none.
const MAX_ZONE_BYTES: u64 = 64 * 1024;

/// Where the zones are.
#[derive(Debug, Clone)]
pub struct ZoneFiles {
    dir: PathBuf,
}

impl ZoneFiles {
    /// Those in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Those of this board: `$TZDIR`, or else where tzdata puts them.
    pub fn of_the_board() -> Self {
        let dir = std::env::var_os("TZDIR").filter(|dir| Path::new(dir).is_absolute());
        Self::new(dir.unwrap_or_else(|| USUAL_DIR.into()))
    }

    /// What there is to know of `names`. What is known already is not read again, and what is there for none of them is
    /// left out.
    pub fn zones_for(&self, names: BTreeSet<String>, known: &Zones) -> Zones {
        let mut zones = Zones::default();
        for name in names {
            match known.of(&name).map_or_else(|| self.read(&name), |zone| Ok(zone.clone())) {
                Ok(zone) => zones.learn(name, zone),
                Err(error) => debug!(zone = name, %error, "a time zone is unknown"),
            }
        }
        zones
    }

    fn read(&self, name: &str) -> io::Result<Zone> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a zone"));
        }
        let file = File::open(self.dir.join(name))?;
        // A pipe or a device in its place would never end.
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_ZONE_BYTES).read_to_end(&mut bytes)?;
        Zone::read(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BERLIN: &[u8] = include_bytes!("../../domain/src/window/tests/berlin.tzif");

    fn known(files: &ZoneFiles, name: &str) -> bool {
        let zones = files.zones_for(BTreeSet::from([name.to_owned()]), &Zones::default());
        zones.of(name).is_some()
    }

    #[test]
    fn a_zone_is_read_from_the_database_and_from_nowhere_else() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("zoneinfo");
        fs::create_dir_all(dir.join("Europe")).unwrap();
        fs::write(dir.join("Europe/Berlin"), BERLIN).unwrap();
        fs::write(dir.join("Broken"), &BERLIN[..100]).unwrap();
        fs::write(above.path().join("Outside"), BERLIN).unwrap();
        let files = ZoneFiles::new(&dir);
        assert!(known(&files, "Europe/Berlin"));
        let absolute = dir.join("Europe/Berlin").display().to_string();
        for name in [
            "Europe/Bern",
            "Europe",
            "Broken",
            "",
            "../Outside",
            "Europe/../Europe/Berlin",
            "./Europe/Berlin",
            absolute.as_str(),
            "Europe/Berlin\0",
        ] {
            assert!(!known(&files, name), "{name:?}");
        }
        assert!(known(&ZoneFiles::new("/nowhere"), "UTC"), "UTC needs no database");
    }
}
