//! App documents from a folder.
