//! The shape of the source: who may name whom, what every file opens with, and that the README tells the truth.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use system_tests::run;

/// Modules of the agent that implement a port or serve: none names another.
const ADAPTERS: &[&str] = &[
    "api",
    "containerd",
    "dns",
    "ingress",
    "logger",
    "mdns",
    "mqtt",
    "netlink",
    "probe",
    "sled_store",
    "watch_dir",
];
/// Modules that the adapters stand on: none names an adapter.
const PORTS: &[&str] = &[
    "clock",
    "config",
    "inbox",
    "network",
    "published",
    "reconcile",
    "report",
    "runtime",
    "store",
    "tasks",
    "wire",
];
/// Who may name whom all the same.
const EXCEPTIONS: &[(&str, &str)] = &[
    // A container's record says which log sink its shim starts, and the sink alone knows how it is called.
    ("containerd", "logger"),
];
/// Spelled in two parts, or this file would find itself.
const FORBIDDEN: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ign", "ore")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source file of the repository, with its text.
fn sources() -> Result<Vec<(String, String)>> {
    let root = root();
    let dir = root.display().to_string();
    let list =
        run("git", ["-C", &dir, "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])?;
    let read = |name: &str| Ok((name.to_owned(), fs::read_to_string(root.join(name))?));
    list.lines().filter(|name| root.join(name).exists()).map(read).collect()
}

/// The module of the agent that a file belongs to: `agent/src/mqtt/tls.rs` is of `mqtt`.
fn module(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("agent/src/")?;
    let first = rest.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// The modules that a file names by `crate::…`, in a path or in the braces of a `use`.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    for part in code.split("crate::").skip(1) {
        let names =
            part.strip_prefix('{').map_or(part, |list| list.split('}').next().unwrap_or(list));
        let whole = part.starts_with('{');
        for name in names.split(',').take(if whole { usize::MAX } else { 1 }) {
            let word: String =
                name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(word);
        }
    }
    found
}

#[test]
fn no_adapter_names_another_and_no_port_names_an_adapter() -> Result<()> {
    let mut wrong = Vec::new();
    for (file, text) in sources()? {
        // The tests of a module may put it together with others.
        let Some(module) = module(&file).filter(|_| !file.contains("tests")) else { continue };
        if !ADAPTERS.contains(&module) && !PORTS.contains(&module) {
            continue;
        }
        let others = named(&text);
        let may = |name: &str| name == module || EXCEPTIONS.contains(&(module, name));
        let bad = others.iter().filter(|name| ADAPTERS.contains(&name.as_str()) && !may(name));
        wrong.extend(bad.map(|name| format!("{file} names {name}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_module_of_the_agent_has_its_place() -> Result<()> {
    // These wire the others or speak to people, and may name what they need.
    let known = ["lib", "main", "agent", "cli"];
    for (file, _) in sources()? {
        if let Some(module) = module(&file) {
            let placed = [ADAPTERS, PORTS, &known].iter().any(|list| list.contains(&module));
            ensure!(placed, "{file}: say in tidy.rs whether {module} is a port or an adapter");
        }
    }
    Ok(())
}

#[test]
fn the_domain_is_pure() -> Result<()> {
    let manifest = fs::read_to_string(root().join("agent/domain/Cargo.toml"))?;
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
    for name in ["tokio", "hyper", "tonic", "rumqttc", "nix", "sled"] {
        ensure!(!dependencies.contains(name), "the domain depends on {name}");
    }
    for (file, text) in sources()? {
        if file.starts_with("agent/domain/src") && !file.contains("tests") {
            let impure = ["std::fs", "std::net::Tcp", "std::process", "std::thread"];
            let found = impure.iter().find(|name| text.contains(*name));
            ensure!(found.is_none(), "{file} names {}", found.unwrap_or(&""));
        }
    }
    Ok(())
}

#[test]
fn every_file_says_what_it_is_for_and_nothing_is_left_for_later() -> Result<()> {
    let files = sources()?;
    ensure!(20 < files.len(), "only {} files were found", files.len());
    for (file, text) in files {
        ensure!(text.starts_with("//!"), "{file} does not open with //!");
        for word in FORBIDDEN {
            ensure!(!text.contains(word), "{file} has a {word}");
        }
    }
    Ok(())
}

#[test]
fn every_chore_of_the_readme_exists_and_so_does_every_file() -> Result<()> {
    let root = root();
    let readme = fs::read_to_string(root.join("README.md"))?;
    let xtask = fs::read_to_string(root.join("xtask/src/main.rs"))?;
    for part in readme.split("cargo xtask ").skip(1) {
        let chore: String = part.chars().take_while(char::is_ascii_alphabetic).collect();
        ensure!(xtask.contains(&format!("\"{chore}\"")), "there is no chore {chore:?}");
    }
    let links = readme.split("](").skip(1).filter_map(|part| part.split(')').next());
    for link in links.filter(|link| !link.starts_with("http")) {
        ensure!(root.join(link).exists(), "README.md names {link}, which is not there");
    }
    for word in readme.split_whitespace().filter(|word| word.starts_with("systemd/")) {
        ensure!(root.join(word).exists(), "README.md names {word}, which is not there");
    }
    Ok(())
}

#[test]
fn the_decision_on_dependencies_has_a_line_for_each() -> Result<()> {
    let decision = fs::read_to_string(root().join("docs/adr/0002-dependencies.md"))?;
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let list = manifest.split("[workspace.dependencies]").nth(1).context("no dependencies")?;
    let list = list.split("\n[").next().unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim());
    let ours = ["domain", "skerry-proto"];
    for name in names.filter(|name| !name.starts_with('#') && !ours.contains(name)) {
        ensure!(decision.contains(name), "0002-dependencies.md has no line for {name}");
    }
    Ok(())
}
