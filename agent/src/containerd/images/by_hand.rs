//! Pulls that a person asks for. No app waits, so where the registry gives nothing, that is the answer.

use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{RegistryLogin, Secret};

use super::name::{ImageName, InvalidImageName};
use super::{Images, trouble};
use crate::runtime::RuntimeError;

/// An image that was asked for, and is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// The full reference.
    pub name: String,
    /// What it stands for.
    pub digest: Digest,
    /// It came from an archive, so no registry was asked.
    pub imported: bool,
}

impl Images {
    /// Fetches what the reference stands for at its registry, under the rules that hold for apps: mirrors, signatures,
    /// the bound of the line. What was imported, or is named by a digest and here, is left as it is.
    ///
    /// Dropped in the middle, it keeps what came. `login` is a user and a password.
    pub async fn pull_by_hand(
        &self,
        reference: &str,
        login: Option<(String, Secret)>,
    ) -> Result<PulledImage, RuntimeError> {
        let invalid = |error: InvalidImageName| trouble(Reason::InvalidValue, error.to_string());
        let name: ImageName = reference.parse().map_err(invalid)?;
        let pulled = |digest, imported| PulledImage { name: name.to_string(), digest, imported };
        let local = self.local(&name).await?;
        if let Some(local) = &local
            && let Some(digest) = self.settled(&name, local).await?
        {
            return Ok(pulled(digest, local.is_imported()));
        }
        let logins: Vec<RegistryLogin> = login
            .into_iter()
            .map(|(username, password)| {
                let server = name.registry().to_owned();
                RegistryLogin { server, username, password }
            })
            .collect();
        match self.update(reference, &name, local.as_ref(), &logins).await? {
            Ok(digest) => Ok(pulled(digest, false)),
            Err(refusal) => Err(refusal.into_error()),
        }
    }
}
