//! Images made on the spot: one layer with one static program, as an OCI or a docker archive.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command::run;
use crate::registry::Registry;

/// An image with one program.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    program: PathBuf,
    /// Path in the image, content, mode.
    files: Vec<(String, Vec<u8>, u32)>,
    /// Paths in the image where the program stands too.
    links: Vec<String>,
    environment: Vec<String>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
    architecture: String,
    variant: String,
}

/// The static test app, built beforehand by `cargo xtask`.
pub fn testapp() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SKERRY_TESTAPP") {
        return Ok(path.into());
    }
    let program = env::current_exe()?;
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    program
        .ancestors()
        .map(|dir| dir.join(&triple).join("debug/testapp"))
        .find(|path| path.is_file())
        .context("the static test app is not built; `cargo xtask test` builds it")
}

impl Image {
    /// The test app under the full reference `name`, such as `test.local/hello:1`.
    pub fn testapp(name: &str) -> Result<Self> {
        Ok(Self::new(name, testapp()?, ["/testapp"]))
    }

    /// The test app as it was built for another machine.
    pub fn testapp_at(name: &str, program: PathBuf) -> Self {
        Self::new(name, program, ["/testapp"])
    }

    /// Busybox with a link for each of a few commands; runs `sh` unless told otherwise.
    pub fn busybox(name: &str) -> Self {
        Self::new(name, "/bin/busybox".into(), ["/bin/busybox", "sh"])
    }

    fn new<const N: usize>(name: &str, program: PathBuf, entrypoint: [&str; N]) -> Self {
        let architecture = match env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            name: name.to_owned(),
            program,
            files: Vec::new(),
            links: Vec::new(),
            environment: vec!["PATH=/bin:/usr/bin".to_owned()],
            entrypoint: entrypoint.map(str::to_owned).to_vec(),
            command: Vec::new(),
            user: String::new(),
            architecture: architecture.to_owned(),
            variant: String::new(),
        }
    }

    /// Sets a variable of the image.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push(format!("{key}={value}"));
        self
    }

    /// Replaces the entry point.
    #[must_use]
    pub fn entrypoint<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.entrypoint = words.map(str::to_owned).to_vec();
        self
    }

    /// Sets the default arguments.
    #[must_use]
    pub fn command<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.command = words.map(str::to_owned).to_vec();
        self
    }

    /// Sets the user, `1000:1000`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str, mode: u32) -> Self {
        self.files.push((path.to_owned(), content.as_bytes().to_vec(), mode));
        self
    }

    /// Has the program stand at `path` too.
    #[must_use]
    pub fn also_at(mut self, path: &str) -> Self {
        self.links.push(path.to_owned());
        self
    }

    /// Says that the image is for another machine: `arm64`, `v8`.
    #[must_use]
    pub fn platform(mut self, architecture: &str, variant: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        variant.clone_into(&mut self.variant);
        self
    }

    /// The reference it is known by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes an OCI archive, as `skopeo copy … oci-archive:` does.
    pub fn write_oci(&self, path: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = self.config(&layer)?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        entry["platform"] = self.platform_json();
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }))?;
        let blob = |content: &[u8]| format!("blobs/sha256/{}", hash(content));
        archive(
            path,
            &[
                ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
                ("index.json", &index),
                (&blob(&manifest), &manifest),
                (&blob(&config), &config),
                (&blob(&layer), &layer),
            ],
        )
    }

    /// Writes a docker archive, as `docker save` did.
    pub fn write_docker(&self, path: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = self.config(&layer)?;
        let config_name = format!("{}.json", hash(&config));
        let manifest = serde_json::to_vec(&json!([
            { "Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"] }
        ]))?;
        archive(
            path,
            &[("manifest.json", &manifest), (&config_name, &config), ("layer.tar", &layer)],
        )
    }

    /// Pushes it to `registry` as `repository:tag`, and tells the reference.
    pub fn push(&self, registry: &Registry, repository: &str) -> Result<String> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("image.tar");
        self.write_oci(&path)?;
        let reference = format!("{}/{repository}", registry.address());
        let mut arguments = vec![
            "copy".to_owned(),
            "--insecure-policy".to_owned(),
            "--dest-tls-verify=false".to_owned(),
        ];
        if let Some((user, password)) = registry.credentials() {
            arguments.push(format!("--dest-creds={user}:{password}"));
        }
        arguments.push(format!("oci-archive:{}", path.display()));
        arguments.push(format!("docker://{reference}"));
        run("skopeo", arguments)?;
        Ok(reference)
    }

    fn platform_json(&self) -> Value {
        let mut platform = json!({ "os": "linux", "architecture": self.architecture });
        if !self.variant.is_empty() {
            platform["variant"] = self.variant.clone().into();
        }
        platform
    }

    fn config(&self, layer: &[u8]) -> Result<Vec<u8>> {
        let mut config = self.platform_json();
        config["config"] = json!({
            "Env": self.environment,
            "Entrypoint": self.entrypoint,
            "Cmd": self.command,
            "User": self.user,
            "WorkingDir": "/",
        });
        let diff_id = format!("sha256:{}", hash(layer));
        config["rootfs"] = json!({ "type": "layers", "diff_ids": [diff_id] });
        config["history"] = json!([{ "created_by": "tests" }]);
        Ok(serde_json::to_vec(&config)?)
    }

    /// The same image gives the same bytes: no time of day goes in.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for dir in ["bin", "tmp", "etc", "data"] {
            let mut header = header(0, if dir == "tmp" { 0o1777 } else { 0o755 });
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{dir}/"), &[][..])?;
        }
        let program = fs::read(&self.program)
            .with_context(|| format!("cannot read {}", self.program.display()))?;
        let path = if self.program.ends_with("busybox") { "bin/busybox" } else { "testapp" };
        tar.append_data(&mut header(program.len(), 0o755), path, &program[..])?;
        if path == "bin/busybox" {
            for name in
                ["sh", "cat", "echo", "sleep", "true", "false", "ls", "wget", "nc", "yes", "id"]
            {
                let mut link = header(0, 0o777);
                link.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut link, format!("bin/{name}"), "busybox")?;
            }
        }
        for link in &self.links {
            let mut entry = header(0, 0o777);
            entry.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut entry, link.trim_start_matches('/'), format!("/{path}"))?;
        }
        for (path, content, mode) in &self.files {
            let path = path.trim_start_matches('/');
            tar.append_data(&mut header(content.len(), *mode), path, &content[..])?;
        }
        Ok(tar.into_inner()?)
    }
}

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn archive(path: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut tar = tar::Builder::new(file);
    for (name, content) in files {
        tar.append_data(&mut header(content.len(), 0o644), name, *content)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", hash(content)),
        "size": content.len(),
    })
}

pub(crate) fn hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}
