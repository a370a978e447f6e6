//! Fit: a board is finite. Where all that rules ask for together is more than it has, revisions share by their least
//! first, then in the order of demand.
//!
//! ```text
//!   least of each ──▶ what is left ──one replica at a time──▶ whoever wants the most for each one it has
//! ```
//!
//! What runs is room that is taken already: nobody gives a replica up here for another one to have it.

use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// What one more copy may need beyond what one uses: a tenth, and this.
const MARGIN: u64 = 16 << 20;

/// What one more copy of something with this working set is taken to need, in bytes.
pub fn one_more(working_set: u64) -> u64 {
    working_set.saturating_add(working_set / 10).saturating_add(MARGIN)
}

/// What a revision asks the board for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// It has so many whatever becomes of the others.
    pub least: u32,
    /// So many it has, those among them that are on their way.
    pub has: u32,
    /// So many its rules ask for.
    pub wants: u32,
    /// What one more takes, in bytes.
    pub each: u64,
}

/// What the board has to give beside what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In bytes.
    pub memory: u64,
    /// Its processors.
    pub processors: Processors,
}

/// What the processors of a board are at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processors {
    /// There is time left, or nobody knows.
    Free,
    /// There is none: with another replica the same work is only cut in smaller pieces.
    Busy,
}

/// What a revision gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many replicas.
    pub count: u32,
    /// Why it is not as many as it wants.
    pub lacks: Option<Lack>,
}

/// What a board has not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// So many bytes are left, which is less than one more takes.
    Memory(u64),
    /// Time of its processors.
    Processors,
}

impl Claim {
    /// What it has in any case: no more than it wants.
    pub fn base(&self) -> u32 {
        self.has.max(self.least).min(self.wants)
    }

    /// It asks for more than it has in any case.
    pub fn grows(&self) -> bool {
        self.base() < self.wants
    }
}

/// Shares the board.
pub fn share<K: Ord + Clone>(claims: &BTreeMap<K, Claim>, room: Room) -> BTreeMap<K, Share> {
    let mut counts: Vec<u32> = claims.values().map(Claim::base).collect();
    let first = claims.values().map(|claim| {
        let missing = claim.base().saturating_sub(claim.has);
        claim.each.saturating_mul(missing.into())
    });
    let mut left = first.fold(room.memory, u64::saturating_sub);
    while room.processors == Processors::Free
        && let Some((next, claim)) = next(claims, &counts, left)
    {
        counts[next] += 1;
        left = left.saturating_sub(claim.each);
    }
    let lacks = match room.processors {
        Processors::Free => Lack::Memory(left),
        Processors::Busy => Lack::Processors,
    };
    let shares = claims.iter().zip(counts).map(|((name, claim), count)| {
        let lacks = (count < claim.wants).then_some(lacks);
        (name.clone(), Share { count, lacks })
    });
    shares.collect()
}

/// Who gets the next replica: the one that wants the most for each one it has, of those for which there is room.
fn next<'a, K: Ord>(
    claims: &'a BTreeMap<K, Claim>,
    counts: &[u32],
    left: u64,
) -> Option<(usize, &'a Claim)> {
    let mut best: Option<(usize, &Claim)> = None;
    for (at, claim) in claims.values().enumerate() {
        let may = counts[at] < claim.wants && claim.each <= left;
        // Of two alike the first by name.
        let ahead = best.is_none_or(|(other, known)| {
            is_more(claim.wants, counts[at], known.wants, counts[other])
        });
        if may && ahead {
            best = Some((at, claim));
        }
    }
    best
}

/// Whether `wants` for each of `has` is more than `others` for each of `theirs`.
pub fn is_more(wants: u32, has: u32, others: u32, theirs: u32) -> bool {
    u64::from(others) * u64::from(has) < u64::from(wants) * u64::from(theirs)
}
