//! The decision under test: it is played out, thousands of times.

mod simulation;
