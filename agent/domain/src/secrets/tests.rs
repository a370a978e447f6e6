//! How long values are kept, and who needs which.

use super::*;
use crate::allowances::Allowances;
use crate::intake::{self, Incoming, Verdict};
use crate::state::AppRecord;
use crate::status::Source;

const TEMPLATE: &str = "{containers: [{name: main, image: 'i:1', env: [{name: A, secretRef: a}]}]}";

/// The record after one more document.
#[track_caller]
fn after(known: Option<&AppRecord>, secrets: &str, template: &str) -> AppRecord {
    let text = format!("configuration: {{secrets: [{secrets}]}}\ntemplate: {template}\n");
    let parsed = intake::take_apart(text.as_bytes(), Some("hello")).unwrap();
    let Document::App(document) = parsed.document else { panic!("a job") };
    let incoming = Incoming {
        source: Source::Mqtt,
        payload: text.as_bytes(),
        force: false,
        allowances: &Allowances::default(),
    };
    match intake::app(known, &parsed.name, *document, parsed.warnings, incoming) {
        Verdict::Changed(record) => *record,
        other @ (Verdict::Unchanged | Verdict::Refused(_)) => panic!("{other:?}"),
    }
}

fn values(record: &AppRecord) -> Vec<(&str, &str, bool)> {
    record.secrets.iter().map(|(name, s)| (name.as_str(), s.value.0.as_str(), s.by_hand)).collect()
}

#[test]
fn a_value_stays_as_long_as_its_name_is_listed_or_a_person_set_it() {
    let first = after(None, "{name: a, value: one}, {name: b, value: ''}, {name: c}", TEMPLATE);
    assert_eq!(values(&first), [("a", "one", false), ("b", "", false)]);
    let second = after(Some(&first), "{name: a}", TEMPLATE);
    assert_eq!(values(&second), [("a", "one", false)]);

    let mut by_hand = second;
    let secret = |text: &str| StoredSecret { value: Secret(text.to_owned()), by_hand: true };
    by_hand.secrets.insert("a".to_owned(), secret("mine"));
    by_hand.secrets.insert("own".to_owned(), secret("too"));
    let third = after(Some(&by_hand), "{name: a}, {name: b}", TEMPLATE);
    assert_eq!(values(&third), [("a", "mine", true), ("own", "too", true)]);
    let fourth = after(Some(&third), "{name: a, value: two}", TEMPLATE);
    assert_eq!(values(&fourth), [("a", "two", false), ("own", "too", true)]);
}

#[test]
fn a_document_that_still_holds_for_a_revision_keeps_its_values() {
    let mut record = after(None, "{name: a, value: one}", TEMPLATE);
    record.revisions[0].was_ready = true;
    record.revisions[0].phase = crate::status::Phase::Committed;
    let next =
        after(Some(&record), "{name: b, value: two}", "{containers: [{name: main, image: 'i:2'}]}");
    assert_eq!(values(&next), [("a", "one", false), ("b", "two", false)]);
    let (old, new) = (record.document().unwrap(), next.document().unwrap());
    assert_eq!(known(&next, old).into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(known(&next, new).into_keys().collect::<Vec<_>>(), ["b"]);
    let mut over = next;
    over.revisions.iter_mut().for_each(|revision| revision.held = None);
    forget_unlisted(&mut over);
    assert_eq!(values(&over), [("b", "two", false)]);
}

#[test]
fn each_secret_without_a_value_is_named_with_what_needs_it() {
    let template = "{containers: [{name: main, image: i, env: [{name: A, secretRef: a}, {name: B, secretRef: b}]}], \
        volumes: [{name: all, storageType: Secret}, {name: some, storageType: Secret, secrets: [{secretRef: c, path: x}]}]}";
    let record = after(None, "{name: a, value: one}, {name: b}, {name: c}", template);
    let document = record.document().unwrap();
    let missing = missing(&record, document, &document.template);
    let lines: Vec<String> =
        missing.iter().map(|need| format!("{}: {}", need.what, need.secret)).collect();
    assert_eq!(lines, ["B: b", "volume all: b", "volume all: c", "volume some: c"]);
}

#[test]
fn sealed_values_are_opened_or_refused_by_their_paths() {
    let text = "configuration: {secrets: [{name: a, value: 'sealed:good'}, {name: b, value: plain}, {name: c, value: 'sealed:bad'}]}\n\
        template: {containers: [{name: main, image: i}]}\n";
    let parsed = || intake::take_apart(text.as_bytes(), Some("hello")).unwrap().document;
    let open = |sealed: &str| match sealed {
        "good" => Ok(Secret("opened".to_owned())),
        _ => Err("it does not fit".to_owned()),
    };
    let findings = unseal(&mut parsed(), open).unwrap_err();
    let paths: Vec<&str> = findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["properties.configuration.secrets[2].value"]);
    let mut document = parsed();
    unseal(&mut document, |_| Ok(Secret("opened".to_owned()))).unwrap();
    let Document::App(app) = document else { panic!("a job") };
    let values: Vec<String> =
        app.configuration.secrets.into_iter().map(|entry| entry.value.unwrap().0).collect();
    assert_eq!(values, ["opened", "plain", "opened"]);
}
