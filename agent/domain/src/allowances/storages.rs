//! Storages that an environment document may name.
//!
//! An entry is a path: it and what lies below it may be named, and `*` stands for any characters between two slashes.
//! `LABEL=x` and the like are the paths by which the board knows such devices.

use std::borrow::Cow;

use super::Allowances;
use crate::storage::StorageSource;

/// Where the board keeps links to devices by what is written on them.
const DEVICE_TAGS: [(&str, &str); 4] = [
    ("LABEL=", "/dev/disk/by-label/"),
    ("UUID=", "/dev/disk/by-uuid/"),
    ("PARTLABEL=", "/dev/disk/by-partlabel/"),
    ("PARTUUID=", "/dev/disk/by-partuuid/"),
];

impl Allowances {
    /// Whether an environment document may name this folder or device.
    pub fn permits_storage(&self, source: &StorageSource) -> bool {
        let asked = path_of(source.text());
        let asked = parts(&asked);
        if asked.contains(&"..") {
            return false;
        }
        self.storages.iter().any(|entry| {
            let path = path_of(entry);
            let entry = parts(&path);
            path.starts_with('/')
                && entry.len() <= asked.len()
                && entry.iter().zip(&asked).all(|(pattern, part)| matches(pattern, part))
        })
    }
}

/// A device by what is written on it, as a path; a path as it is.
fn path_of(text: &str) -> Cow<'_, str> {
    let tag = DEVICE_TAGS.iter().find_map(|(tag, folder)| Some((folder, text.strip_prefix(tag)?)));
    tag.map_or(Cow::Borrowed(text), |(folder, value)| Cow::Owned(format!("{folder}{value}")))
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// `*` stands for any characters, none too. What stands between two of them is taken where it first fits, which
/// leaves the most for the rest.
fn matches(pattern: &str, part: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == part };
    let Some(mut part) = part.strip_prefix(head) else { return false };
    let mut middles: Vec<&str> = rest.split('*').collect();
    let tail = middles.pop().unwrap_or_default();
    for middle in middles {
        let Some((_, after)) = part.split_once(middle) else { return false };
        part = after;
    }
    part.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allow: &[&str], asked: &str, permitted: bool) {
        let storages = allow.iter().map(|entry| (*entry).to_owned()).collect();
        let allowances = Allowances { storages, ..Allowances::default() };
        let asked = StorageSource::Path(asked.to_owned());
        assert_eq!(allowances.permits_storage(&asked), permitted, "{allow:?} and {asked:?}");
    }

    #[test]
    fn nothing_is_permitted_that_nobody_allows() {
        check(&[], "/srv/data", false);
        check(&["/srv/other"], "/srv/data", false);
        check(&["/srv/data"], "/srv", false);
        check(&["/srv/data"], "/srv/database", false);
        check(&["", "srv", "*"], "/srv", false);
    }

    #[test]
    fn a_folder_permits_what_lies_below_it() {
        check(&["/srv/data"], "/srv/data", true);
        check(&["/srv/data/"], "/srv//data/./a/b", true);
        check(&["/srv/data"], "/srv/data/../../etc", false);
        check(&["/"], "/etc", true);
    }

    #[test]
    fn a_star_stands_for_characters_between_two_slashes() {
        check(&["/mnt/*/apps"], "/mnt/usb/apps/a", true);
        check(&["/mnt/*/apps"], "/mnt/usb/x/apps", false);
        check(&["/dev/mmcblk*p*"], "/dev/mmcblk0p3", true);
        check(&["/dev/mmcblk*p*"], "/dev/sda1", false);
        check(&["/dev/sd*1"], "/dev/sda1", true);
        check(&["/dev/sd*1"], "/dev/sda12", false);
        check(&["/srv/*"], "/srv/..", false);
        check(&["/a*a"], "/a", false);
        check(&["/*ab*ab"], "/ab", false);
    }

    #[test]
    fn a_device_is_permitted_by_what_is_written_on_it() {
        check(&["LABEL=data"], "LABEL=data", true);
        check(&["LABEL=data"], "LABEL=other", false);
        check(&["LABEL=data"], "UUID=data", false);
        check(&["UUID=*"], "UUID=12-34", true);
        check(&["/dev/disk/by-label/*"], "LABEL=data", true);
        check(&["PARTLABEL=a*"], "/dev/disk/by-partlabel/apps", true);
    }
}
