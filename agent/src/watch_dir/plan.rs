//! What follows from a folder: documents to send, apps to remove, files to complain about. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::model::Digest;

use super::folder::{Content, Folder, MOST_FILES};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this document: it is new, or other than before.
    Send { path: PathBuf, payload: Bytes },
    /// Its last file is gone.
    Remove { name: String },
    /// Say that this file cannot be read.
    Unreadable { path: PathBuf, why: String },
    /// Say that two files have one name.
    Twice { path: PathBuf, name: String, first: PathBuf },
    /// Say that not every file was looked at.
    TooMany { most: usize },
}

/// What was done about the folder so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    files: BTreeMap<PathBuf, KnownFile>,
    /// Apps whose removal is still to succeed.
    removals: BTreeSet<String>,
    /// Complaints that still hold, so that each is made once.
    said: Vec<Step>,
}

#[derive(Debug, Clone, Default)]
struct KnownFile {
    /// The app it is for, as last known: a file that is broken for a while keeps its app.
    name: Option<String>,
    /// The content that was sent; none if it yields to another file, or is to be sent again.
    sent: Option<Digest>,
    /// It stands for its name; of two files with one name, one does.
    holds: bool,
}

impl Known {
    /// What to do, given the folder as it stands. Assumes that it is done.
    pub(super) fn plan(&mut self, folder: &Folder) -> Vec<Step> {
        let mut files = self.carried_over(folder);
        let holders = self.holders(&files);
        let (mut steps, mut complaints) = (Vec::new(), Vec::new());
        for (path, content) in &folder.files {
            let file = files.entry(path.clone()).or_default();
            let holder = file.name.as_ref().and_then(|name| holders.get(name));
            if let (Some(first), Some(name)) = (holder.filter(|holder| *holder != path), &file.name)
            {
                let (path, name, first) = (path.clone(), name.clone(), first.clone());
                complaints.push(Step::Twice { path, name, first });
                (file.sent, file.holds) = (None, false);
                continue;
            }
            file.holds = file.name.is_some();
            match content {
                Content::Document { payload, digest, .. } if file.sent != Some(*digest) => {
                    file.sent = Some(*digest);
                    steps.push(Step::Send { path: path.clone(), payload: payload.clone() });
                }
                Content::Document { .. } => (),
                Content::Unreadable(why) => {
                    complaints.push(Step::Unreadable { path: path.clone(), why: why.clone() });
                }
            }
        }
        if folder.overfull {
            // What stands behind the limit may be the file that seems gone.
            complaints.push(Step::TooMany { most: MOST_FILES });
        } else {
            steps.extend(self.gone(&holders).into_iter().map(|name| Step::Remove { name }));
            self.removals.clear();
            self.files = BTreeMap::new();
        }
        self.files.extend(files);
        steps.extend(complaints.iter().filter(|complaint| !self.said.contains(complaint)).cloned());
        self.said = complaints;
        steps
    }

    /// The files of the folder with what is known of them. What a document says of its name now is newer.
    fn carried_over(&self, folder: &Folder) -> BTreeMap<PathBuf, KnownFile> {
        let carry = |(path, content): (&PathBuf, &Content)| {
            let mut file = self.files.get(path).cloned().unwrap_or_default();
            if let Content::Document { name: Some(name), digest, .. } = content
                && file.sent != Some(*digest)
            {
                file.name = Some(name.clone());
            }
            (path.clone(), file)
        };
        folder.files.iter().map(carry).collect()
    }

    /// The file that stands for each name: the one that did so before, else the first.
    fn holders(&self, files: &BTreeMap<PathBuf, KnownFile>) -> BTreeMap<String, PathBuf> {
        let mut holders: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (path, file) in files {
            let Some(name) = &file.name else { continue };
            let held = self
                .files
                .get(path)
                .is_some_and(|before| before.holds && before.name.as_ref() == Some(name));
            if held || !holders.contains_key(name) {
                holders.insert(name.clone(), path.clone());
            }
        }
        holders
    }

    /// Names that had a file and have none now.
    fn gone(&self, holders: &BTreeMap<String, PathBuf>) -> BTreeSet<String> {
        let before = self.files.values().filter(|file| file.holds);
        let before = before.filter_map(|file| file.name.clone());
        let names = before.chain(self.removals.iter().cloned());
        names.filter(|name| !holders.contains_key(name)).collect()
    }

    /// The loop took the document for this app.
    pub(super) fn accepted(&mut self, path: &Path, name: String) {
        if let Some(file) = self.files.get_mut(path) {
            (file.name, file.holds) = (Some(name), true);
        }
    }

    /// The document is to be sent again.
    pub(super) fn forget_content(&mut self, path: &Path) {
        if let Some(file) = self.files.get_mut(path) {
            file.sent = None;
        }
    }

    /// The app is to be removed again.
    pub(super) fn remove_later(&mut self, name: &str) {
        self.removals.insert(name.to_owned());
    }

    /// Every file of the folder says, or has said, whose it is.
    pub(super) fn names_every(&self, folder: &Folder) -> bool {
        let named = |path| self.files.get(path).is_some_and(|file| file.name.is_some());
        !folder.overfull && folder.files.keys().all(named)
    }

    /// There is a file for this app.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.values().any(|file| file.name.as_deref() == Some(name))
    }
}
