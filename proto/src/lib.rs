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

mod wide;
