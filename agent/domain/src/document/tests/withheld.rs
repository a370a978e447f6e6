//! What is kept of a document: all of it, but the values of its secrets.

use proptest::prelude::*;

use super::{SMALL, errors, lines, warnings};
use crate::document::{Document, SecretEntry, parse, parse_withheld, withhold};
use crate::replica::Secret;

const VALUE: &str = "hunter2";

/// The form that is kept, which must be another one.
#[track_caller]
fn kept(text: &str) -> String {
    let withheld = withhold(text.as_bytes()).expect("a document").expect("holds secrets");
    assert_eq!(parse_withheld(&withheld.payload), withheld.parsed);
    String::from_utf8(withheld.payload).unwrap()
}

fn entries(document: &mut Document) -> &mut Vec<SecretEntry> {
    match document {
        Document::App(app) => &mut app.configuration.secrets,
        Document::Job(job) => &mut job.configuration.secrets,
        Document::Environment(_) => panic!("an environment has no such list"),
    }
}

/// What is kept of `text` says the same as `text`, but for the values, which it does not say.
#[track_caller]
fn check(text: &str) {
    assert!(text.contains(VALUE));
    let kept = kept(text);
    assert!(!kept.contains(VALUE), "{kept}");
    let mut before =
        parse(text.as_bytes()).document.unwrap_or_else(|all| panic!("{}", lines(&all)));
    for entry in entries(&mut before) {
        entry.value = None;
    }
    assert_eq!(parse_withheld(kept.as_bytes()).document, Ok(before));
}

fn with_secrets(secrets: &str) -> String {
    SMALL.replace("ingress:", &format!("secrets: {secrets}\n    ingress:"))
}

#[test]
fn a_value_is_found_however_it_is_written() {
    check(&with_secrets("[{name: a, value: hunter2}, {name: b}]"));
    check(&with_secrets(
        "\n      - name: a\n        value: |\n          hunter2\n          and more",
    ));
    check(&with_secrets("&all [{value: &one hunter2, name: a}, {name: b, value: *one}]"));
    check(&with_secrets("[{name: a, \"v\\x61lue\": hunter2}]"));
    check(&with_secrets(
        "[{name: a, value: hunter2, identity: system, keyVaultUrl: 'https://v.example/x'}]",
    ));
    check(
        "{\"configuration\": {\"\\u0073ecrets\": [{\"name\": \"a\", \"value\": \"hunter2\"}]}, \"template\": {\"containers\": [{\"name\": \"m\", \"image\": \"i\"}]}}",
    );
    check(
        "base: &base {name: a, value: hunter2}\nconfiguration: {secrets: [{<<: *base, name: b}]}\n\
         template: {containers: [{name: m, image: i}]}\n"
            .replace(
                "base: &base {name: a, value: hunter2}",
                "tags: {x: y}\nsecrets: [&base {name: a, value: hunter2}]",
            )
            .as_str(),
    );
    check(
        "configuration: {triggerType: Manual, replicaTimeout: 1, secrets: [{name: a, value: hunter2}]}\ntemplate: {containers: [{name: m, image: i}]}\n",
    );
    check(
        "resources:\n  - type: Microsoft.App/containerApps\n    name: hello\n    properties:\n      configuration: {secrets: [{name: a, value: hunter2}]}\n      \
         template: {containers: [{name: m, image: i, env: [{name: A, value: '[[x]'}]}]}\n",
    );
}

#[test]
fn what_may_be_a_value_under_a_wrong_name_is_not_kept_and_warned_of_again() {
    let text = with_secrets("[{name: a, valeu: hunter2, Value: [hunter2]}]");
    let kept = kept(&text);
    assert!(!kept.contains(VALUE), "{kept}");
    let without_lines = |text: &str| {
        let lines = text.lines().map(|line| line.split_once(' ').unwrap().1.trim().to_owned());
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    };
    let again = lines(&parse_withheld(kept.as_bytes()).warnings);
    assert_eq!(without_lines(&again), without_lines(&warnings(&text)));
    let elsewhere = self::kept(
        "Configuration: {Secrets: [{Name: a, value: hunter2}]}\ntemplate: {containers: [{name: m, image: i}]}\n",
    );
    assert!(!elsewhere.contains(VALUE), "{elsewhere}");
}

#[test]
fn a_document_without_values_is_kept_as_it_came() {
    for secrets in ["[]", "[{name: a}, {name: b, value: null}]", "[{name: a, keyVaultUrl: x}]"] {
        assert_eq!(withhold(with_secrets(secrets).as_bytes()), Ok(None), "{secrets}");
    }
    let volumes = SMALL.replace("ingress:", "secrets: [{name: a}]\n    ingress:")
        + "    volumes: [{name: v, storageType: Secret, secrets: [{secretRef: a, path: b}]}]\n";
    assert_eq!(withhold(volumes.as_bytes()), Ok(None));
    assert_eq!(withhold(SMALL.as_bytes()), Ok(None));
}

#[test]
fn everything_else_is_kept() {
    let full = include_str!("full.yaml");
    let kept = kept(full);
    let mut before = parse(full.as_bytes()).document.unwrap();
    let values: Vec<String> = entries(&mut before)
        .iter_mut()
        .filter_map(|entry| entry.value.take())
        .map(|s| s.0)
        .collect();
    assert!(!values.is_empty());
    assert_eq!(parse_withheld(kept.as_bytes()).document, Ok(before));
    for value in values {
        assert!(!kept.contains(&format!("\"{value}\"")), "{value} in {kept}");
    }
}

#[test]
fn aliases_that_would_fill_the_disk_are_refused() {
    // Quotes have two bytes each where they are kept.
    for (long, times) in [("x", 60), ("\"", 20)] {
        let (long, repeated) = (long.repeat(40_000), "*long,".repeat(times));
        let text = format!(
            "{}\ntags: {{a: &long '{long}'}}\nmore: [{repeated}]\n",
            with_secrets("[{name: a, value: hunter2}]")
        );
        let refused = withhold(text.as_bytes()).unwrap_err();
        assert_eq!(refused.reason, crate::reason::Reason::DocumentTooLarge, "{}", refused.message);
    }
}

#[test]
fn no_finding_quotes_a_value() {
    let secrets = |value: &str| with_secrets(&format!("[{{name: a, value: {value}}}]"));
    for value in ["[hunter2]", "{hunter2: hunter2}", "'[parameters(''hunter2'')]'"] {
        let errors = errors(&secrets(value));
        assert!(!errors.contains(VALUE), "{errors}");
    }
    for value in ["*hunter2", "@hunter2", "%hunter2", "`hunter2", "!hunter2 [", "&hunter2 *hunter2"]
    {
        let found = parse(secrets(value).as_bytes());
        let all = format!(
            "{}{}",
            lines(&found.warnings),
            found.document.map_or_else(|e| lines(&e), |_| String::new())
        );
        assert!(!all.contains(VALUE), "{value}: {all}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_value_and_is_not_kept(value in "[ -~\n\té😀]{8,40}") {
        let json = serde_json::json!({
            "name": "hello",
            "properties": {
                "configuration": {"secrets": [{"name": "a", "value": value}]},
                "template": {"containers": [{"name": "main", "image": "hello:1"}]},
            },
        });
        let text = json.to_string();
        let mut read = parse(text.as_bytes()).document.unwrap();
        prop_assert_eq!(entries(&mut read)[0].value.clone(), Some(Secret(value)));
        entries(&mut read)[0].value = None;
        let withheld = withhold(text.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(withheld.parsed.document, Ok(read));
        prop_assert!(!String::from_utf8_lossy(&withheld.payload).contains("value"));
    }
}
