//! The topics of one device: those that go up by name, those that come down by reading them.

use std::str;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Filter;

/// The topics below `{topic_prefix}/{device}`.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    root: String,
}

/// What a message that came down is about. Names are as received; whether they are names is the loop's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Downward {
    /// `apps/{app}/desired`
    App(String),
    /// `apps/{app}/scale`
    Scale(String),
    /// `jobs/{job}/desired`
    Job(String),
    /// `environments/{environment}/desired`
    Environment(String),
}

impl Topics {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.to_owned() }
    }

    /// What is subscribed to. Retain Handling 0, a filter's default: with each subscription, also one of the same
    /// filters, every retained document comes (MQTT 5, 3.3.1.3).
    pub(super) fn filters(&self) -> [Filter; 4] {
        ["apps/+/desired", "apps/+/scale", "jobs/+/desired", "environments/+/desired"]
            .map(|rest| Filter::new(format!("{}/{rest}", self.root), QoS::AtLeastOnce))
    }

    /// Reads a topic that came down; `None` where it is none of ours.
    pub(super) fn read(&self, topic: &[u8]) -> Option<Downward> {
        let rest =
            str::from_utf8(topic).ok()?.strip_prefix(self.root.as_str())?.strip_prefix('/')?;
        let mut levels = rest.split('/');
        let (kind, name, verb) = (levels.next()?, levels.next()?, levels.next()?);
        if levels.next().is_some() {
            return None;
        }
        match (kind, verb) {
            ("apps", "desired") => Some(Downward::App(name.to_owned())),
            ("apps", "scale") => Some(Downward::Scale(name.to_owned())),
            ("jobs", "desired") => Some(Downward::Job(name.to_owned())),
            ("environments", "desired") => Some(Downward::Environment(name.to_owned())),
            _ => None,
        }
    }

    /// `P/status`
    pub(super) fn device(&self) -> String {
        format!("{}/status", self.root)
    }

    /// `P/hello`
    pub(super) fn hello(&self) -> String {
        format!("{}/hello", self.root)
    }

    /// `P/events`
    pub(super) fn events(&self) -> String {
        format!("{}/events", self.root)
    }

    /// `P/apps/{app}/status`; `None` where the name cannot be a level of a topic.
    pub(super) fn app(&self, name: &str) -> Option<String> {
        is_level(name).then(|| format!("{}/apps/{name}/status", self.root))
    }

    /// `P/jobs/{job}/status`
    pub(super) fn job(&self, name: &str) -> Option<String> {
        is_level(name).then(|| format!("{}/jobs/{name}/status", self.root))
    }

    /// `P/environments/{environment}/status`
    pub(super) fn environment(&self, name: &str) -> Option<String> {
        is_level(name).then(|| format!("{}/environments/{name}/status", self.root))
    }
}

/// It can stand between two slashes. 60,000 because a whole topic has 65,535 bytes at most.
fn is_level(name: &str) -> bool {
    name.len() <= 60_000 && !name.contains(['/', '+', '#', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(topic: &[u8], expected: Option<&Downward>) {
        assert_eq!(Topics::new("skerry/v1/pi").read(topic).as_ref(), expected);
    }

    #[test]
    fn topics_that_come_down_are_read() {
        check(b"skerry/v1/pi/apps/hello/desired", Some(&Downward::App("hello".to_owned())));
        check(b"skerry/v1/pi/apps/hello/scale", Some(&Downward::Scale("hello".to_owned())));
        check(b"skerry/v1/pi/jobs/nightly/desired", Some(&Downward::Job("nightly".to_owned())));
        let shop = Downward::Environment("shop".to_owned());
        check(b"skerry/v1/pi/environments/shop/desired", Some(&shop));
        check("skerry/v1/pi/apps/Ä B/desired".as_bytes(), Some(&Downward::App("Ä B".to_owned())));
        check(b"skerry/v1/pi/apps//desired", Some(&Downward::App(String::new())));
    }

    #[test]
    fn other_topics_are_none_of_ours() {
        for topic in [
            "",
            "skerry/v1/pi",
            "skerry/v1/pi2/apps/a/desired",
            "skerry/v1/pi/apps/a",
            "skerry/v1/pi/apps/a/b/desired",
            "skerry/v1/pi/jobs/a/scale",
        ] {
            check(topic.as_bytes(), None);
        }
        check(b"skerry/v1/pi/apps/\xff/desired", None);
    }

    #[test]
    fn a_name_that_cannot_be_a_level_has_no_topic() {
        let topics = Topics::new("p/d");
        assert_eq!(topics.app("hello").as_deref(), Some("p/d/apps/hello/status"));
        assert_eq!(topics.app("a/b"), None);
        assert_eq!(topics.job("#"), None);
        assert_eq!(topics.environment("a").as_deref(), Some("p/d/environments/a/status"));
    }
}
