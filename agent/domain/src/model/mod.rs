//! The nouns: names that cannot be wrong, digests, moments.

mod digest;
mod moment;
mod names;

pub use self::digest::{Digest, InvalidDigest};
pub use self::moment::{Moment, WallTime};
pub use self::names::{
    AppName, EnvironmentName, InvalidName, ReplicaName, RevisionName, RevisionSuffix,
};
