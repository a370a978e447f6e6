//! The page on what of ACA is here: its rows are written by hand, and may not contradict the reader of documents; its list
//! of keys is made of what the reader asks for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use expect_test::expect_file;

use super::guide::keys_of_features;
use crate::document::parse;
use crate::document::support::{KEYS, LATER, Place};
use crate::reason::Reason::{NoMeaningHere, ReadOnly, Unsupported};

/// Where the part that is made begins.
const MADE: &str = "\n## Keys\n";

const FULL: &str = include_str!("full.yaml");

/// What [`FULL`] cannot say, for it has other modes and no TCP.
const REST: &str = "
properties:
  configuration:
    ingress: {targetPort: 80, stickySessions: {affinity: sticky}}
  template: {containers: [{name: main, image: hello}]}
";

const JOB: &str = "
type: Microsoft.App/jobs
properties:
  configuration:
    triggerType: Event
    replicaTimeout: 60
    manualTriggerConfig: {parallelism: 1}
    scheduleTriggerConfig: {cronExpression: '* * * * *'}
    eventTriggerConfig: {scale: {rules: [{name: a, type: cron, metadata: {a: b}}]}}
  template: {containers: [{name: main, image: hello}]}
";

const ENVIRONMENT: &str = "
type: Microsoft.App/managedEnvironments
name: default
properties: {storages: [{name: a, path: /a}]}
skerry: {generation: 1}
";

/// What of the page's rows speaks of which feature: a part of the row's first cell.
const ROWS: &[(&str, &str)] = &[
    ("certificates", "certificates, Dapr components"),
    ("daprComponents", "certificates, Dapr components"),
    ("httpRouteConfigs", "certificates, Dapr components"),
    ("dapr", "**Dapr**"),
    ("tls", "HTTPS, redirect"),
    ("domainTls", "HTTPS, redirect"),
    ("mtls", "client certificates"),
    ("sticky", "stickiness"),
    ("cors", "CORS"),
    ("ipRestrictions", "IP restrictions"),
];

/// Features of the `skerry` block that take the place of nothing in ACA.
const OURS: &[&str] = &[];

type Asked = BTreeMap<String, (String, BTreeSet<&'static str>)>;

thread_local! {
    static ASKED: RefCell<Asked> = const { RefCell::new(BTreeMap::new()) };
}

/// Takes note of what was asked of the mapping at `path`.
pub(in crate::document) fn note(place: Place, path: &str, asked: &[&'static str]) {
    ASKED.with_borrow_mut(|all| {
        let known = all.entry(general(path)).or_default();
        known.0 = format!("{place:?}");
        known.1.extend(asked);
    });
}

/// `containers[3].env` as `containers[].env`.
fn general(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit() || !path.contains('[')).collect()
}

/// Every mapping that the reader knows, with its keys.
fn asked_of(documents: &[&str]) -> Asked {
    ASKED.with_borrow_mut(BTreeMap::clear);
    for document in documents {
        drop(parse(document.as_bytes()));
    }
    ASKED.take()
}

/// The paths of keys that this release reads and does not act on.
fn later() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (feature, keys) in keys_of_features() {
        if !LATER.iter().any(|(name, _)| *name == feature) {
            continue;
        }
        let mut mapping = String::new();
        for key in keys.split("`, `") {
            let key = if key.contains('.') { key.to_owned() } else { format!("{mapping}{key}") };
            mapping = key.rsplit_once('.').map_or_else(String::new, |(all, _)| format!("{all}."));
            // What is not enabled has no other key to act on.
            paths.insert(format!("properties.{}", key.trim_end_matches(".enabled")));
        }
    }
    paths
}

/// The paths of keys that are read and have no effect, as the reader itself says.
fn without_effect() -> BTreeSet<String> {
    let warnings = parse(FULL.as_bytes()).warnings.into_iter();
    let without =
        warnings.filter(|one| [NoMeaningHere, ReadOnly, Unsupported].contains(&one.reason));
    without.map(|warning| general(&warning.path)).collect()
}

fn covers(paths: &BTreeSet<String>, path: &str) -> bool {
    let covers = |above: &String| {
        path.strip_prefix(above.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    paths.iter().any(covers)
}

fn cell(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// The tables of keys.
fn tables() -> String {
    let (later, without) = (later(), without_effect());
    let mut text = String::from(
        "\nEvery key of ACA's schema that is known, as the reader of documents has it. *Not yet* and *no effect* are warned \
         about:\n[guide/keys.md](guide/keys.md) says what happens instead. Init containers have the keys of containers.\n\n\
         | mapping | acted on | not yet | no effect |\n|---|---|---|---|\n",
    );
    let ours = |path: &str| path.starts_with("skerry") || path.contains("initContainers");
    let asked = asked_of(&[FULL, REST]);
    for (path, (place, keys)) in asked.iter().filter(|(path, _)| !ours(path)) {
        let (mut met, mut not_yet, mut no) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            let whole = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            match (covers(&without, &whole), covers(&later, &whole)) {
                (true, _) => no.push(*key),
                (false, true) => not_yet.push(*key),
                (false, false) => met.push(*key),
            }
        }
        let never = KEYS.iter().filter(|(at, ..)| format!("{at:?}") == *place);
        no.extend(never.map(|(_, key, ..)| *key));
        let path = if path.is_empty() { "the document".to_owned() } else { format!("`{path}`") };
        let (met, not_yet, no) = (cell(&met), cell(&not_yet), cell(&no));
        text.extend(["| ", &path, " | ", &met, " | ", &not_yet, " | ", &no, " |\n"]);
    }
    text.push_str(
        "\nJobs have, beside the template:\n\n| mapping | read and stored |\n|---|---|\n",
    );
    for (path, (_, keys)) in asked_of(&[JOB]) {
        if path.contains(".configuration") {
            let keys: Vec<&str> = keys.into_iter().collect();
            text.extend(["| `", &path, "` | ", &cell(&keys), " |\n"]);
        }
    }
    text.push_str(
        "\nThe lists of keys are made by `UPDATE_EXPECT=1 cargo test --package domain`.\n",
    );
    text
}

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/aca.md");
    let page = fs::read_to_string(page).unwrap();
    page.split(MADE).next().unwrap().trim_end().to_owned()
}

#[test]
fn the_keys_on_the_page_are_those_of_the_reader() {
    let page = format!("{}\n{MADE}{}", page(), tables());
    expect_file!["../../../../../docs/aca.md"].assert_eq(&page);
}

#[test]
fn every_place_of_a_key_without_effect_is_on_the_page() {
    let asked = [asked_of(&[FULL, REST]), asked_of(&[ENVIRONMENT])];
    for (place, key, ..) in KEYS {
        let seen = asked
            .iter()
            .flatten()
            .map(|(_, known)| known)
            .any(|(seen, _)| *seen == format!("{place:?}"));
        assert!(seen, "{key}: no document of this test has a {place:?}");
    }
}

#[test]
fn a_row_says_not_yet_just_as_long_as_the_reader_does() {
    let page = page();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    for (feature, words) in ROWS {
        let told: Vec<&Vec<&str>> = rows.iter().filter(|row| row[1].contains(words)).collect();
        assert!(
            !told.is_empty(),
            "no row says {words:?}: say in ROWS which one tells of {feature}"
        );
        let same = ROWS.iter().filter(|(_, other)| other == words);
        let is_later = |feature: &str| LATER.iter().any(|(name, _)| *name == feature);
        let waits = same.clone().any(|(feature, _)| is_later(feature));
        let all_wait = same.clone().all(|(feature, _)| is_later(feature));
        for row in told {
            let of_others =
                ROWS.iter().any(|(other, name)| row[1].contains(name) && is_later(other));
            match row[2] {
                "not yet" => assert!(of_others, "{}: {feature} is acted on", row[1]),
                "met" => assert!(!waits, "{}: {feature} is not acted on", row[1]),
                // Partly says that some of it is there.
                _ => assert!(!all_wait || row[2] == "partly", "{}: {feature} waits", row[1]),
            }
        }
    }
    for (feature, _) in LATER {
        let told = ROWS.iter().any(|(name, _)| name == feature) || OURS.contains(feature);
        assert!(told, "say in ROWS which row tells of {feature}");
    }
}
