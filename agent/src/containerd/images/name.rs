//! Image references: `nginx` is `docker.io/library/nginx:latest`, as everywhere.
//!
//! The split is our own. The parser that comes with the registry client compiles a Unicode expression and keeps it,
//! which costs more memory than the rest of the agent together.

use std::fmt;
use std::str::FromStr;

use domain::model::Digest;
use oci_client::Reference;

/// Where a reference without a registry points to.
const DOCKER_HUB: &str = "docker.io";
/// Other names of the same registry, as they stand in old documents and credentials.
const DOCKER_HUB_ALIASES: &[&str] = &["index.docker.io", "registry-1.docker.io"];
/// The distribution specification's bound of a repository's name.
const MAX_REPOSITORY: usize = 255;
/// The distribution specification's bound of a tag.
const MAX_TAG: usize = 128;

/// An image reference in full: registry, repository, and what of it.
///
/// Its text is the name that containerd knows the image by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ImageName {
    registry: String,
    repository: String,
    version: Version,
}

/// Which of a repository's images.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// What the tag stands for today.
    Tag(String),
    /// These bits and no others.
    Digest(Digest),
}

/// The text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {rule}")]
pub(super) struct InvalidImageName {
    text: String,
    rule: &'static str,
}

impl ImageName {
    /// `host` or `host:port`.
    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    /// Tag or digest.
    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// The same repository, pinned to `digest`.
    pub(super) fn pinned(&self, digest: Digest) -> Self {
        Self { version: Version::Digest(digest), ..self.clone() }
    }

    /// The reference as the registry client has it.
    pub(super) fn to_reference(&self) -> Reference {
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        match &self.version {
            Version::Tag(tag) => Reference::with_tag(registry, repository, tag.clone()),
            Version::Digest(digest) => {
                Reference::with_digest(registry, repository, digest.to_string())
            }
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for ImageName {
    type Err = InvalidImageName;
    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        let wrong = |rule| InvalidImageName { text: text.to_owned(), rule };
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => {
                let digest =
                    digest.parse().map_err(|_| wrong("after @ comes sha256:<64 digits>"))?;
                (named, Some(digest))
            }
            None => (text, None),
        };
        let (registry, rest) = match named.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            Some(_) | None => (DOCKER_HUB, named),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let registry = registry_name(registry);
        let repository = match registry {
            DOCKER_HUB if !path.contains('/') => format!("library/{path}"),
            _ => path.to_owned(),
        };
        if !registry.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c)) {
            return Err(wrong("a registry is a host name or address, with or without a port"));
        }
        if MAX_REPOSITORY < repository.len() || !repository.split('/').all(is_component) {
            return Err(wrong("a repository is lower-case words joined by / . _ or -"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag is 1 to 128 letters, digits, _ . or -"));
        }
        // A digest says it all; a tag beside it is for people.
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, version })
    }
}

/// A reference in full, as images are listed; none for a text that is no reference.
pub fn full_name(reference: &str) -> Option<String> {
    reference.parse().ok().map(|name: ImageName| name.to_string())
}

/// A registry by its one name, for references and for the `server` of credentials alike.
pub(super) fn registry_name(server: &str) -> &str {
    let server =
        server.strip_prefix("https://").or(server.strip_prefix("http://")).unwrap_or(server);
    let host = server.split('/').next().unwrap_or(server);
    if DOCKER_HUB_ALIASES.contains(&host) { DOCKER_HUB } else { host }
}

/// Tells a registry from the first word of a repository on Docker Hub.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.contains(|c: char| c.is_ascii_uppercase())
}

fn is_component(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    word.starts_with(plain)
        && word.ends_with(plain)
        && word.chars().all(|c| plain(c) || "._-".contains(c))
        && !word.contains("..")
        && !word.contains("___")
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, full: &str) {
        assert_eq!(text.parse::<ImageName>().unwrap().to_string(), full, "{text}");
    }

    #[test]
    fn a_reference_is_completed_as_docker_does() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("grafana/loki", "docker.io/grafana/loki:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("index.docker.io/library/nginx:1", "docker.io/library/nginx:1");
        check("localhost/x", "localhost/x:latest");
        check("localhost:5000/x", "localhost:5000/x:latest");
        check("localhost:5000/a/b:1", "localhost:5000/a/b:1");
        check("127.0.0.1:5000/x:v1.0_2", "127.0.0.1:5000/x:v1.0_2");
        check("[::1]:5000/x", "[::1]:5000/x:latest");
        check(
            "mcr.microsoft.com/k8se/quickstart:latest",
            "mcr.microsoft.com/k8se/quickstart:latest",
        );
        check("ghcr.io/a/b__c/d-e.f:1", "ghcr.io/a/b__c/d-e.f:1");
        check("Registry/x", "Registry/x:latest");
    }

    #[test]
    fn a_digest_outweighs_a_tag() {
        check(&format!("nginx@{SHA}"), &format!("docker.io/library/nginx@{SHA}"));
        check(&format!("ghcr.io/a/b:1@{SHA}"), &format!("ghcr.io/a/b@{SHA}"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("a/{}", "b".repeat(300));
        let tag = format!("a:{}", "b".repeat(129));
        let bad = [
            "",
            ":",
            "a:",
            "/a",
            "a/",
            "a//b",
            "A",
            "a b",
            "a:b c",
            "a@sha256:12",
            "ghcr.io/",
            "-a",
            "a..b",
            "x.y/A:1",
            "a:1:2",
            "reg istry.io/x",
            "ä",
            "a\n",
            long.as_str(),
            tag.as_str(),
        ];
        for text in bad {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_name_a_registry_in_many_ways() {
        assert_eq!(registry_name("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(registry_name("registry-1.docker.io"), "docker.io");
        assert_eq!(registry_name("my.azurecr.io"), "my.azurecr.io");
        assert_eq!(registry_name("http://localhost:5000"), "localhost:5000");
    }
}
