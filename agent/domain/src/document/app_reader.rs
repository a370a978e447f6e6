//! Reads the outermost mapping: which kind of document it is, what it is called, and where its parts lie.

use super::app::{AppDocument, Document, JobConfiguration, JobDocument, SkerryBlock, Template};
use super::configuration;
use super::environment::ENVIRONMENT;
use super::fields::{Fields, scalar};
use super::findings::{Finding, quoted};
use super::job;
use super::node::Node;
use super::skerry;
use super::support::Place;
use super::template;
use crate::model::{AppName, EnvironmentName};
use crate::reason::Reason;
use crate::scale;

pub(super) const APP: &str = "Microsoft.App/containerApps";
pub(super) const JOB: &str = "Microsoft.App/jobs";
/// A DNS label.
const MAX_LABEL: usize = 63;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    App,
    Job,
}

/// The document's own mapping and `properties`, where some keys may be in either.
pub(super) struct Parts<'a> {
    pub(super) top: Fields<'a>,
    pub(super) properties: Option<Fields<'a>>,
}

/// Reads a document. Whether it is refused is for the findings to say.
pub(super) fn read(mut top: Fields<'_>) -> Document {
    let properties = top.inner("properties", Place::Properties);
    let mut parts = Parts { top, properties };
    let name = parts.top.parsed::<AppName>("name");
    let tags = parts.top.pairs("tags");
    let skerry = parts.top.inner("skerry", Place::Skerry).map(skerry::read).unwrap_or_default();
    let environment = parts.environment();
    let configuration = parts.inner("configuration", Place::Configuration);
    let kind = parts.kind(configuration.as_ref());
    let document = match kind {
        Kind::App => {
            let configuration = configuration::read(
                configuration.unwrap_or_else(|| parts.none("configuration", Place::Configuration)),
            );
            let template = parts.template(&skerry, kind);
            let app = AppDocument { name, environment, tags, configuration, template, skerry };
            parts.warn_where_nothing_wakes(&app);
            Document::App(Box::new(app))
        }
        Kind::Job => {
            let given = configuration.is_some() || !skerry.absent;
            let configuration =
                configuration.unwrap_or_else(|| parts.none("configuration", Place::Configuration));
            let configuration =
                if given { job::read(configuration) } else { JobConfiguration::default() };
            let template = parts.template(&skerry, kind);
            Document::Job(Box::new(JobDocument {
                name,
                environment,
                tags,
                configuration,
                template,
                skerry,
            }))
        }
    };
    parts.check_host_names(&document);
    parts.close();
    document
}

impl<'a> Parts<'a> {
    /// A value that may stand at the top or under `properties`; the top wins, as with `az`.
    fn take(&mut self, key: &'static str) -> Option<(String, &'a Node)> {
        let below = self
            .properties
            .as_mut()
            .and_then(|properties| properties.take(key).map(|node| (properties.at(key), node)));
        let above = self.top.take(key).map(|node| (self.top.at(key), node));
        if let (Some((path, node)), Some(_)) = (&below, &above) {
            self.top.found.warning(path, node.at, Reason::InvalidValue, twice(key));
        }
        above.or(below)
    }

    /// The one of the two that gives `key`; the top wins.
    pub(super) fn holder(&mut self, key: &'static str) -> &mut Fields<'a> {
        let Self { top, properties } = self;
        top.asked(key);
        let Some(properties) = properties else { return top };
        properties.asked(key);
        if !top.has(key) {
            return properties;
        }
        if properties.has(key) {
            properties.warning(key, Reason::InvalidValue, twice(key));
        }
        top
    }

    /// Warns of every key that nobody asked for.
    pub(super) fn close(self) {
        self.top.close();
        if let Some(properties) = self.properties {
            properties.close();
        }
    }

    fn inner(&mut self, key: &'static str, place: Place) -> Option<Fields<'a>> {
        let (path, node) = self.take(key)?;
        Fields::of(node, path, place, self.top.found)
    }

    /// A part that is not given, under the path that it should have.
    fn none(&self, key: &str, place: Place) -> Fields<'a> {
        let path = self.properties.as_ref().map_or_else(
            || {
                if self.top.path.is_empty() {
                    format!("properties.{key}")
                } else {
                    format!("{}.properties.{key}", self.top.path)
                }
            },
            |properties| properties.at(key),
        );
        Fields::none(path, place, self.top.found)
    }

    /// A document that removes an app needs to say nothing else about it.
    fn template(&mut self, skerry: &SkerryBlock, kind: Kind) -> Template {
        match self.take("template") {
            Some((path, node)) => {
                let fields = Fields::of(node, path, Place::Template, self.top.found);
                if let (Some(fields), Kind::Job) = (&fields, kind) {
                    warn_of_app_keys(fields);
                }
                let mut template = fields.map(template::read).unwrap_or_default();
                template.extras = skerry.extras.clone();
                skerry::check_probes(&self.top, &template.extras, &template);
                template
            }
            None if skerry.absent => Template::default(),
            None => {
                let missing = self.none("template", Place::Template);
                let message = "template is required: it says which containers run";
                missing.found.error(missing.path, self.top.at, Reason::MissingValue, message);
                Template::default()
            }
        }
    }

    /// ACA's default for `minReplicas` is 0, which is the end of an app that nobody asks for anything (features 7).
    fn warn_where_nothing_wakes(&mut self, app: &AppDocument) {
        let wakes = app.configuration.ingress.is_some() || scale::has_source(&app.template);
        if wakes || 0 < app.template.scale.min_replicas || app.skerry.absent {
            return;
        }
        let Self { top, properties } = self;
        let holder = match properties {
            Some(properties) if !top.has("template") => properties,
            Some(_) | None => top,
        };
        let Some(node) = holder.take("template") else { return };
        let path = format!("{}.scale.minReplicas", holder.at("template"));
        let message = "at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that \
                       could wake it; 1 keeps it running";
        let at = node.position_of(&["scale", "minReplicas"]);
        holder.found.warning(path, at, Reason::NothingWakes, message);
    }

    fn kind(&mut self, configuration: Option<&Fields<'_>>) -> Kind {
        let Some(text) = self.top.name("type") else {
            const OF_JOBS: [&str; 3] = ["triggerType", "replicaTimeout", "scheduleTriggerConfig"];
            let job = configuration.is_some_and(|fields| OF_JOBS.iter().any(|key| fields.has(key)));
            return if job { Kind::Job } else { Kind::App };
        };
        if text.eq_ignore_ascii_case(JOB) {
            return Kind::Job;
        }
        if !text.eq_ignore_ascii_case(APP) {
            let message = format!("must be {APP}, {JOB} or {ENVIRONMENT}, found {}", quoted(&text));
            self.top.error("type", Reason::InvalidValue, message);
        }
        Kind::App
    }

    /// The last segment of the environment's id. The old key wins where both are given, as with `az`.
    fn environment(&mut self) -> EnvironmentName {
        let found = self.top.found;
        let mut id = |key| {
            self.take(key).and_then(|(path, node)| {
                let text =
                    scalar(found, path.clone(), node, "a text").filter(|text| !text.is_empty());
                text.map(|text| (path, node, text))
            })
        };
        let (old, new) = (id("managedEnvironmentId"), id("environmentId"));
        let Some((path, node, text)) = old.or(new) else { return EnvironmentName::default() };
        let segment = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        segment.to_ascii_lowercase().parse().unwrap_or_else(|_| {
            let message = format!(
                "{} does not end in a name that can be part of a host name; the environment is \"default\"",
                quoted(&text)
            );
            found.warning(path, node.at, Reason::InvalidValue, message);
            EnvironmentName::default()
        })
    }

    fn check_host_names(&self, document: &Document) {
        let Document::App(app) = document else { return };
        let Some(name) = &app.name else { return };
        for finding in app.check_host_names(name) {
            let below = finding.path.strip_prefix("properties.").unwrap_or(&finding.path);
            let part = below.split('.').next().unwrap_or_default();
            let path = self.top.at(if self.top.has(part) { below } else { &finding.path });
            self.top.found.error(path, None, finding.reason, finding.message);
        }
    }
}

fn twice(key: &str) -> String {
    format!("{key} is given twice; the one at the top level counts")
}

/// The template of a job has fewer keys than that of an app.
fn warn_of_app_keys(fields: &Fields<'_>) {
    for key in ["revisionSuffix", "scale", "serviceBinds"] {
        if fields.has(key) {
            fields.warning(key, Reason::Unsupported, "jobs have no such key; ignored");
        }
    }
}

impl AppDocument {
    /// Refuses host names that would not fit a DNS label. To be asked again under the name that the document was sent
    /// to, where it gives none itself.
    pub fn check_host_names(&self, app: &AppName) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut check = |path: String, host: String| {
            if MAX_LABEL < host.len() {
                let message = format!(
                    "the host name {host} has {} characters; {MAX_LABEL} are allowed",
                    host.len()
                );
                findings.push(Finding {
                    path,
                    reason: Reason::HostNameTooLong,
                    message,
                    position: None,
                });
            }
        };
        if let Some(suffix) = &self.template.revision_suffix {
            check("properties.template.revisionSuffix".to_owned(), format!("{app}--{suffix}"));
        }
        let traffic = self.configuration.ingress.iter().flat_map(|ingress| &ingress.traffic);
        for (index, entry) in traffic.enumerate() {
            if let Some(label) = &entry.label {
                let path = format!("properties.configuration.ingress.traffic[{index}].label");
                check(path, format!("{app}---{label}"));
            }
        }
        if let Some(label) = &self.configuration.target_label {
            check("properties.configuration.targetLabel".to_owned(), format!("{app}---{label}"));
        }
        findings
    }
}
