//! What brings the agent to a board: the unit passes systemd's own check, and the files agree with each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use system_tests::{output, run};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A root for `systemd-analyze`: the host's units and ours, with something executable where the agent will be.
fn verify(unit: &str) -> Result<(bool, String)> {
    let dir = tempfile::tempdir()?;
    let units = dir.path().join("usr/lib/systemd/system");
    fs::create_dir_all(units.parent().unwrap_or(&units))?;
    fs::create_dir_all(dir.path().join("usr/bin"))?;
    run("cp", ["-a", "/usr/lib/systemd/system", &units.display().to_string()])?;
    run("cp", ["/bin/busybox", &dir.path().join("usr/bin/skerry").display().to_string()])?;
    fs::write(units.join("skerry.service"), unit)?;
    let mut command = Command::new("systemd-analyze");
    command.arg(format!("--root={}", dir.path().display())).args(["--man=no", "verify"]);
    let said = output(command.arg("skerry.service"))?;
    Ok((said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned()))
}

#[test]
fn the_unit_passes_the_check_of_systemd_and_a_broken_one_does_not() -> Result<()> {
    let unit = fs::read_to_string(root().join("systemd/skerry.service"))?;
    let (good, said) = verify(&unit)?;
    ensure!(good && !said.contains("skerry.service"), "{said}");
    let (good, said) = verify(&unit.replace("Restart=always", "Restart=sometimes"))?;
    ensure!(!good || said.contains("skerry.service"), "a broken unit passed");
    Ok(())
}

#[test]
fn the_recipe_has_every_crate_of_the_lock_file() -> Result<()> {
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let recipe = root().join("yocto-layer/recipes-skerry/skerry/skerry-crates.inc");
    let list = fs::read_to_string(recipe)?;
    let mut missing = Vec::new();
    for package in lock.split("[[package]]").filter(|text| text.contains("registry+")) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_matches([' ', '=', '"']).to_owned()
        };
        let line = format!("crate://crates.io/{}/{}", value("name"), value("version"));
        let sum = value("checksum");
        if !list.lines().any(|known| known.trim_end_matches(" \\").trim() == line)
            || !list.contains(&sum)
        {
            missing.push(line);
        }
    }
    ensure!(missing.is_empty(), "not in the recipe: {missing:?}\nhint: cargo xtask recipe");
    Ok(())
}
