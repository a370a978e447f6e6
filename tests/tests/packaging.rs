//! What brings the agent to a board: the unit passes systemd's own check, and the files agree with each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
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

#[test]
fn the_unit_keeps_what_the_agent_relies_on() -> Result<()> {
    let unit = fs::read_to_string(root().join("systemd/skerry.service"))?;
    let has = |line: &str| unit.lines().any(|known| known == line);
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/skerry agent",
        "Restart=always",
        "RestartPreventExitStatus=78",
        // The log sinks are in the unit's cgroup or the shim's; they and the apps outlive the agent.
        "KillMode=process",
        "Delegate=yes",
        "RuntimeDirectoryPreserve=yes",
        "Environment=MALLOC_ARENA_MAX=2",
    ] {
        ensure!(has(line), "the unit lacks {line}");
    }
    for target in ["network-online.target", "time-sync.target"] {
        let waits = unit.lines().any(|line| !line.starts_with('#') && line.contains(target));
        ensure!(!waits, "a board that is out of reach would wait for {target}");
    }
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let stop: u32 = stop.context("the unit has no TimeoutStopSec")?.parse()?;
    ensure!(10 < stop, "open requests get 10 s to end, and the unit gives {stop} s");
    // Mounts must be seen by containerd; joining the namespace of process 1 wants all that process has.
    for directive in [
        "CapabilityBoundingSet",
        "AmbientCapabilities",
        "NoNewPrivileges",
        "PrivateMounts",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "BindPaths",
    ] {
        let set = unit.lines().any(|line| line.starts_with(directive));
        ensure!(
            !set,
            "{directive} gives the agent a mount namespace or fewer rights than it needs"
        );
    }
    Ok(())
}

#[test]
fn systemd_takes_the_files_for_groups_and_folders() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = format!("--root={}", dir.path().display());
    fs::create_dir_all(dir.path().join("etc"))?;
    for (program, file) in
        [("systemd-sysusers", "skerry.sysusers"), ("systemd-tmpfiles", "skerry.tmpfiles")]
    {
        let file = root().join("systemd").join(file);
        let mut command = Command::new(program);
        if program == "systemd-tmpfiles" {
            command.arg("--create");
        }
        let said = output(command.arg(&at).arg(&file))?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "{program} refuses {}: {text}", file.display());
    }
    let groups = fs::read_to_string(dir.path().join("etc/group"))?;
    ensure!(groups.contains("skerry:"), "there is no group skerry: {groups}");
    ensure!(dir.path().join("etc/skerry/apps.d").is_dir(), "there is no /etc/skerry/apps.d");
    Ok(())
}

#[test]
fn what_the_recipes_name_is_there() -> Result<()> {
    let layer = root().join("yocto-layer");
    let recipe = fs::read_to_string(layer.join("recipes-skerry/skerry/skerry_0.1.0.bb"))?;
    let files: Vec<&str> = recipe
        .split("file://")
        .skip(1)
        .filter_map(|part| part.split([';', ' ', '"']).next())
        .chain(recipe.split("${S}/").skip(1).filter_map(|part| part.split(' ').next()))
        .collect();
    ensure!(8 < files.len(), "the recipe names {files:?} only");
    for file in files {
        ensure!(root().join(file).exists(), "the recipe names {file}, which is not there");
    }
    // The version in the recipe's name is the package's.
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    ensure!(manifest.contains("version = \"0.1.0\""), "the recipe's name has another version");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = "));
    for member in members.context("no members")?.split('"').skip(1).step_by(2) {
        let first = member.split('/').next().unwrap_or_default();
        ensure!(recipe.contains(&format!("file://{first};")), "the recipe lacks {first}");
    }
    Ok(())
}

#[test]
fn the_linter_of_recipes_has_nothing_against_them() -> Result<()> {
    if Command::new("oelint-adv").arg("--version").output().is_err() {
        return Ok(());
    }
    let layer = root().join("yocto-layer");
    let list = run("find", [&layer.display().to_string(), "-name", "*.bb"])?;
    let mut command = Command::new("oelint-adv");
    command.args(["--quiet", "--hide", "info", "--suppress", "oelint.vars.homepageping"]);
    let said = output(command.args(list.lines()))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{text}");
    Ok(())
}
