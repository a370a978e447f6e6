//! Requests that wait for a revision to wake.
use super::*;
