//! The first steps of a machine's kernel: a busybox, the few modules that the disk needs, and seven lines of shell.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::finish;

/// What stands between the kernel and its disk; what is built into the kernel needs no module.
const NEEDED: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "virtio_console"];

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module; done
while [ ! -b /dev/vda ]; do /bin/busybox usleep 50000; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /sbin/init
";

/// Writes `initrd` into `dir`.
pub(super) fn make(modules: &Path, busybox: &Path, dir: &Path) -> Result<()> {
    let root = dir.join("initrd.d");
    for folder in ["bin", "proc", "dev", "root", "modules"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    let list = fs::read_to_string(modules.join("modules.dep")).context("depmod left no list")?;
    for (number, file) in in_order(&list).iter().enumerate() {
        let name = file.rsplit('/').next().unwrap_or(file);
        let (name, reader) = match name.strip_suffix(".xz") {
            Some(name) => (name, "xzcat"),
            None => (name, "cat"),
        };
        let unpacked = File::create(root.join(format!("modules/{number:02}-{name}")))?;
        finish(Command::new(reader).arg(modules.join(file)).stdout(unpacked))?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let names = dir.join("initrd.names");
    let list = File::create(&names)?;
    finish(Command::new("find").arg(".").current_dir(&root).stdout(list))?;
    let mut archive = Command::new("cpio");
    archive.args(["-o", "-H", "newc", "--quiet"]).current_dir(&root).stdin(File::open(&names)?);
    finish(archive.stdout(File::create(dir.join("initrd"))?))?;
    fs::remove_file(names)?;
    fs::remove_dir_all(root)?;
    Ok(())
}

/// The files of the modules that are needed, each after those it needs itself.
fn in_order(list: &str) -> Vec<String> {
    let of: BTreeMap<&str, &str> = list.lines().filter_map(|line| line.split_once(':')).collect();
    let mut files: Vec<String> = Vec::new();
    for name in NEEDED {
        let is_it = |file: &&&str| file.rsplit('/').next().is_some_and(|f| stem(f) == *name);
        let Some(file) = of.keys().find(is_it) else { continue };
        // The list names what is needed last first.
        let needs = of.get(file).into_iter().flat_map(|needs| needs.split_whitespace().rev());
        for file in needs.chain([*file]) {
            if !files.iter().any(|known| known == file) {
                files.push(file.to_owned());
            }
        }
    }
    files
}

/// The module's name by its file's: `virtio-rng.ko.xz` is `virtio_rng`.
fn stem(file: &str) -> String {
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let list = "kernel/ext4.ko.xz: kernel/mbcache.ko.xz kernel/jbd2.ko.xz\n\
                    kernel/mbcache.ko.xz:\nkernel/jbd2.ko.xz:\nkernel/virtio_blk.ko.xz: kernel/jbd2.ko.xz\n";
        let order = [
            "kernel/jbd2.ko.xz",
            "kernel/virtio_blk.ko.xz",
            "kernel/mbcache.ko.xz",
            "kernel/ext4.ko.xz",
        ];
        assert_eq!(in_order(list), order);
    }
}
