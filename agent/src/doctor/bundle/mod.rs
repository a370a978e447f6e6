//! `skerry doctor --bundle`: one archive with what a supporter needs, and without any secret.
//!
//! Only texts go in, and each passes by the [`Wiper`] on its way, its name too. What has nothing but secrets (keys, password
//! files, documents) is not even looked at, but to learn what has to be taken out of the rest.

mod journal;
mod looks;
mod secrets;
mod sources;
#[cfg(test)]
mod tests;
mod wipe;

use std::io;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use self::wipe::Wiper;
use super::{Board, Finding};
use crate::clock::{BUILT, rfc3339};

/// The folder that everything is in.
const FOLDER: &str = "skerry-doctor";

/// A file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name below the bundle's folder.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl Piece {
    /// A file.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// An archive, ready to be written.
#[derive(Debug)]
pub struct Bundle {
    /// A `.tar.gz`.
    pub bytes: Vec<u8>,
    /// How many files are in it.
    pub files: usize,
}

/// Packs what the board's files say, what was found, and what the agent `told`. `config` is where its configuration is.
pub fn pack(
    board: &Board,
    config: &Path,
    findings: &[Finding],
    told: Vec<Piece>,
) -> io::Result<Bundle> {
    let settings = board.text(config).unwrap_or_default();
    let wiper = Wiper::new(secrets::known(board, &settings));
    let mut pieces = vec![
        Piece::new("version.txt", version(board)),
        Piece::new("doctor.json", serde_json::to_string_pretty(findings)?),
        Piece::new("agent.toml", settings),
    ];
    pieces.extend(told);
    pieces.extend(sources::pieces(board));
    pieces.push(Piece::new("agent.log", journal::recent(board)));
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for Piece { name, text } in &pieces {
        let text = wiper.wipe(text);
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(board.date().0.as_secs());
        let path = Path::new(FOLDER).join(wiper.wipe(name));
        archive.append_data(&mut header, path, text.as_bytes())?;
    }
    let bytes = archive.into_inner()?.finish()?;
    Ok(Bundle { bytes, files: pieces.len() })
}

fn version(board: &Board) -> String {
    format!(
        "skerry {}\nbuilt {}\nfor {}\ndate {}\ndate of the system {}\ndevice {}\n",
        env!("CARGO_PKG_VERSION"),
        rfc3339(BUILT),
        std::env::consts::ARCH,
        rfc3339(board.date()),
        rfc3339(board.now),
        board.config.device.id,
    )
}
