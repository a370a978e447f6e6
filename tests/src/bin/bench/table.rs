//! The table that the bench prints.

use std::fmt;

/// What was measured, in the order of measuring.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 3]>);

impl Table {
    /// Adds a row; it is printed at the end, or when the bench fails.
    pub(crate) fn row(&mut self, what: &str, value: impl Into<String>, budget: &str) {
        self.0.push([what.to_owned(), value.into(), budget.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<42} {:>22}   budget", "", "measured")?;
        for [what, value, budget] in &self.0 {
            writeln!(f, "{what:<42} {value:>22}   {budget}")?;
        }
        Ok(())
    }
}
