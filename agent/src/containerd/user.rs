//! Whom a container runs as: the image's `user`, resolved with the files of the image itself.

use std::fs::File;
use std::io::Read as _;

use containerd_client::types::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open};
use nix::sys::stat::Mode;

use super::within::open_within;

/// An image's `/etc/passwd` is a few lines; one that is larger is not read further.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Numbers, as runc wants them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// The image says nothing, or says root: no file has to be read.
pub(super) fn is_root(user: &str) -> bool {
    matches!(user, "" | "0" | "root" | "0:0" | "root:root" | "root:0" | "0:root")
}

/// `name`, `uid`, each with `:group` or `:gid`, looked up by `read` (`etc/passwd`, `etc/group`).
pub(super) fn resolve(user: &str, read: impl Fn(&str) -> Option<String>) -> Result<User, String> {
    if is_root(user) {
        return Ok(User::default());
    }
    let (name, group) =
        user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let passwd = read("etc/passwd").unwrap_or_default();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.first() == Some(&name) || (is_number(name) && fields.get(2) == Some(&name))
    });
    let field = |n: usize| entry.as_ref()?.get(n)?.parse().ok();
    let uid = field(2)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| format!("the image has no user {name:?}"))?;
    let groups = read("etc/group").unwrap_or_default();
    let groups: Vec<Vec<&str>> = groups.lines().map(|line| line.split(':').collect()).collect();
    let gid_of = |fields: &Vec<&str>| fields.get(2)?.parse::<u32>().ok();
    if let Some(group) = group {
        let named = groups.iter().find(|fields| fields.first() == Some(&group)).and_then(gid_of);
        let gid = named
            .or_else(|| group.parse().ok())
            .ok_or_else(|| format!("the image has no group {group:?}"))?;
        return Ok(User { uid, gid, groups: Vec::new() });
    }
    let gid = field(3).unwrap_or(0);
    let login = entry.as_ref().and_then(|fields| fields.first().copied());
    let member = |fields: &&Vec<&str>| {
        let members = fields.get(3).copied().unwrap_or_default();
        login.is_some_and(|login| members.split(',').any(|member| member == login))
    };
    let groups = groups.iter().filter(member).filter_map(gid_of).filter(|other| *other != gid);
    Ok(User { uid, gid, groups: groups.collect() })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a file of a root file system that is not mounted, from the topmost folder of `mounts` that has it.
///
/// Links in it are followed as the container would follow them, never out of it.
pub(super) fn file_of(mounts: &[Mount], path: &str) -> Option<String> {
    folders(mounts).find_map(|folder| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(folder, flags, Mode::empty()).ok()?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = File::from(open_within(&root, path, how).ok()?);
        // A removed file leaves a device in its place.
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    })
}

/// The folders of an overlay or bind mount, topmost first.
fn folders(mounts: &[Mount]) -> impl Iterator<Item = &str> {
    mounts.iter().flat_map(|mount| {
        let option = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
        let source = (mount.r#type == "bind").then_some(mount.source.as_str());
        let lower = option("lowerdir=").into_iter().flat_map(|folders| folders.split(':'));
        source.into_iter().chain(option("upperdir=")).chain(lower)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let read = |path: &str| match path {
            "etc/passwd" => {
                Some("root:x:0:0::/:\nweb:x:33:34:a:/b:/c\n1000:x:7:8::/:\n".to_owned())
            }
            "etc/group" => Some("www:x:34:web\nextra:x:50:a,web\nother:x:51:weber\n".to_owned()),
            _ => None,
        };
        let found = resolve(user, read);
        let found = found.as_ref().map(|user| (user.uid, user.gid, &*user.groups));
        assert_eq!(found.map_err(String::as_str), expected, "{user}");
    }

    #[test]
    fn users_are_resolved_as_images_mean_them() {
        check("", Ok((0, 0, &[])));
        check("root", Ok((0, 0, &[])));
        check("web", Ok((33, 34, &[50])));
        check("33", Ok((33, 34, &[50])));
        check("web:extra", Ok((33, 50, &[])));
        check("web:99", Ok((33, 99, &[])));
        check("65532", Ok((65532, 0, &[])));
        check("65532:65532", Ok((65532, 65532, &[])));
        check("1000", Ok((7, 8, &[])));
        check("nobody", Err("the image has no user \"nobody\""));
        check("web:none", Err("the image has no group \"none\""));
    }

    #[test]
    fn a_link_in_an_image_does_not_lead_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let lower = folder.path().join("lower");
        std::fs::create_dir_all(lower.join("etc")).unwrap();
        std::fs::create_dir_all(lower.join("nix")).unwrap();
        std::fs::write(lower.join("nix/passwd"), "inside").unwrap();
        std::os::unix::fs::symlink("/nix/passwd", lower.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", lower.join("etc/group")).unwrap();
        let mount = Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec!["upperdir=/nowhere".to_owned(), format!("lowerdir={}", lower.display())],
        };
        assert_eq!(file_of(std::slice::from_ref(&mount), "etc/passwd").as_deref(), Some("inside"));
        assert_eq!(file_of(&[mount], "etc/group"), None);
    }
}
