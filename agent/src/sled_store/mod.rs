//! Durable state, in sled.
