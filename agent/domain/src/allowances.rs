//! What the board's owner lets documents ask of the board: devices, capabilities, storages. Nothing, unless `agent.toml`
//! says so.

mod storages;

use crate::document::{Extras, Finding, capability};
use crate::reason::Reason;
use crate::replica::Trouble;

/// What `agent.toml` permits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowances {
    /// `[devices] allow`: patterns of paths.
    pub devices: Vec<String>,
    /// `[devices] capabilities`: names.
    pub capabilities: Vec<String>,
    /// `[storage] allow`, and the board's own folder for volumes: paths and devices.
    pub storages: Vec<String>,
}

impl Allowances {
    /// A document may ask for the device at `path`.
    pub fn permits_device(&self, path: &str) -> bool {
        self.devices.iter().any(|pattern| path_matches(pattern, path))
    }

    /// A document may add the capability, with or without `CAP_`, in capitals or not.
    pub fn permits_capability(&self, name: &str) -> bool {
        let asked = capability(name);
        asked.is_some() && self.capabilities.iter().any(|allowed| capability(allowed) == asked)
    }

    /// What of a document is asked for and not permitted, by path. To drop a capability needs nobody's leave.
    pub fn refusals(&self, extras: &Extras) -> Vec<Finding> {
        let refused = |path: String, reason: Reason, message: String| Finding {
            path,
            reason,
            message,
            position: None,
        };
        let devices = extras.devices.iter().enumerate();
        let devices = devices.filter(|(_, device)| !self.permits_device(&device.host_path));
        let devices = devices.map(|(n, device)| {
            let message = format!("{:?} is not in [devices] allow of agent.toml", device.host_path);
            refused(format!("skerry.devices[{n}].hostPath"), Reason::DeviceNotAllowed, message)
        });
        let added = extras.capabilities.add.iter().enumerate();
        let added = added.filter(|(_, name)| !self.permits_capability(name));
        let added = added.map(|(n, name)| {
            let message = format!("{name:?} is not in [devices] capabilities of agent.toml");
            let path = format!("skerry.capabilities.add[{n}]");
            refused(path, Reason::CapabilityNotAllowed, message)
        });
        devices.chain(added).collect()
    }

    /// The same of a document that was accepted once: what is permitted may have changed since, with a restart.
    pub fn still_permit(&self, extras: &Extras) -> Result<(), Trouble> {
        match self.refusals(extras).into_iter().next() {
            Some(Finding { reason, message, .. }) => Err(Trouble { reason, details: message }),
            None => Ok(()),
        }
    }
}

/// Whether `path` is one that `pattern` stands for, part by part: `*` and `?` never reach over a `/`.
fn path_matches(pattern: &str, path: &str) -> bool {
    let clear = |part: &&str| !part.is_empty() && *part != ".";
    let patterns: Vec<&str> = pattern.split('/').filter(clear).collect();
    let parts: Vec<&str> = path.split('/').filter(clear).collect();
    // A pattern for one folder must not permit what lies outside of it.
    pattern.starts_with('/')
        && path.starts_with('/')
        && !parts.contains(&"..")
        && patterns.len() == parts.len()
        && patterns.iter().zip(&parts).all(|(pattern, part)| part_matches(pattern, part))
}

/// `*` stands for any characters, `?` for one. It takes as many steps as the two are long together, times the two.
fn part_matches(pattern: &str, part: &str) -> bool {
    let (pattern, part): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), part.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how far it reaches for now.
    let mut star: Option<(usize, usize)> = None;
    while t < part.len() {
        match (pattern.get(p), star) {
            (Some('*'), _) => {
                star = Some((p, t));
                p += 1;
            }
            (Some(c), _) if *c == '?' || *c == part[t] => (p, t) = (p + 1, t + 1),
            (_, Some((at, reach))) => {
                star = Some((at, reach + 1));
                (p, t) = (at + 1, reach + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Capabilities, Device, Document};
    use crate::intake::{self, Incoming, Verdict};
    use crate::status::Source;

    fn allowing(devices: &[&str], capabilities: &[&str]) -> Allowances {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Allowances {
            devices: texts(devices),
            capabilities: texts(capabilities),
            storages: Vec::new(),
        }
    }

    #[track_caller]
    fn check(pattern: &str, path: &str, permitted: bool) {
        let found = allowing(&[pattern], &[]).permits_device(path);
        assert_eq!(found, permitted, "{pattern} for {path}");
    }

    #[test]
    fn a_pattern_permits_what_it_stands_for_and_nothing_in_other_folders() {
        check("/dev/ttyUSB*", "/dev/ttyUSB0", true);
        check("/dev/ttyUSB*", "/dev/ttyUSB", true);
        check("/dev/ttyUSB*", "/dev/ttyACM0", false);
        check("/dev/ttyUSB*", "/dev/ttyUSB0/../mem", false);
        check("/dev/gpiochip?", "/dev/gpiochip0", true);
        check("/dev/gpiochip?", "/dev/gpiochip", false);
        check("/dev/gpiochip?", "/dev/gpiochip10", false);
        check("/dev/snd/*", "/dev/snd/pcmC0D0p", true);
        check("/dev/snd/*", "/dev/snd", false);
        check("/dev/snd/*", "/dev/snd/by-id/x", false);
        check("/dev/*", "/dev/snd/x", false);
        check("/dev/*", "/dev/mem", true);
        check("/dev/*b*c", "/dev/abbbc", true);
        check("/dev/*b*c", "/dev/abbbd", false);
        check("/dev//./null", "/dev/null", true);
        check("dev/null", "/dev/null", false);
        check("", "/dev/null", false);
        check("*", "/dev", false);
    }

    #[test]
    fn a_capability_is_permitted_by_any_of_its_spellings() {
        let board = allowing(&[], &["cap_net_admin", "SYS_TIME", "nonsense"]);
        for name in ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin", "CAP_SYS_TIME"] {
            assert!(board.permits_capability(name), "{name}");
        }
        for name in ["SYS_ADMIN", "nonsense", ""] {
            assert!(!board.permits_capability(name), "{name}");
        }
    }

    #[test]
    fn a_document_that_asks_for_too_much_changes_nothing() {
        let text = "template: {containers: [{name: a, image: b}]}\n\
                    skerry: {devices: [{hostPath: /dev/mem}], capabilities: {add: [SYS_RAWIO]}}";
        let of = |board: &Allowances| {
            let parsed = intake::take_apart(text.as_bytes(), Some("hello")).unwrap();
            let Document::App(document) = parsed.document else { panic!("an app") };
            let incoming = Incoming {
                source: Source::Mqtt,
                payload: text.as_bytes(),
                force: true,
                allowances: board,
            };
            intake::app(None, &parsed.name, *document, Vec::new(), incoming)
        };
        let Verdict::Refused(found) = of(&Allowances::default()) else { panic!("not refused") };
        let reasons: Vec<_> = found.iter().map(|finding| finding.reason).collect();
        assert_eq!(reasons, [Reason::DeviceNotAllowed, Reason::CapabilityNotAllowed]);
        let open = allowing(&["/dev/mem"], &["CAP_SYS_RAWIO"]);
        assert!(matches!(of(&open), Verdict::Changed(_)));
    }

    #[test]
    fn what_is_not_permitted_is_refused_by_path() {
        let device = |path: &str| Device {
            host_path: path.to_owned(),
            container_path: path.to_owned(),
            permissions: "rw".to_owned(),
        };
        let extras = Extras {
            devices: vec![device("/dev/i2c-1"), device("/dev/mem")],
            capabilities: Capabilities {
                add: vec!["SYS_TIME".to_owned(), "SYS_ADMIN".to_owned()],
                drop: vec!["CHOWN".to_owned()],
            },
            ..Extras::default()
        };
        let board = allowing(&["/dev/i2c-*"], &["SYS_TIME"]);
        let refused = board.refusals(&extras);
        let found: Vec<_> = refused.iter().map(|one| (one.path.as_str(), one.reason)).collect();
        let expected = [
            ("skerry.devices[1].hostPath", Reason::DeviceNotAllowed),
            ("skerry.capabilities.add[1]", Reason::CapabilityNotAllowed),
        ];
        assert_eq!(found, expected);
        assert_eq!(board.still_permit(&extras).unwrap_err().reason, Reason::DeviceNotAllowed);
        let all = allowing(&["/dev/*"], &["SYS_TIME", "SYS_ADMIN"]);
        assert_eq!((all.refusals(&extras), all.still_permit(&extras)), (Vec::new(), Ok(())));
    }
}
