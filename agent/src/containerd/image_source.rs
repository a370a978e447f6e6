//! What making a container needs of images. Another module fetches and unpacks them.

use domain::replica::{RegistryLogin, ResolvedImage};

use crate::runtime::RuntimeError;

/// Images that can be made local, and what they say of how they are run.
pub trait ImageSource: Clone + Send + Sync + 'static {
    /// Makes one image local, complete and unpacked.
    fn ensure(
        &self,
        reference: &str,
        logins: &[RegistryLogin],
    ) -> impl Future<Output = Result<ResolvedImage, RuntimeError>> + Send;

    /// How a local image is run.
    fn config(
        &self,
        image: &ResolvedImage,
    ) -> impl Future<Output = Result<ImageConfig, RuntimeError>> + Send;
}

/// What an image says of how it is run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// The name of the snapshot that its layers were unpacked to.
    pub chain_id: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `name` or `uid`, and `:group` where given.
    pub user: String,
    /// Absolute.
    pub working_dir: String,
    /// `SIGTERM` where not given.
    pub stop_signal: String,
}
