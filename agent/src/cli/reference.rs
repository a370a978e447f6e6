//! The pages of the docs against the command line: what `--help` says, and that what they show can be typed.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _, Parser as _};
use expect_test::expect_file;

use super::args::Args;
use crate::config::Config;

/// Adds the help of `command` and of those below it.
fn describe(page: &mut String, command: &mut Command, name: &str) {
    let help = command.render_help().to_string();
    page.extend(["\n## ", name, "\n\n```text\n", help.trim_end(), "\n```\n"]);
    for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set()) {
        let name = format!("{name} {}", inner.get_name());
        describe(page, inner, &name);
    }
}

#[test]
fn the_page_on_the_command_line_is_its_help() {
    let mut page = String::from(
        "# The command line\n\n\
         One binary: `skerry agent` is the daemon, the rest asks it on its socket. `check`, `doctor` and `explain REASON` \
         need no agent, and `bundle` only for images.\nErrors read `error: …`, and where a fix is known, `hint: …`. `-o json` prints what stands on MQTT.\n\n\
         Exit codes: 0 done, 1 failed, 2 a wrong command line, 77 not root, 78 a wrong configuration.\n\n\
         This page is made by `UPDATE_EXPECT=1 cargo test --package skerry --lib cli::`.\n",
    );
    let mut command = Args::command();
    command.build();
    describe(&mut page, &mut command, "skerry");
    expect_file!["../../../docs/guide/cli.md"].assert_eq(&page);
}

/// The lines of every fenced block of `language` in the README and below `docs`.
fn shown(language: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = ["docs", "docs/guide", "docs/adr"].map(|dir| fs::read_dir(root.join(dir)).unwrap());
    let mut pages: Vec<_> = pages.into_iter().flatten().map(|page| page.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let fence = format!("```{language}\n");
    let mut found = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let blocks = text.split(&fence).skip(1);
        let blocks = blocks.filter_map(|part| part.split("```").next());
        found.extend(blocks.map(|block| (page.display().to_string(), block.to_owned())));
    }
    found
}

#[test]
fn every_command_that_a_page_shows_can_be_typed() {
    let mut count = 0;
    for (page, block) in shown("sh") {
        for line in block.lines().filter(|line| line.starts_with("skerry ")) {
            if let Err(error) = Args::try_parse_from(line.split_whitespace()) {
                panic!("{page}: {line}: {error}");
            }
            count += 1;
        }
    }
    assert!(10 < count, "only {count} commands were found");
}

#[test]
fn every_example_of_a_help_text_can_be_typed() {
    fn examples(command: &Command, found: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        found.extend(help.lines().filter(|line| line.starts_with("  ")).map(str::to_owned));
        for inner in command.get_subcommands() {
            examples(inner, found);
        }
    }
    let mut found = Vec::new();
    examples(&Args::command(), &mut found);
    assert!(10 < found.len(), "{found:?}");
    for line in found {
        if let Err(error) = Args::try_parse_from(line.split_whitespace()) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn every_configuration_that_a_page_shows_is_one() {
    let blocks = shown("toml");
    assert!(!blocks.is_empty(), "no configuration was found");
    for (page, block) in blocks {
        if let Err(error) = Config::parse(Path::new(&page), &block, "pi-1") {
            panic!("{}", crate::report::Chain(&error));
        }
    }
}
