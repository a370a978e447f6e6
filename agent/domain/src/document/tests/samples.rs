//! Documents that others wrote, where they are at hand.

use std::path::PathBuf;

use super::lines;
use crate::document::{Document, EnvValue, Parsed, RevisionsMode, Trigger, parse};
use crate::reason::Reason;
use crate::route::Transport;

/// A sample by the number that its name begins with; nothing where the samples are not at hand.
fn sample(number: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    let shared = std::env::var_os("SKERRY_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("aca/samples");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: {} is not there; SKERRY_SHARED may name its parent", folder.display());
        return None;
    };
    let mut paths = files.map(|file| file.unwrap().path());
    let named = paths.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(number));
    Some(std::fs::read(named.expect("the number of a sample")).unwrap())
}

fn parsed(number: &str) -> Option<Parsed> {
    sample(number).map(|bytes| parse(&bytes))
}

/// The sample with its author's placeholders filled in by something plausible.
fn filled(number: &str, from_to: &[(&str, &str)]) -> Option<Parsed> {
    let text = String::from_utf8(sample(number)?).unwrap();
    let text = from_to.iter().fold(text, |text, (from, to)| text.replace(from, to));
    Some(parse(text.as_bytes()))
}

#[track_caller]
fn accepted(parsed: Parsed) -> Document {
    parsed.document.unwrap_or_else(|errors| panic!("refused:\n{}", lines(&errors)))
}

#[track_caller]
fn refused(parsed: Parsed) -> Vec<(String, Reason)> {
    let errors = parsed.document.expect_err("refused");
    errors.into_iter().map(|error| (error.path, error.reason)).collect()
}

#[test]
fn what_is_not_yaml_is_refused_with_its_line() {
    let Some(parsed) = parsed("02") else { return };
    let errors = parsed.document.unwrap_err();
    expect_test::expect![[r#"
        12:26  InvalidSyntax: line 12, column 26: while parsing a block mapping, did not find expected key, in the block that begins at line 11; a text that starts with { needs quotes
    "#]]
    .assert_eq(&lines(&errors));
}

#[test]
fn a_document_with_placeholders_is_refused_by_each_that_matters() {
    let Some(parsed) = parsed("05") else { return };
    let errors = refused(parsed);
    assert_eq!(errors.first().unwrap(), &("name".to_owned(), Reason::InvalidValue));
    assert!(errors.iter().skip(1).all(|(_, reason)| *reason == Reason::SecretRefNotFound));
    assert_eq!(errors.len(), 13);

    let Some(parsed) = self::parsed("10") else { return };
    let expected = [
        ("properties.template.revisionSuffix".to_owned(), Reason::InvalidValue),
        ("properties.template.containers[0].image".to_owned(), Reason::InvalidValue),
    ];
    assert_eq!(refused(parsed), expected);
}

#[test]
fn it_is_accepted_once_they_are_filled_in() {
    let filling =
        [("<git-sha>", "0a1b2c3"), ("<acr-login-server>", "acr.example"), ("<env>", "Prod")];
    let Some(parsed) = filled("10", &filling) else { return };
    let Document::App(app) = accepted(parsed) else { panic!("this is a job") };
    assert_eq!(app.configuration.active_revisions_mode, RevisionsMode::Multiple);
    assert_eq!(app.environment.as_str(), "prod");
    assert_eq!(app.template.containers[0].probes.len(), 3);
    assert_eq!(app.template.revision_suffix.unwrap().as_str(), "0a1b2c3");
}

#[test]
fn jobs_of_each_trigger_are_read() {
    for (number, trigger) in [("07", "Schedule"), ("08", "Event"), ("09", "Manual")] {
        let Some(parsed) = parsed(number) else { return };
        let Document::Job(job) = accepted(parsed) else { panic!("{number} is an app") };
        let read = match &job.configuration.trigger {
            Trigger::Manual { .. } => "Manual",
            Trigger::Schedule { cron, .. } => {
                assert_eq!(cron, "*/15 * * * *");
                "Schedule"
            }
            Trigger::Event { scale, .. } => {
                assert_eq!(scale.rules[0].metadata["queueLength"], "1");
                "Event"
            }
        };
        assert_eq!(read, trigger);
        assert_eq!(job.environment.as_str(), "default");
    }
}

#[test]
fn apps_in_every_dress_are_read() {
    let Some(parsed) = parsed("12") else { return };
    let Document::App(app) = accepted(parsed) else { panic!("12 is a job") };
    assert_eq!(app.environment.as_str(), "default");
    assert_eq!(app.template.containers[0].resources.memory_bytes, 4 << 30);

    let Document::App(app) = accepted(self::parsed("14").unwrap()) else { panic!("14 is a job") };
    assert_eq!(app.name, None);
    assert_eq!(app.template.containers[0].resources.cpu_millis, 250);

    let dump = self::parsed("16").unwrap();
    let addresses = |path: &str| path.starts_with("properties.outboundIpAddresses");
    assert_eq!(dump.warnings.iter().filter(|warning| addresses(&warning.path)).count(), 1);
    assert!(dump.warnings.iter().all(|warning| warning.reason != Reason::UnknownKey));
    let Document::App(app) = accepted(dump) else { panic!("16 is a job") };
    assert_eq!(app.configuration.ingress.unwrap().transport, Transport::Auto);
    assert_eq!(app.configuration.secrets[0].value, None);
    assert_eq!(app.template.revision_suffix, None);

    let Document::App(app) = accepted(self::parsed("25").unwrap()) else { panic!("25 is a job") };
    assert_eq!(app.template.containers[0].env[0].value, EnvValue::Plain("80".to_owned()));
    assert_eq!(app.template.volumes.len(), 3);
    assert_eq!(app.tags["tagname"], "value");
}

#[test]
fn an_arm_template_is_refused_by_each_expression_that_matters() {
    for (number, errors) in [("17", 5), ("18", 5), ("23", 3)] {
        let Some(parsed) = parsed(number) else { return };
        let found = refused(parsed);
        let expression = |(_, reason): &(String, Reason)| *reason == Reason::UnresolvedExpression;
        assert!(found.iter().all(expression), "{found:?}");
        assert_eq!(found.len(), errors);
    }
}

#[test]
fn an_arm_template_without_expressions_is_accepted() {
    let filling = [
        ("[parameters('containerappname')]", "grocer"),
        ("[parameters('containerimage')]", "grocer:1"),
        ("[resourceId('Microsoft.App/managedEnvironments', parameters('environmentName'))]", "lab"),
    ];
    let Some(parsed) = filled("23", &filling) else { return };
    let Document::App(app) = accepted(parsed) else { panic!("23 is a job") };
    assert_eq!(app.name.unwrap().as_str(), "grocer");
    assert_eq!(app.configuration.ingress.unwrap().transport, Transport::Http2);
}
