//! The crates that bitbake fetches: its build step has no network, so each is named with its checksum.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes the list beside the recipe.
pub(crate) fn write(root: &Path) -> Result<()> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let path = root.join("yocto-layer/recipes-skerry/skerry/skerry-crates.inc");
    fs::write(&path, list(&lock)).with_context(|| format!("cannot write {}", path.display()))
}

fn list(lock: &str) -> String {
    let mut sources = String::from(
        "# Made from Cargo.lock by `cargo xtask recipe`: the crates that do_compile needs, for it has no network.\n\
         SRC_URI += \"\\\n",
    );
    let mut sums = String::new();
    for package in lock.split("[[package]]").filter(|text| text.contains("\"registry+")) {
        let (name, version) = (value(package, "name"), value(package, "version"));
        let sum = value(package, "checksum");
        sources.extend(["    crate://crates.io/", name, "/", version, " \\\n"]);
        sums.extend(["SRC_URI[", name, "-", version, ".sha256sum] = \"", sum, "\"\n"]);
    }
    sources + "\"\n\n" + &sums
}

/// The value of `key = "value"`.
fn value<'a>(package: &'a str, key: &str) -> &'a str {
    let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
    line.unwrap_or_default().trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_the_registry_are_listed_and_our_own_are_not() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\nsource = \"registry+https://x\"\n\
                    checksum = \"ff\"\n\n[[package]]\nname = \"skerry\"\nversion = \"0.1.0\"\n";
        let list = list(lock);
        assert!(list.contains("    crate://crates.io/a/1.2.3 \\\n\"\n"), "{list}");
        assert!(list.contains("SRC_URI[a-1.2.3.sha256sum] = \"ff\""), "{list}");
        assert!(!list.contains("skerry/"), "{list}");
    }
}
