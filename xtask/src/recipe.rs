//! The layer for the Yocto Project: the crates that bitbake fetches, and a check of the recipes.
//!
//! A build step of bitbake has no network, so each crate is named with its checksum.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::install::install_all;
use crate::{finish, target_dir};

/// What knows the style of recipes, and its version: another one has other opinions.
const LINTER: &str = "oelint-adv==9.11.2";

/// Checks the recipes for each long-term release. The linter is in no package of Debian: it comes from `PyPI`, to a folder of
/// its own.
pub(crate) fn lint(root: &Path) -> Result<()> {
    let dir = target_dir()?.join("oelint");
    let installed = fs::read_to_string(dir.join("installed")).unwrap_or_default();
    if installed != LINTER {
        install_all(&[("python3", "python3")])?;
        let venv = Command::new("python3").args(["-c", "import ensurepip, venv"]).output()?;
        if !venv.status.success() {
            install_all(&[("/usr/share/doc/python3-venv", "python3-venv")])?;
        }
        finish(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
        finish(Command::new(dir.join("bin/pip")).args(["install", "--quiet", LINTER]))?;
        fs::write(dir.join("installed"), LINTER)?;
    }
    let mut recipes = Vec::new();
    find(&root.join("yocto-layer"), &mut recipes)?;
    for release in ["scarthgap", "wrynose"] {
        let mut linter = Command::new(dir.join("bin/oelint-adv"));
        // It would ask each HOMEPAGE whether it is there.
        linter.args(["--quiet", "--hide", "info", "--suppress", "oelint.vars.homepageping"]);
        finish(linter.args(["--release", release]).args(&recipes))?;
    }
    Ok(())
}

/// Recipes, and what is appended to recipes, below `dir`.
fn find(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "bb" || end == "bbappend") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

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
