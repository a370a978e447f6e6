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

/// What `systemd-analyze security` gives, in tenths: 100 is everything open. Lower is better; the unit says what keeps it
/// from being lower still.
const EXPOSURE: &str = "56";

#[test]
fn the_unit_is_no_more_exposed_than_its_task_wants() -> Result<()> {
    let unit = fs::read_to_string(root().join("systemd/skerry.service"))?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("skerry.service");
    let exposed = |unit: &str| {
        fs::write(&file, unit)?;
        let threshold = format!("--threshold={EXPOSURE}");
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", &threshold]).arg(&file);
        output(&mut command)
    };
    let said = exposed(&unit)?;
    let table = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.status.success(), "{table}");
    let weaker = exposed(&unit.replace("CapabilityBoundingSet=", "X-Was="))?;
    ensure!(!weaker.status.success(), "a unit with every right passed");
    Ok(())
}

#[test]
fn the_example_of_a_drop_in_passes_the_check_of_systemd() -> Result<()> {
    let unit = fs::read_to_string(root().join("systemd/skerry.service"))?;
    let example = fs::read_to_string(root().join("systemd/override.conf.example"))?;
    let active: String = example
        .lines()
        .map(|line| line.strip_prefix("#").filter(|line| !line.starts_with(' ')).unwrap_or(line))
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    ensure!(active.contains("\nLoadCredential="), "the example gives no credential: {active}");
    let (good, said) = verify(&format!("{unit}\n{active}"))?;
    ensure!(good && !said.contains("skerry.service"), "{said}");
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
    let watchdog = unit.lines().find_map(|line| line.strip_prefix("WatchdogSec="));
    ensure!(watchdog == Some("60"), "a loop that hangs is started again within a minute");
    // Network namespaces and volumes are mounted for containerd to see.
    for directive in [
        "PrivateMounts",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "BindPaths",
    ] {
        let set = unit.lines().any(|line| line.starts_with(directive));
        ensure!(!set, "{directive} gives the agent a mount namespace of its own");
    }
    // Where it has one all the same, from a drop-in, these let it go back to that of PID 1.
    let kept = unit.lines().find(|line| line.starts_with("CapabilityBoundingSet="));
    let kept = kept.context("the unit keeps every right")?;
    for capability in ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"] {
        ensure!(kept.contains(capability), "the agent needs {capability}");
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
fn the_layer_is_whole() -> Result<()> {
    let layer = root().join("yocto-layer");
    let list =
        run("git", ["-C", &layer.display().to_string(), "ls-files", "-co", "--exclude-standard"])?;
    for file in list.lines().filter(|file| file.contains(".bb")) {
        let text = fs::read_to_string(layer.join(file))?;
        for named in text.lines().filter_map(|line| line.strip_prefix("require ")) {
            // Beside the recipe, or below the layer's root.
            let named = named.replace("${BPN}", "skerry");
            let beside = layer.join(file).with_file_name(&named);
            ensure!(beside.exists() || layer.join(&named).exists(), "{file} requires {named}");
        }
    }
    let image = fs::read_to_string(layer.join("recipes-core/images/skerry-image.bb"))?;
    ensure!(image.contains("packagegroup-skerry"), "the image lacks the package group");
    // What its README tells people to set is what a recipe reads.
    let readme = fs::read_to_string(layer.join("README.md"))?;
    let board = fs::read_to_string(layer.join("recipes-skerry/skerry-board/skerry-board_1.0.bb"))?;
    for name in ["SKERRY_CONFIG", "SKERRY_APPS", "SKERRY_IMAGES"] {
        ensure!(readme.contains(&format!("\n{name} = ")), "the README does not set {name}");
        ensure!(board.contains(&format!("\n{name} ?= ")), "no recipe reads {name}");
    }
    Ok(())
}

#[test]
fn the_kernel_of_the_layer_has_what_the_doctor_looks_for() -> Result<()> {
    let fragment = root().join("yocto-layer/recipes-kernel/linux/files/skerry.cfg");
    let fragment = fs::read_to_string(fragment)?;
    for option in [
        "OVERLAY_FS",
        "VETH",
        "BRIDGE",
        "NF_TABLES",
        "NFT_MASQ",
        "NFT_REDIR",
        "NFT_NAT",
        "CGROUPS",
        "MEMCG",
        "NET_NS",
        "SECCOMP_FILTER",
    ] {
        let set = ["y", "m"].iter().any(|how| {
            let line = format!("CONFIG_{option}={how}");
            fragment.lines().any(|known| known == line)
        });
        ensure!(set, "the fragment lacks CONFIG_{option}");
    }
    Ok(())
}
