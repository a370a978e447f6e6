//! What the API needs beside the loop: images, logs, and what is known of the board from its start on.
//!
//! Ports: others implement them, `main` wires them.

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use domain::model::{AppName, Digest, WallTime};
use domain::replica::{PullProgress, Secret, Trouble};
use futures_util::stream::BoxStream;

/// The images on the board.
pub trait ImageStore: Send + Sync + 'static {
    /// All of them, by name.
    fn list(&self) -> impl Future<Output = Result<Vec<Image>, Trouble>> + Send;

    /// Imports an OCI or docker archive and answers with the names it brought. A second import changes nothing.
    fn import(&self, archive: &Path) -> impl Future<Output = Result<Vec<String>, Trouble>> + Send;

    /// Fetches an image from its registry. Dropped in the middle, the pull ends, and what came is kept.
    fn pull(&self, order: PullOrder) -> BoxStream<'static, Result<PullNews, Trouble>>;

    /// An OCI archive of images that are here.
    fn export(
        &self,
        references: &[String],
    ) -> impl Future<Output = Result<Exported, Trouble>> + Send;
}

/// What is to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOrder {
    /// The image, as a template would name it.
    pub reference: String,
    /// User and password for its registry.
    pub login: Option<(String, Secret)>,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullNews {
    /// It goes on.
    Progress(PullProgress),
    /// It is over, and the image is here.
    Here {
        /// The reference in full.
        name: String,
        /// What it stands for.
        digest: Digest,
        /// It came from an archive, so no registry was asked.
        imported: bool,
    },
}

/// An archive on its way out.
pub struct Exported {
    /// What is in it.
    pub names: Vec<String>,
    /// Its bytes.
    pub size_bytes: u64,
    /// The archive, in parts. An error ends it, and what came before is no archive.
    pub parts: BoxStream<'static, Result<Bytes, Trouble>>,
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").field("names", &self.names).finish_non_exhaustive()
    }
}

/// An image on the board.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The name that templates may give.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// Bytes of its compressed content; 0 where that is not known.
    pub size_bytes: u64,
    /// `linux/arm64/v8`; empty where the image is not all there.
    pub platform: String,
    /// It came from an archive, and no registry is asked for it.
    pub imported: bool,
    /// That archive lies in the folder of preloaded images.
    pub preloaded: bool,
    /// Since when these bits are here under this name.
    pub since: Option<WallTime>,
    /// The apps and jobs that run it, or would.
    pub apps: Vec<String>,
}

/// What containers wrote.
pub trait LogSource: Send + Sync + 'static {
    /// The lines asked for, oldest first; with `follow` also those to come, until the stream is dropped.
    fn lines(&self, query: LogQuery) -> impl Future<Output = Result<LogLines, Trouble>> + Send;
}

/// Lines as they come.
pub type LogLines = BoxStream<'static, Result<LogLine, Trouble>>;

/// Which lines. What is not given does not narrow the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Whose.
    pub app: AppName,
    /// Of this revision, by name.
    pub revision: Option<String>,
    /// Of this replica, by name.
    pub replica: Option<String>,
    /// Of this container.
    pub container: Option<String>,
    /// The last so many of them; all that are kept if not given.
    pub tail: Option<u32>,
    /// And those to come.
    pub follow: bool,
}

impl LogQuery {
    /// Whether lines of this container are asked for.
    pub fn takes(&self, replica: &str, container: &str) -> bool {
        let of_revision = |revision: &String| {
            // A replica's name is its revision's, a dash and five characters.
            replica.rsplit_once('-').is_some_and(|(of, _)| of == revision)
        };
        self.revision.as_ref().is_none_or(of_revision)
            && self.replica.as_ref().is_none_or(|name| name == replica)
            && self.container.as_ref().is_none_or(|name| name == container)
    }
}

/// One line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, as RFC 3339.
    pub time: String,
    /// By which replica.
    pub replica: String,
    /// By which container.
    pub container: String,
    /// Where to.
    pub stream: LogStream,
    /// Without its line end.
    pub line: String,
}

/// Where a container wrote a line to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// What is known of the board and of the way to its control plane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// The device's id.
    pub device: String,
    /// `[device] tags`.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Which boot this is.
    pub boot_id: String,
    /// What values of secrets may be sealed with.
    pub public_key: String,
    /// The broker's address, as configured; empty is none.
    pub control_plane: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_takes_what_nothing_in_it_excludes() {
        let all = LogQuery {
            app: "hello".parse().unwrap(),
            revision: None,
            replica: None,
            container: None,
            tail: None,
            follow: false,
        };
        let takes = |query: &LogQuery| query.takes("hello--v1-abcde", "main");
        assert!(takes(&all));
        let given = |name: &str| Some(name.to_owned());
        assert!(takes(&LogQuery { revision: given("hello--v1"), ..all.clone() }));
        assert!(!takes(&LogQuery { revision: given("hello--v"), ..all.clone() }));
        assert!(!takes(&LogQuery { replica: given("hello--v1-zzzzz"), ..all.clone() }));
        assert!(!takes(&LogQuery { container: given("sidecar"), ..all }));
    }
}
