//! What Skerry says to the outside ([`v1`]) and what it writes to disk ([`record`]).
//!
//! The types are generated; a shape here is a promise to programs that this repository does not know.

/// Status, events and the local API. As JSON: lowerCamelCase, every field present, 64-bit integers as strings.
pub mod v1 {
    tonic::include_proto!("skerry.v1");
}

/// Records of the state store.
pub mod record {
    tonic::include_proto!("skerry.record.v1");
}

/// KEDA's protocol for programs that say how much there is to do.
pub mod externalscaler {
    tonic::include_proto!("externalscaler");
}

/// Requests that carry values of secrets, in words that do not.
mod quiet {
    use std::fmt;

    use crate::externalscaler::ScaledObjectRef;
    use crate::v1::{ApplyRequest, ImagesPullRequest, SecretRequest};

    impl fmt::Debug for ScaledObjectRef {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ScaledObjectRef")
                .field("name", &self.name)
                .field("namespace", &self.namespace)
                .field("scaler_metadata", &self.scaler_metadata.keys())
                .finish()
        }
    }

    impl fmt::Debug for SecretRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let value = self.value.as_ref().map(|_| "***");
            f.debug_struct("SecretRequest")
                .field("app", &self.app)
                .field("name", &self.name)
                .field("value", &value)
                .finish()
        }
    }

    impl fmt::Debug for ImagesPullRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ImagesPullRequest")
                .field("reference", &self.reference)
                .field("username", &self.username)
                .finish_non_exhaustive()
        }
    }

    impl fmt::Debug for ApplyRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ApplyRequest")
                .field("bytes", &self.document.len())
                .field("force", &self.force)
                .finish()
        }
    }
}

mod wide;
