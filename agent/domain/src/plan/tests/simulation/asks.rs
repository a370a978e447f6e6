//! What people ask for: documents, and what becomes of the images that they name.

use std::sync::LazyLock;

use super::elastic::Elastic;
use crate::document::{
    AppDocument, Device, Document, RevisionsMode, Standby, UpdateStrategy, UpdateWindow,
};
use crate::intake;
use crate::model::{AppName, EnvironmentName};

/// What becomes of a container that is made of an image. The image's name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Ready in a moment, and well from then on.
    Good,
    /// Ready after a while.
    Slow,
    /// Not in its registry until later.
    Late,
    /// In no registry.
    Missing,
    /// Ends soon after each start.
    Crashes,
    /// Runs, and is never ready.
    Deaf,
    /// Ready, and condemned by its liveness probe some time after each start.
    Ailing,
    /// Ready, and no more after a few seconds.
    Fickle,
    /// Its init container fails.
    InitFails,
    /// Its init container never ends.
    InitHangs,
}

const FATES: &[(&str, Fate)] = &[
    ("good", Fate::Good),
    ("slow", Fate::Slow),
    ("late", Fate::Late),
    ("missing", Fate::Missing),
    ("crashes", Fate::Crashes),
    ("deaf", Fate::Deaf),
    ("ailing", Fate::Ailing),
    ("fickle", Fate::Fickle),
    ("initfails", Fate::InitFails),
    ("inithangs", Fate::InitHangs),
];

impl Fate {
    pub(super) fn of(image: &str) -> Self {
        let known = FATES.iter().find(|(word, _)| image.contains(word));
        known.map_or(Self::Good, |(_, fate)| *fate)
    }

    fn word(self) -> &'static str {
        let known = FATES.iter().find(|(_, fate)| *fate == self);
        known.map_or("good", |(word, _)| word)
    }

    /// Left alone, a revision of it becomes ready and stays so.
    pub(super) fn is_well(self) -> bool {
        matches!(self, Self::Good | Self::Slow | Self::Late)
    }
}

/// A document, as far as the simulation varies it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a document has them too")]
pub(super) struct Ask {
    pub(super) fate: Fate,
    /// Another one is another template.
    pub(super) build: u8,
    pub(super) replicas: u32,
    /// It scales by rules, in place of that number.
    pub(super) elastic: Option<Elastic>,
    /// Part of the configuration.
    pub(super) standby: Standby,
    pub(super) sidecar: bool,
    pub(super) grace: Option<u32>,
    pub(super) device: Option<u8>,
    /// 0 is no ingress. Part of the configuration.
    pub(super) port: u16,
    pub(super) mode: RevisionsMode,
    pub(super) recreate: bool,
    /// In the second environment.
    pub(super) lab: bool,
    pub(super) deadline: u32,
    pub(super) probation: u32,
    /// A switch waits for a window that opens every ten minutes for two.
    pub(super) window: bool,
    pub(super) force: bool,
    pub(super) absent: bool,
}

/// The devices that documents ask for.
pub(super) fn device(number: u8) -> String {
    format!("/dev/ttyUSB{number}")
}

pub(super) fn app_name(number: usize) -> AppName {
    ["one", "two", "three"][number % 3].parse().expect("a good name")
}

/// Parsed once: a document is read in more time than a whole round takes.
static FORM: LazyLock<AppDocument> = LazyLock::new(|| {
    let text = "properties:\n  configuration:\n    ingress: {external: true, targetPort: 80}\n  template:\n    \
                containers: [{name: main, image: a/main}, {name: side, image: a/side}]\n";
    let parsed = intake::take_apart(text.as_bytes(), Some("form")).expect("a good document");
    match parsed.document {
        Document::App(app) => *app,
        Document::Job(_) | Document::Environment(_) => unreachable!("the form is an app's"),
    }
});

impl Ask {
    /// The bytes that stand for it: the same for the same.
    pub(super) fn payload(&self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }

    pub(super) fn document(&self, app: &AppName) -> AppDocument {
        let mut document = FORM.clone();
        document.name = Some(app.clone());
        if self.lab {
            document.environment = "lab".parse::<EnvironmentName>().expect("a good name");
        }
        document.configuration.active_revisions_mode = self.mode;
        match &mut document.configuration.ingress {
            Some(ingress) if self.port != 0 => ingress.target_port = self.port,
            ingress => *ingress = None,
        }
        let template = &mut document.template;
        template.containers[0].image = format!("a/{}:{}", self.fate.word(), self.build);
        if !self.sidecar {
            template.containers.truncate(1);
        }
        template.scale.min_replicas = self.replicas;
        if let Some(elastic) = &self.elastic {
            template.scale = elastic.scale();
        }
        template.termination_grace_period_secs = self.grace;
        let devices = self.device.map(|number| Device {
            host_path: device(number),
            container_path: device(number),
            permissions: "rw".to_owned(),
        });
        template.extras.devices = devices.into_iter().collect();
        let block = &mut document.skerry;
        block.extras = template.extras.clone();
        block.absent = self.absent;
        block.standby = self.standby;
        block.force = self.force;
        block.ready_deadline_secs = self.deadline;
        block.probation_secs = self.probation;
        block.update_window = self.window.then(|| UpdateWindow {
            cron: "*/10 * * * *".to_owned(),
            duration_minutes: 2,
            time_zone: "UTC".to_owned(),
        });
        if self.recreate {
            block.update_strategy = UpdateStrategy::Recreate;
        }
        document
    }
}
