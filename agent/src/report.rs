//! Showing errors: the whole chain, once, and what to do about it.

use std::error::Error;
use std::fmt;

/// Characters of the longest name there is, and some that were typed too much.
const LONGEST_NAME: usize = 100;

/// An error that knows what its reader could do next.
pub trait Hint: Error + 'static {
    /// One imperative sentence without a full stop, where there is one.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// What was meant, perhaps: the known word that is nearest to `text`.
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing is quadratic, and no name is that long.
    if LONGEST_NAME < text.len() {
        return None;
    }
    known
        .map(|word| (strsim::damerau_levenshtein(text, word), word))
        // A third of the letters wrong is another name, not a slip.
        .filter(|(distance, word)| *distance <= word.len().div_ceil(3))
        .min()
        .map(|(_, word)| word)
}

/// For logs and details: `outer: inner: root`.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

/// For people: `error: …`, and `hint: …` on a line of its own.
#[derive(Debug)]
pub struct Report<'a, E>(pub &'a E);

impl<E: Hint> fmt::Display for Report<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", Chain(self.0))?;
        self.0.hint().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}
