//! Windows at known dates.
