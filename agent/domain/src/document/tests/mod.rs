//! Documents as people write them, and what they are told.

mod samples;
