//! The rules of a revision that are sampled, as they were read: anew only where their template or a value of the app's
//! secrets is another one. A revision without such a rule has none of this.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Memory, trouble};
use crate::document::{ScaleTrigger, Template};
use crate::model::RevisionName;
use crate::reason::Reason;
use crate::replica::{Secret, Trouble};
use crate::scale::{self, Polled, Unreadable};
use crate::secrets;
use crate::state::{AppRecord, RevisionRecord};

/// What was read, and what of.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    template: Arc<Template>,
    secrets: BTreeMap<String, Secret>,
    /// Each with its name.
    polled: Arc<[(String, Polled)]>,
    /// Why one of them is not sampled.
    pub(super) trouble: Option<Trouble>,
}

impl Rules {
    /// The rules of a revision; `known` are those that it had before.
    pub(super) fn of(
        record: &AppRecord,
        revision: &RevisionRecord,
        known: Option<Self>,
    ) -> Option<Self> {
        let rules = &revision.template.scale.rules;
        let sampled = |trigger: &ScaleTrigger| matches!(trigger, ScaleTrigger::Custom { .. });
        if !rules.iter().any(|rule| sampled(&rule.trigger)) {
            return None;
        }
        let document = record.document_of(revision)?;
        let same = |known: &Self| {
            Arc::ptr_eq(&known.template, &revision.template)
                && known.secrets.iter().eq(secrets::values(record, document))
        };
        if let Some(known) = known.filter(same) {
            return Some(known);
        }
        let secrets = secrets::known(record, document);
        let (mut polled, mut problem) = (Vec::new(), None);
        for rule in rules {
            match scale::read(rule, &revision.template, &secrets) {
                Ok(read) => polled.push((rule.name.clone(), read)),
                Err(why @ Unreadable::Metadata { .. }) => {
                    let why =
                        || trouble(Reason::InvalidValue, format!("rule {}: {why}", rule.name));
                    problem = problem.or_else(|| Some(why()));
                }
                Err(Unreadable::UnknownType(_) | Unreadable::Scheduled | Unreadable::Counted) => (),
            }
        }
        let template = Arc::clone(&revision.template);
        Some(Self { template, secrets, polled: polled.into(), trouble: problem })
    }
}

impl Memory {
    /// What is sampled for a revision, by the name of its rule.
    pub fn polled(&self, revision: &RevisionName) -> &[(String, Polled)] {
        let rules = self.scaled.get(revision).and_then(|scaled| scaled.rules.as_ref());
        rules.map_or(&[], |rules| &*rules.polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowances::Allowances;
    use crate::document::Document;
    use crate::intake::{self, Incoming, Verdict};
    use crate::scale::{Credentials, Source};
    use crate::state::StoredSecret;

    const DOCUMENT: &str = "
name: meter
properties:
  configuration:
    secrets: [{name: token, value: old}, {name: other, value: x}]
  template:
    containers: [{name: main, image: a/main}]
    scale:
      rules:
        - name: queue
          custom:
            type: metrics-api
            metadata: {url: 'http://counter:9000/', valueLocation: length, targetValue: '5', authMode: bearer}
            auth: [{secretRef: token, triggerParameter: token}]
        - name: broken
          custom: {type: mqtt, metadata: {topic: 'a/#/b'}}
        - name: calls
          http: {metadata: {concurrentRequests: '5'}}
";

    fn record(document: &str) -> AppRecord {
        let parsed = intake::take_apart(document.as_bytes(), None).unwrap();
        let Document::App(app) = parsed.document else { panic!("an app") };
        let allowances = Allowances::default();
        let incoming = Incoming {
            source: crate::status::Source::Mqtt,
            payload: document.as_bytes(),
            force: false,
            allowances: &allowances,
        };
        let verdict = intake::app(None, &parsed.name, *app, parsed.warnings, incoming);
        let Verdict::Changed(record) = verdict else { panic!("{verdict:?}") };
        *record
    }

    fn read(record: &AppRecord, known: Option<Rules>) -> Option<Rules> {
        Rules::of(record, &record.revisions[0], known)
    }

    fn token(rules: &Rules) -> &str {
        let [(name, polled)] = &*rules.polled else { panic!("{rules:?}") };
        let Source::MetricsApi(api) = &polled.source else { panic!("{polled:?}") };
        let Credentials::Bearer(token) = &api.credentials else { panic!("{api:?}") };
        assert_eq!(name, "queue");
        &token.0
    }

    #[test]
    fn rules_are_read_once_for_each_change_of_what_they_are_read_from() {
        let mut record = record(DOCUMENT);
        let first = read(&record, None).unwrap();
        assert_eq!(token(&first), "old");
        let told = first.trouble.clone().unwrap();
        assert!(told.details.starts_with("rule broken: topic"), "{told:?}");
        let again = read(&record.clone(), Some(first.clone())).unwrap();
        assert!(Arc::ptr_eq(&first.polled, &again.polled), "nothing has changed");
        let value = Secret("new".to_owned());
        record.secrets.insert("token".to_owned(), StoredSecret { value, by_hand: false });
        let changed = read(&record, Some(again)).unwrap();
        assert_eq!(token(&changed), "new");
        // A value that the document does not list is not the app's.
        let value = Secret("y".to_owned());
        record.secrets.insert("stray".to_owned(), StoredSecret { value, by_hand: false });
        let same = read(&record, Some(changed.clone())).unwrap();
        assert!(Arc::ptr_eq(&changed.polled, &same.polled));
        let mut template = (*record.revisions[0].template).clone();
        template.scale.rules.remove(1);
        record.revisions[0].template = Arc::new(template);
        assert_eq!(read(&record, Some(same)).unwrap().trouble, None, "another template");
    }

    #[test]
    fn an_app_without_rules_that_are_sampled_has_nothing_read() {
        let (head, _) = DOCUMENT.split_once("        - name: queue").unwrap();
        let counted = format!("{head}        - name: calls\n          http: {{}}\n");
        assert!(read(&record(&counted), None).is_none());
    }
}
