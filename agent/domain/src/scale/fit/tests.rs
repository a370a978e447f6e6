//! Fit as tables, and against what always holds.

use proptest::prelude::*;

use super::*;

/// `name: least has wants each`, of a board with so much left.
#[track_caller]
fn check(memory: u64, claims: &str, expected: &str) {
    check_on(Room { memory, processors: Processors::Free }, claims, expected);
}

#[track_caller]
fn check_on(room: Room, claims: &str, expected: &str) {
    let claims: BTreeMap<&str, Claim> = claims
        .split(", ")
        .map(|line| {
            let (name, numbers) = line.split_once(": ").unwrap();
            let numbers: Vec<u32> = numbers.split(' ').map(|one| one.parse().unwrap()).collect();
            let [least, has, wants, each] = numbers[..] else { panic!("{line}") };
            (name, Claim { least, has, wants, each: each.into() })
        })
        .collect();
    let told = share(&claims, room).into_iter().map(|(name, share)| match share.lacks {
        None => format!("{name} {}", share.count),
        Some(Lack::Memory(left)) => format!("{name} {} lacks memory {left}", share.count),
        Some(Lack::Processors) => format!("{name} {} lacks processors", share.count),
    });
    assert_eq!(told.collect::<Vec<_>>().join(", "), expected);
}

#[test]
fn where_there_is_room_everybody_has_what_it_wants() {
    check(100, "a: 1 1 4 10, b: 1 2 3 20", "a 4, b 3");
    check(50, "a: 1 1 4 10, b: 1 2 3 20", "a 4, b 3");
    check(49, "a: 1 1 4 10, b: 1 2 3 20", "a 3 lacks memory 9, b 3");
}

#[test]
fn the_one_that_wants_the_most_for_each_one_it_has_comes_first() {
    check(10, "a: 1 1 3 10, b: 1 1 9 10", "a 1 lacks memory 0, b 2 lacks memory 0");
    // Nine for one, then nine for two, then for three as three for one: the first by name.
    check(30, "a: 1 1 3 10, b: 1 1 9 10", "a 2 lacks memory 0, b 3 lacks memory 0");
    check(40, "a: 1 1 3 10, b: 1 1 9 10", "a 2 lacks memory 0, b 4 lacks memory 0");
    check(30, "a: 1 1 5 10, b: 1 4 9 10", "a 3 lacks memory 0, b 5 lacks memory 0");
    // What is too large for what is left leaves it to what is not.
    check(15, "a: 1 1 3 10, b: 1 1 9 20", "a 2 lacks memory 5, b 1 lacks memory 5");
}

#[test]
fn the_least_of_each_comes_before_more_of_anybody() {
    check(25, "a: 2 0 2 10, b: 1 1 9 10", "a 2, b 1 lacks memory 5");
    check(5, "a: 2 0 2 10, b: 1 1 9 10", "a 2, b 1 lacks memory 0");
    check(0, "a: 2 0 9 10, b: 1 1 1 10", "a 2 lacks memory 0, b 1");
}

#[test]
fn what_runs_is_not_taken_from_anybody_and_what_is_wanted_less_goes() {
    check(0, "a: 1 5 9 10, b: 1 1 1 10", "a 5 lacks memory 0, b 1");
    check(0, "a: 1 5 2 10, b: 1 1 2 10", "a 2, b 1 lacks memory 0");
    check(100, "a: 3 0 1 10", "a 1");
}

#[test]
fn with_busy_processors_nobody_grows_beyond_what_it_has_or_its_least() {
    let room = Room { memory: 1000, processors: Processors::Busy };
    check_on(
        room,
        "a: 2 1 4 10, b: 1 3 4 10, c: 1 1 1 10",
        "a 2 lacks processors, b 3 lacks processors, c 1",
    );
}

#[test]
fn one_more_needs_what_one_uses_and_a_margin() {
    assert_eq!(one_more(100 << 20), 126 << 20);
    assert_eq!(one_more(u64::MAX), u64::MAX);
}

fn claim() -> impl Strategy<Value = Claim> {
    (0_u32..4, 0_u32..8, 0_u32..12, 0_u64..50).prop_map(|(least, has, wants, each)| Claim {
        least,
        has,
        wants,
        each,
    })
}

fn claims() -> impl Strategy<Value = BTreeMap<u8, Claim>> {
    prop::collection::btree_map(any::<u8>(), claim(), 0..6)
}

proptest! {
    #[test]
    fn a_share_is_never_more_than_there_is_nor_less_than_what_is_due(
        claims in claims(), memory in 0_u64..400,
    ) {
        let room = Room { memory, processors: Processors::Free };
        let shares = share(&claims, room);
        let cost = |count: u32, from: u32, each: u64| u64::from(count.saturating_sub(from)) * each;
        let (mut due, mut all) = (0, 0);
        for (name, claim) in &claims {
            let count = shares[name].count;
            prop_assert!(claim.base() <= count && count <= claim.wants, "{claim:?} {count}");
            prop_assert_eq!(shares[name].lacks.is_some(), count < claim.wants);
            due += cost(claim.base(), claim.has, claim.each);
            all += cost(count, claim.has, claim.each);
        }
        prop_assert!(all <= memory.max(due), "{all} of {memory}");
        let left = memory.saturating_sub(all);
        for (name, share) in &shares {
            if share.lacks.is_some() {
                prop_assert!(left < claims[name].each, "{left} left for {:?}", claims[name]);
            }
        }
    }

    #[test]
    fn more_room_is_never_less_for_all_together(claims in claims(), memory in 0_u64..400) {
        // Of copies that are all as large: a large one may take the place of two small ones.
        let claims: BTreeMap<u8, Claim> =
            claims.into_iter().map(|(name, one)| (name, Claim { each: 10, ..one })).collect();
        let total = |memory| {
            let room = Room { memory, processors: Processors::Free };
            share(&claims, room).values().map(|share| u64::from(share.count)).sum::<u64>()
        };
        prop_assert!(total(memory) <= total(memory + 10));
    }

    #[test]
    fn names_decide_nothing_but_between_two_alike(
        claims in prop::collection::vec(claim(), 0..6), memory in 0_u64..400,
    ) {
        let room = Room { memory, processors: Processors::Free };
        // No two demands are alike, nor become so: each is scaled by a prime of its own.
        let primes = [101, 103, 107, 109, 113, 127];
        let claims: Vec<Claim> = claims
            .into_iter()
            .zip(primes)
            .map(|(one, prime)| Claim { least: 1, has: 1, wants: prime, ..one })
            .collect();
        let forth: BTreeMap<usize, Claim> = claims.iter().copied().enumerate().collect();
        let back: BTreeMap<usize, Claim> = claims.iter().rev().copied().enumerate().collect();
        let (forth, back) = (share(&forth, room), share(&back, room));
        for at in 0..claims.len() {
            let other = claims.len() - 1 - at;
            prop_assert_eq!(forth[&at], back[&other]);
        }
    }
}
