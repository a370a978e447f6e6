//! What making a container needs of images. Another module fetches and unpacks them.

use domain::keep::{Cleared, Clearing};
use domain::replica::{RegistryLogin, ResolvedImage};

use super::images::Images;
use crate::runtime::RuntimeError;

pub use super::images::ImageConfig;

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

    /// Removes images that nobody needs, as far as the order goes.
    fn clear(&self, order: Clearing) -> impl Future<Output = Result<Cleared, RuntimeError>> + Send;
}

impl ImageSource for Images {
    async fn ensure(
        &self,
        reference: &str,
        logins: &[RegistryLogin],
    ) -> Result<ResolvedImage, RuntimeError> {
        self.ensure(reference, logins).await
    }

    async fn config(&self, image: &ResolvedImage) -> Result<ImageConfig, RuntimeError> {
        self.config(image).await
    }

    async fn clear(&self, order: Clearing) -> Result<Cleared, RuntimeError> {
        self.clear(order).await
    }
}
