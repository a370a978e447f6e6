//! Weights that a person gives to some revisions, and what is left to the others.
//!
//! ACA's rule: what is given holds to the letter, the other entries keep their proportions within what is left. They are
//! rounded to whole per cents, half to even, and what rounding left over is given out one per cent at a time, in the order
//! of the list. Rounding can also take too much, which ACA leaves open: four entries of 25 that share 99 round to 25 each.
//! Then it is taken back one per cent at a time, in the same order.
//!
//! An entry without weight stays without: a revision that is there to be looked at under its label gets no visitors by
//! the arithmetic of others.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::document::{Finding, TrafficEntry, rules};
use crate::intake::refusal;
use crate::model::{AppName, RevisionName};
use crate::reason::Reason;

/// All of the traffic, per cent.
const WHOLE: u64 = 100;

/// A DNS label.
const MAX_LABEL: usize = 63;

/// `split` with the weights of `set`. A split without an entry is ACA's default: all of it to the latest.
///
/// Entries are the same by the revision they name, by following the latest, or by their label; new ones come last. Weights
/// of the answer add up to 100. What cannot be is refused: more than 100 is given, less is given and nobody could take the
/// rest, or one entry is given twice.
pub fn reweigh(split: &[TrafficEntry], set: &[TrafficEntry]) -> Result<Vec<TrafficEntry>, Finding> {
    let mut entries = split.to_vec();
    if entries.is_empty() {
        entries.push(TrafficEntry { latest: true, weight: 100, ..TrafficEntry::default() });
    }
    let mut given = vec![false; entries.len()];
    for entry in set {
        let place = place_of(&mut entries, &mut given, entry)?;
        if std::mem::replace(&mut given[place], true) {
            return Err(wrong(format!("{} is given twice", name(entry))));
        }
        entries[place].weight = entry.weight;
    }
    let sum: u64 = set.iter().map(|entry| u64::from(entry.weight)).sum();
    let Some(rest) = WHOLE.checked_sub(sum) else {
        return Err(wrong(format!("the weights add up to {sum}, and there are {WHOLE} to give")));
    };
    let mut others: Vec<&mut TrafficEntry> = entries
        .iter_mut()
        .zip(given)
        .filter_map(|(entry, given)| (!given && 0 < entry.weight).then_some(entry))
        .collect();
    if others.is_empty() && rest != 0 {
        let message = format!("the weights add up to {sum}, and no other has traffic to rescale");
        return Err(wrong(format!("{message}: give weights that add up to {WHOLE}")));
    }
    share(&mut others, rest);
    Ok(entries)
}

/// A split as people and programs are shown it: each label at the revision it names, also one that has no weight.
pub fn labelled(
    mut split: Vec<TrafficEntry>,
    labels: &BTreeMap<String, RevisionName>,
) -> Vec<TrafficEntry> {
    for (label, revision) in labels {
        match split.iter_mut().find(|entry| entry.label.as_ref() == Some(label)) {
            Some(entry) => entry.revision = Some(revision.clone()),
            None => split.push(TrafficEntry {
                revision: Some(revision.clone()),
                label: Some(label.clone()),
                ..TrafficEntry::default()
            }),
        }
    }
    split
}

/// Refuses what cannot be a label of `app`: it becomes the host name `<app>---<label>`.
pub fn check_label(app: &AppName, label: &str) -> Result<(), Finding> {
    rules::traffic_label(label)
        .map_err(|rule| wrong(format!("{label:?} is not a valid label: {rule}")))?;
    let host = format!("{app}---{label}");
    if host.len() <= MAX_LABEL {
        return Ok(());
    }
    let message =
        format!("the host name {host} has {} characters; {MAX_LABEL} are allowed", host.len());
    Err(refusal(Reason::HostNameTooLong, "", message))
}

/// Where the entry stands that `wanted` means; it is made where there is none.
fn place_of(
    entries: &mut Vec<TrafficEntry>,
    given: &mut Vec<bool>,
    wanted: &TrafficEntry,
) -> Result<usize, Finding> {
    if !wanted.latest && wanted.revision.is_none() && wanted.label.is_none() {
        return Err(wrong("a weight is given to nothing".to_owned()));
    }
    if let Some(place) = entries.iter().position(|entry| same(entry, wanted)) {
        return Ok(place);
    }
    entries.push(wanted.clone());
    given.push(false);
    Ok(entries.len() - 1)
}

fn same(entry: &TrafficEntry, wanted: &TrafficEntry) -> bool {
    if wanted.latest {
        return entry.latest;
    }
    if wanted.revision.is_some() {
        return entry.revision == wanted.revision;
    }
    entry.label == wanted.label
}

/// Gives `rest` to `others` in proportion to what they have.
fn share(others: &mut [&mut TrafficEntry], rest: u64) {
    let before: u64 = others.iter().map(|entry| u64::from(entry.weight)).sum();
    for entry in &mut *others {
        entry.weight = rounded(u64::from(entry.weight) * rest, before);
    }
    let mut sum: u64 = others.iter().map(|entry| u64::from(entry.weight)).sum();
    // Each is off by half a per cent at most, so that one turn is enough; a second is for entries that have nothing to
    // give back.
    while sum != rest {
        for entry in &mut *others {
            match sum.cmp(&rest) {
                Ordering::Less => (entry.weight, sum) = (entry.weight + 1, sum + 1),
                Ordering::Greater if 0 < entry.weight => {
                    (entry.weight, sum) = (entry.weight - 1, sum - 1);
                }
                Ordering::Greater | Ordering::Equal => (),
            }
        }
    }
}

/// `part` of `whole`, to the nearest whole number, half to even.
fn rounded(part: u64, whole: u64) -> u32 {
    let (floor, remainder) = (part / whole, part % whole);
    let up = match (remainder * 2).cmp(&whole) {
        Ordering::Less => 0,
        Ordering::Equal => floor % 2,
        Ordering::Greater => 1,
    };
    u32::try_from(floor + up).expect("a share of 100 per cent is a small number")
}

/// What an entry is called, for people.
fn name(entry: &TrafficEntry) -> String {
    match (&entry.revision, &entry.label) {
        _ if entry.latest => "latest".to_owned(),
        (Some(revision), _) => revision.to_string(),
        (None, Some(label)) => format!("the label {label}"),
        (None, None) => "nothing".to_owned(),
    }
}

fn wrong(message: String) -> Finding {
    refusal(Reason::InvalidValue, "", message)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// `latest=80 1=20 @blue=0`: the latest, a revision by its number, a label.
    fn entries(text: &str) -> Vec<TrafficEntry> {
        text.split_whitespace().map(entry).collect()
    }

    fn entry(text: &str) -> TrafficEntry {
        let (name, weight) = text.split_once('=').unwrap();
        let weight = weight.parse().unwrap();
        let label = name.strip_prefix('@').map(str::to_owned);
        let latest = name == "latest";
        let revision = (!latest && label.is_none()).then(|| format!("hello--{name}"));
        TrafficEntry { revision: revision.map(|name| name.parse().unwrap()), latest, weight, label }
    }

    fn text(entries: &[TrafficEntry]) -> String {
        let one = |entry: &TrafficEntry| {
            let name = match (&entry.revision, &entry.label) {
                _ if entry.latest => "latest".to_owned(),
                (Some(revision), _) => revision.suffix().to_owned(),
                (None, label) => format!("@{}", label.as_deref().unwrap_or_default()),
            };
            format!("{name}={}", entry.weight)
        };
        entries.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(split: &str, set: &str, expected: &str) {
        let answer = match reweigh(&entries(split), &entries(set)) {
            Ok(split) => text(&split),
            Err(finding) => format!("{}: {}", finding.reason, finding.message),
        };
        assert_eq!(answer, expected, "{split} with {set}");
    }

    #[test]
    fn what_is_given_holds_and_the_others_keep_their_proportions() {
        check("latest=100", "1=20", "latest=80 1=20");
        check("", "1=20", "latest=80 1=20");
        check("1=50 2=50", "3=50", "1=25 2=25 3=50");
        check("1=60 2=20 3=20", "1=20", "1=20 2=40 3=40");
        check("1=75 2=25", "2=0", "1=100 2=0");
        check("1=90 @blue=10", "@blue=50", "1=50 @blue=50");
        check("1=90 2=10", "1=0 2=100", "1=0 2=100");
    }

    #[test]
    fn what_rounding_leaves_over_goes_to_the_first_of_the_list() {
        check("1=33 2=33 3=34", "4=50", "1=17 2=16 3=17 4=50");
        check("1=34 2=33 3=33", "4=0", "1=34 2=33 3=33 4=0");
    }

    #[test]
    fn what_rounding_took_too_much_is_given_back_by_the_first_of_the_list() {
        check("1=25 2=25 3=25 4=25", "5=1", "1=24 2=25 3=25 4=25 5=1");
        // 22.54 three times and 30.38: 23, 23, 23 and 30 are one too many.
        check("1=23 2=23 3=23 4=31", "5=2", "1=22 2=23 3=23 4=30 5=2");
        // 1.5 twice is 2 twice.
        check("1=50 2=50", "3=97", "1=1 2=2 3=97");
    }

    #[test]
    fn who_has_no_traffic_gets_none_by_the_arithmetic_of_others() {
        check("1=100 @blue=0", "2=33", "1=67 @blue=0 2=33");
        check("1=33 @blue=0 2=67", "1=20", "1=20 @blue=0 2=80");
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        check(
            "1=100",
            "1=60 2=50",
            "InvalidValue: the weights add up to 110, and there are 100 to give",
        );
        check(
            "1=100 2=0",
            "1=60",
            "InvalidValue: the weights add up to 60, and no other has traffic to rescale: give weights that add up to 100",
        );
        check("1=100", "2=10 2=20", "InvalidValue: hello--2 is given twice");
        let both = TrafficEntry { label: Some("blue".to_owned()), ..entry("2=50") };
        let set = [entry("2=10"), entry("@blue=10")];
        let refused = reweigh(&[entry("1=50"), both], &set).unwrap_err();
        assert_eq!(refused.message, "the label blue is given twice");
        let refused = reweigh(&[], &[TrafficEntry::default()]).unwrap_err();
        assert_eq!(refused.message, "a weight is given to nothing");
        let most = format!("1={0} 2={0}", u32::MAX);
        assert!(reweigh(&[], &entries(&most)).is_err());
    }

    #[test]
    fn each_label_is_shown_at_the_revision_it_names() {
        let labels = [("blue", "hello--1"), ("green", "hello--2")];
        let labels = labels.map(|(label, name)| (label.to_owned(), name.parse().unwrap()));
        let shown = labelled(entries("latest=80 @blue=20"), &labels.into());
        let shown: Vec<String> = shown
            .iter()
            .map(|entry| {
                let revision =
                    entry.revision.as_ref().map(RevisionName::as_str).unwrap_or_default();
                format!(
                    "{revision} {} {}",
                    entry.label.as_deref().unwrap_or_default(),
                    entry.weight
                )
            })
            .collect();
        assert_eq!(shown, ["  80", "hello--1 blue 20", "hello--2 green 0"]);
    }

    #[test]
    fn a_label_is_a_part_of_a_host_name() {
        let app: AppName = "hello".parse().unwrap();
        let check = |label: &str| check_label(&app, label).map_err(|finding| finding.reason);
        assert_eq!(check("blue-2"), Ok(()));
        for wrong in ["", "Blue", "2blue", "blue-", "a--b", "a.b"] {
            assert_eq!(check(wrong), Err(Reason::InvalidValue), "{wrong}");
        }
        assert_eq!(check(&"x".repeat(55)), Ok(()));
        assert_eq!(check(&"x".repeat(56)), Err(Reason::HostNameTooLong));
    }

    /// A split of up to a dozen revisions that adds up to 100, and weights for some of them and for some others.
    fn cases() -> impl Strategy<Value = (Vec<TrafficEntry>, Vec<TrafficEntry>)> {
        let cuts = vec(0..=100_u32, 0..12);
        let set = proptest::collection::btree_map(0..16_usize, 0..=40_u32, 1..5);
        (cuts, set).prop_map(|(mut cuts, set)| {
            cuts.extend([0, 100]);
            cuts.sort_unstable();
            let split = cuts.windows(2).enumerate();
            let split = split.map(|(n, cut)| entry(&format!("{n}={}", cut[1] - cut[0])));
            let set = set.into_iter().map(|(n, weight)| entry(&format!("{n}={weight}")));
            (split.collect(), set.collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_answer_is_whole_in_order_to_the_letter_and_the_same_again((split, set) in cases()) {
            let answer = reweigh(&split, &set);
            prop_assert_eq!(&answer, &reweigh(&split, &set));
            let given = |entry: &TrafficEntry| set.iter().find(|given| same(entry, given));
            let sum: u32 = set.iter().map(|entry| entry.weight).sum();
            let nobody = split.iter().all(|entry| entry.weight == 0 || given(entry).is_some());
            let Ok(answer) = answer else {
                prop_assert!(100 < sum || (sum < 100 && nobody));
                return Ok(());
            };
            prop_assert_eq!(answer.iter().map(|entry| entry.weight).sum::<u32>(), 100);
            for (before, after) in split.iter().zip(&answer) {
                prop_assert_eq!(&before.revision, &after.revision);
                prop_assert!(0 < before.weight || given(before).is_some() || after.weight == 0);
            }
            for entry in &answer {
                prop_assert!(given(entry).is_none_or(|given| given.weight == entry.weight));
            }
            // The others keep their proportions to within what rounding makes good.
            let others: u32 = split.iter().filter(|entry| given(entry).is_none()).map(|entry| entry.weight).sum();
            for (before, after) in split.iter().zip(&answer).filter(|(entry, _)| given(entry).is_none()) {
                let exact = f64::from(before.weight) * f64::from(100 - sum) / f64::from(others.max(1));
                prop_assert!((f64::from(after.weight) - exact).abs() < 2.0, "{exact} and {after:?}");
            }
        }
    }
}
