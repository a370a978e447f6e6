//! The page of the guide that says which keys are not acted on, made of what the reader of documents does.
//!
//! The words for what comes later are found in the reader's own source, so that no key can be missing from the page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use expect_test::expect_file;

use crate::document::support::{KEYS, LATER, Place};

/// Which keys of the document each feature is asked for by, as the reader names them.
pub(super) fn keys_of_features() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/document");
    let mut keys = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        for call in text.split(".later(").skip(1) {
            let arguments = call.split(')').next().unwrap_or_default();
            let words: Vec<&str> = arguments.split(',').map(str::trim).collect();
            let [feature, key] = words[..] else { continue };
            let Some(feature) = feature.strip_prefix('"') else { continue };
            let feature = feature.trim_end_matches('"');
            let key = match (feature, key.strip_prefix('"')) {
                // Keys that stand in a constant or a loop, and those of a mapping within the file's own.
                ("scaleTiming", _) => "cooldownPeriod`, `pollingInterval",
                ("dapr", _) => "dapr.enabled",
                ("domainTls", _) => "customDomains[].bindingType",
                ("certificates" | "daprComponents" | "httpRouteConfigs", Some(key)) => {
                    keys.insert(
                        feature.to_owned(),
                        format!("environment: {}", key.trim_end_matches('"')),
                    );
                    continue;
                }
                ("sticky", _) => "stickySessions.affinity",
                (_, Some(key)) => key.trim_end_matches('"'),
                (_, None) => panic!("which key is {key} of {feature}?"),
            };
            keys.insert(feature.to_owned(), format!("{}{key}", mapping(&file)));
        }
    }
    keys
}

/// Which mapping the functions of a file read.
fn mapping(file: &str) -> &'static str {
    match file {
        "skerry" => "skerry.",
        "environment" => "",
        "configuration" => "configuration.",
        "ingress" => "configuration.ingress.",
        "scale" => "template.scale.",
        "template" => "template.volumes[].",
        other => panic!("say which mapping {other}.rs reads"),
    }
}

/// Where a mapping lies, for people.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a mapping without such keys has no line, and a test that says so"
)]
fn place(place: Place) -> &'static str {
    match place {
        Place::Document => "",
        Place::Properties => "properties.",
        Place::Configuration => "properties.configuration.",
        Place::Ingress => "properties.configuration.ingress.",
        Place::Template => "properties.template.",
        Place::Container => "properties.template.containers[].",
        Place::Resources => "properties.template.containers[].resources.",
        Place::EnvironmentProperties => "environment: properties.",
        Place::Probe => "properties.template.containers[].probes[].",
        other => panic!("say where {other:?} lies"),
    }
}

#[test]
fn the_page_on_keys_without_effect_is_what_the_reader_says() {
    let mut page = String::from(
        "# Keys that are known and not acted on\n\n\
         Each gives a warning with its path in the status, and in `skerry check`. A key that is in neither table and not \
         in ACA's\nschema gives the warning `UnknownKey`.\n\n\
         This page is made by `UPDATE_EXPECT=1 cargo test --package domain`.\n\n\
         ## Not yet\n\nThese have the warning `NotYetSupported`.\n\n\
         | key | feature | what happens instead |\n|---|---|---|\n",
    );
    let keys = keys_of_features();
    for (feature, message) in LATER {
        let key = keys.get(*feature).unwrap_or_else(|| panic!("nobody asks for {feature}"));
        let message = message.strip_prefix("not acted on yet").unwrap_or(message);
        let message = match message.trim_start_matches([':', ' ']) {
            "" => "nothing",
            message => message,
        };
        page.extend(["| `", key, "` | ", feature, " | ", message, " |\n"]);
    }
    page.push_str("\n## Never\n\n| key | warning | why |\n|---|---|---|\n");
    for (at, key, reason, message) in KEYS {
        page.extend(["| `", place(*at), key, "` | `", reason.word(), "` | ", message, " |\n"]);
    }
    expect_file!["../../../../../docs/guide/keys.md"].assert_eq(&page);
}
