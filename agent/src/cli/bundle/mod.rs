//! `skerry bundle`: documents and their images as one file, for a board that no registry reaches.
//!
//! Documents are looked at as the agent would, so that a bundle holds none that is refused. Images come from this board's
//! agent, or from archives.

mod format;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use domain::document::Document;
use domain::intake::{AnyParsed, take_any_apart};
use sha2::{Digest as _, Sha256};

use self::format::{BLOCK, MANIFEST, Manifest, Part, ROOT, VERSION, header, padding};
pub(super) use self::read::{Bundle, Placed, is_tar, looks_like_tar};
use super::args::{BundleArgs, Output};
use super::client::connect;
use super::commands::read;
use super::error::CliError;
use super::images::{Parts, Target, or_interrupted};
use super::output::Console;
use crate::containerd::images::{archived_names, full_name};
use crate::report::Chain;

/// Bytes of an archive read at once.
const PIECE: usize = 256 << 10;

/// A document, and what it is.
struct Written {
    /// `app hello`.
    what: String,
    /// What it is called in the bundle.
    slug: String,
    bytes: Vec<u8>,
    images: Vec<String>,
}

/// An archive that brings images along.
struct Brought {
    path: PathBuf,
    names: Vec<String>,
}

/// Makes a bundle, whole or not at all.
pub(super) async fn run(
    console: &mut Console,
    socket: &Path,
    args: BundleArgs,
) -> Result<(), CliError> {
    // Its `-o` gives nothing but files.
    let Output::File(file) = args.output else { return Ok(()) };
    let mut documents = Vec::new();
    for path in args.files {
        let bytes = read(path.clone()).await?;
        documents.push(document(&path, bytes)?);
    }
    let archives: Vec<Brought> =
        args.archives.into_iter().map(brought).collect::<Result<_, _>>()?;
    let wanted = wanted(&documents, &args.images, &archives)?;
    let work = async {
        let exported = if wanted.is_empty() {
            None
        } else {
            let mut agent = connect(socket).await?;
            Some(Parts::ask(&mut agent, wanted.into_iter().collect()).await?)
        };
        let mut writing = Writing::begin(console, &file)?;
        for document in &documents {
            writing.document(document)?;
        }
        if let Some(parts) = exported {
            writing.export(parts).await?;
        }
        for archive in archives {
            writing.archive(archive)?;
        }
        writing.end()
    };
    or_interrupted(work, || CliError::Interrupted(format!("{} is not written", file.display())))
        .await
}

fn document(path: &Path, bytes: Vec<u8>) -> Result<Written, CliError> {
    let (kind, name, images) = match take_any_apart(&bytes) {
        Ok(AnyParsed::Workload(parsed)) => match parsed.document {
            Document::App(app) => ("app", parsed.name.to_string(), owned(app.template.images())),
            Document::Job(job) => ("job", parsed.name.to_string(), owned(job.template.images())),
            Document::Environment(_) => ("environment", parsed.name.to_string(), Vec::new()),
        },
        Ok(AnyParsed::Environment(parsed)) => ("environment", parsed.name.to_string(), Vec::new()),
        Err(findings) => return Err(CliError::refused(&path.display().to_string(), &findings)),
    };
    Ok(Written { what: format!("{kind} {name}"), slug: format!("{kind}-{name}"), bytes, images })
}

fn owned<'a>(images: impl Iterator<Item = &'a str>) -> Vec<String> {
    images.map(str::to_owned).collect()
}

fn brought(path: PathBuf) -> Result<Brought, CliError> {
    match archived_names(&path) {
        Ok(names) if names.is_empty() => {
            let message = format!("{} names no image", path.display());
            let hint = "name it as you make it: skopeo copy … oci-archive:FILE:NAME:TAG".to_owned();
            Err(CliError::Typed { message, hint: Some(hint) })
        }
        Ok(names) => Ok(Brought { path, names }),
        Err(source) => Err(CliError::Read { path, source }),
    }
}

/// The images that the agent is asked for: all that are named, but those that an archive brings.
fn wanted(
    documents: &[Written],
    images: &[String],
    archives: &[Brought],
) -> Result<BTreeSet<String>, CliError> {
    let named = documents.iter().flat_map(|document| &document.images).chain(images);
    let mut wanted = named
        .map(|image| {
            full_name(image).ok_or_else(|| CliError::Typed {
                message: format!("{image:?} is not an image reference"),
                hint: None,
            })
        })
        .collect::<Result<BTreeSet<String>, _>>()?;
    wanted.retain(|image| archives.iter().all(|archive| !archive.names.contains(image)));
    Ok(wanted)
}

/// A bundle on its way into its file.
struct Writing<'a> {
    console: &'a mut Console,
    target: Target,
    manifest: Manifest,
}

impl<'a> Writing<'a> {
    fn begin(console: &'a mut Console, file: &Path) -> Result<Self, CliError> {
        let target = Target::open(file)?;
        let manifest = Manifest { version: VERSION, documents: Vec::new(), images: Vec::new() };
        Ok(Self { console, target, manifest })
    }

    fn document(&mut self, document: &Written) -> Result<(), CliError> {
        let n = self.manifest.documents.len() + 1;
        let path = format!("{ROOT}documents/{n:02}-{}.yaml", document.slug);
        let size = document.bytes.len() as u64;
        self.open(&path, size)?;
        self.target.write(self.console, &document.bytes)?;
        self.close(size)?;
        self.console.say(&format!("{}\n", document.what));
        let sha256 = hex::encode(Sha256::digest(&document.bytes));
        let names = vec![document.what.clone()];
        self.manifest.documents.push(Part { path, sha256, size, names });
        Ok(())
    }

    /// What the agent sends.
    async fn export(&mut self, mut parts: Parts) -> Result<(), CliError> {
        let (path, size) = (self.image_path(), parts.size);
        self.open(&path, size)?;
        let mut sum = Sha256::new();
        while let Some(part) = parts.next(self.console).await? {
            sum.update(&part);
            self.target.write(self.console, &part)?;
        }
        self.console.end_progress();
        self.images(path, size, sum, parts.names)
    }

    /// An archive as it is.
    fn archive(&mut self, archive: Brought) -> Result<(), CliError> {
        let Brought { path: from, names } = archive;
        let unreadable = |source| CliError::Read { path: from.clone(), source };
        let mut file = File::open(&from).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let path = self.image_path();
        self.open(&path, size)?;
        let (mut sum, mut came, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            let read = file.read(&mut piece).map_err(unreadable)?;
            let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            came += read as u64;
            if size < came {
                break;
            }
            sum.update(bytes);
            self.target.write(self.console, bytes)?;
        }
        if came != size {
            return Err(unreadable(std::io::Error::other("it changes while it is read")));
        }
        self.images(path, size, sum, names)
    }

    fn images(
        &mut self,
        path: String,
        size: u64,
        sum: Sha256,
        names: Vec<String>,
    ) -> Result<(), CliError> {
        self.close(size)?;
        for name in &names {
            self.console.say(&format!("image {name}\n"));
        }
        let sha256 = hex::encode(sum.finalize());
        self.manifest.images.push(Part { path, sha256, size, names });
        Ok(())
    }

    /// The list, and the end of the tar.
    fn end(mut self) -> Result<(), CliError> {
        let list = serde_json::to_vec(&self.manifest).expect("a manifest is plain data");
        self.open(MANIFEST, list.len() as u64)?;
        self.target.write(self.console, &list)?;
        self.close(list.len() as u64)?;
        self.target.write(self.console, &[0; 2 * BLOCK])?;
        self.target.close(self.console)
    }

    fn image_path(&self) -> String {
        format!("{ROOT}images/{:02}.tar", self.manifest.images.len() + 1)
    }

    fn open(&mut self, path: &str, size: u64) -> Result<(), CliError> {
        let header = header(path, size).map_err(|error| CliError::Typed {
            message: format!("{path}: {}", Chain(&error)),
            hint: None,
        })?;
        self.target.write(self.console, &header)
    }

    fn close(&mut self, size: u64) -> Result<(), CliError> {
        self.target.write(self.console, &vec![0; padding(size)])
    }
}
