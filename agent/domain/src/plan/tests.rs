//! The decision under test: it is looked at alone, and played out thousands of times.

mod restarts;
mod simulation;
mod standby;
mod wakes;
