//! Which names are held on the LAN.

use std::collections::{BTreeMap, BTreeSet};

use domain::model::AppName;
use domain::zone::{AnnouncedApp, LanNames};

use super::service;

/// What became of the names that were asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Names that others hold, and what ours became: of hosts and of instances, in lower case.
    changes: BTreeMap<String, String>,
    /// Instances that were announced, by the name they were asked for.
    announced: BTreeSet<String>,
}

impl Names {
    /// A name was changed because another host holds it.
    pub(super) fn changed(&mut self, original: &str, new: &str) {
        self.changes.insert(original.to_lowercase(), new.to_owned());
    }

    /// An instance was announced, under the name that it has by now.
    pub(super) fn announced(&mut self, name: &str) {
        let original = self.changes.iter().find(|(_, new)| new.eq_ignore_ascii_case(name));
        let original =
            original.map_or_else(|| name.to_lowercase(), |(original, _)| original.clone());
        self.announced.insert(original);
    }

    /// An instance was taken back.
    pub(super) fn forget(&mut self, instance: &str) {
        self.announced.remove(instance);
    }

    /// The host names held for `apps`, without `.local`.
    pub(super) fn held(&self, apps: &BTreeMap<AppName, AnnouncedApp>) -> LanNames {
        let announced =
            apps.iter().filter(|(app, one)| self.announced.contains(&service::instance(app, one)));
        announced
            .map(|(app, _)| {
                let asked = service::host(app.as_str());
                let held = self.changes.get(&asked).unwrap_or(&asked);
                (app.clone(), held.trim_end_matches('.').trim_end_matches(".local").to_owned())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_once_it_was_announced_and_as_it_was_changed() {
        let announced = |name: &str| AnnouncedApp {
            revision: format!("{name}--1").parse().unwrap(),
            port: None,
        };
        let [one, two]: [AppName; 2] = ["one", "two"].map(|name| name.parse().unwrap());
        let apps =
            BTreeMap::from([(one.clone(), announced("one")), (two.clone(), announced("two"))]);
        let mut names = Names::default();
        names.announced("one._http._tcp.local.");
        assert_eq!(names.held(&apps), LanNames::from([(one, "one".to_owned())]));
        names.changed("two.local.", "two-2.local.");
        names.changed("two._http._tcp.local.", "two (2)._http._tcp.local.");
        names.announced("two (2)._http._tcp.local.");
        assert_eq!(names.held(&apps)[&two], "two-2");
        names.forget("one._http._tcp.local.");
        assert_eq!(names.held(&apps).len(), 1);
    }
}
