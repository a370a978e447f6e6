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
    "pressure",
    "probe",
    "scalers",
    "sled_store",
    "watch_dir",
];
/// Modules that the adapters stand on: none names an adapter.
const PORTS: &[&str] = &[
    "broker",
    "clock",
    "config",
    "course",
    "dial",
    "drain",
    "inbox",
    "keys",
    "manager",
    "network",
    "published",
    "reconcile",
    "report",
    "runtime",
    "space",
    "store",
    "tasks",
    "trial",
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
    let known = ["lib", "main", "agent", "cli", "doctor"];
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

/// Lines of the agent's own code (no tests, no comments) that name one of `words`, by file.
fn naming(words: &[&str]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (file, text) in sources()? {
        // `testing.rs` is compiled for tests alone, and its name says so.
        if module(&file).is_none() || file.contains("test") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let hits = lines.filter(|line| words.iter().any(|word| line.contains(word)));
        found.extend(hits.map(|line| (file.clone(), line.trim().to_owned())));
    }
    Ok(found)
}

/// Fails unless `words` are named, and by `modules` alone.
#[track_caller]
fn only(modules: &[&str], words: &[&str]) -> Result<()> {
    let found = naming(words)?;
    ensure!(!found.is_empty(), "nobody names {words:?}: the check checks nothing");
    for (file, line) in found {
        let named_by = module(&file).unwrap_or_default();
        ensure!(modules.contains(&named_by), "{file} names one of {words:?}: {line}");
    }
    Ok(())
}

#[test]
fn only_those_who_serve_open_a_listening_socket() -> Result<()> {
    only(&["ingress", "dns", "api"], &["TcpListener", "UnixListener"])?;
    // `dial` makes sockets in the networks of replicas and environments, to ask from there.
    // The doctor asks who sets the clock with one, and listens to nobody else.
    only(&["ingress", "dns", "api", "dial", "doctor"], &["UdpSocket", "TcpSocket"])?;
    for (file, line) in naming(&[".listen("])? {
        ensure!(!file.starts_with("agent/src/dial"), "{file} listens: {line}");
    }
    // The samplers dial no host themselves: a document names it, and from the board it would reach too much.
    // The doctor asks whether those answer that the owner's configuration names, and no others.
    only(
        &[
            "ingress",
            "api",
            "cli",
            "doctor",
            "mqtt",
            "broker",
            "probe",
            "dial",
            "containerd",
            "dns",
        ],
        &["TcpStream::connect", "UnixStream::connect"],
    )?;
    // The library of mDNS opens its own; starting it is opening one.
    only(&["mdns"], &["ServiceDaemon"])
}

#[test]
fn each_library_of_the_outside_world_has_one_owner() -> Result<()> {
    only(&["containerd"], &["containerd_client"])?;
    only(&["containerd"], &["oci_client"])?;
    // `agent` names the words of its filter for the log.
    only(&["mqtt", "broker", "agent"], &["rumqttc"])?;
    only(&["mdns", "agent"], &["mdns_sd"])?;
    only(&["sled_store"], &["sled::"])?;
    only(&["sled_store"], &["ring::aead"])?;
    only(&["keys"], &["crypto_box"])?;
    only(&["netlink"], &["rtnetlink"])?;
    only(&["dns"], &["simple_dns"])?;
    only(&["manager"], &["listenfd"])?;
    only(&["api", "cli", "containerd", "scalers"], &["tonic"])
}

#[test]
fn the_loop_awaits_nothing_but_the_disk() -> Result<()> {
    // Short tasks of these are the ones that wait for the world.
    let acts = ["act", "clearing", "standby"].map(|name| format!("agent/src/reconcile/{name}.rs"));
    let world = ["runtime", "network", "sleep", "acquire"];
    let waits = naming(&[".await"])?;
    let ours = waits.iter().filter(|(file, _)| file.starts_with("agent/src/reconcile"));
    ensure!(20 < ours.clone().count(), "hardly anything is awaited: the check checks nothing");
    for (file, line) in ours.filter(|(file, _)| !acts.contains(file)) {
        ensure!(!world.iter().any(|word| line.contains(word)), "{file} waits: {line}");
    }
    // What waits there is a function of its own, handed to a task: no method of the loop.
    let methods = naming(&["async fn"])?;
    for (file, line) in methods.iter().filter(|(file, _)| acts.contains(file)) {
        ensure!(!line.contains("self"), "{file} has a method that waits: {line}");
    }
    Ok(())
}

#[test]
fn no_program_is_started_but_nft() -> Result<()> {
    only(&["netlink", "cli"], &["Command::new(", "process::Command"])?;
    // `skerry upgrade` is called by a person, and asks dpkg and systemctl.
    let may = ["agent/src/netlink/nft.rs", "agent/src/cli/upgrade.rs"];
    for (file, line) in naming(&["Command::new("])? {
        ensure!(may.contains(&file.as_str()), "{file} starts a program: {line}");
    }
    Ok(())
}

#[test]
fn the_map_has_a_line_for_every_module() -> Result<()> {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let mut tables = map.split("Every module of ").skip(1);
    for source in ["agent/src/", "agent/domain/src/"] {
        let table = tables.next().context("the map has two tables")?;
        let table = table.split("\n\nE").next().unwrap_or_default();
        let listed: BTreeSet<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .take_while(|name| *name != "proto")
            .collect();
        let there: BTreeSet<String> = sources()?
            .iter()
            .filter_map(|(file, _)| file.strip_prefix(source)?.split('/').next())
            .map(|name| name.strip_suffix(".rs").unwrap_or(name).to_owned())
            .collect();
        let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
        ensure!(listed == there, "{source}: the map has {listed:?}, the tree {there:?}");
    }
    Ok(())
}

#[test]
fn every_link_of_the_docs_leads_somewhere() -> Result<()> {
    let root = root();
    let dir = root.display().to_string();
    let list =
        run("git", ["-C", &dir, "ls-files", "--cached", "--others", "--exclude-standard", "*.md"])?;
    let mut count = 0;
    for page in list.lines().filter(|page| root.join(page).exists()) {
        let text = fs::read_to_string(root.join(page))?;
        let here = root.join(page);
        let here = here.parent().context("a page lies somewhere")?;
        for link in text.split("](").skip(1).filter_map(|part| part.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if link.starts_with("http") || file.is_empty() {
                continue;
            }
            ensure!(here.join(file).exists(), "{page} leads to {link}, which is not there");
            count += 1;
        }
    }
    ensure!(20 < count, "only {count} links were found");
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
