//! The store, closed, damaged, full and old.
