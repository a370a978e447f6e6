//! The page of the guide on the command line: what `--help` says, for every command.

use clap::{Command, CommandFactory as _};
use expect_test::expect_file;

use super::args::Args;

/// Adds the help of `command` and of those below it.
fn describe(page: &mut String, command: &mut Command, name: &str) {
    let help = command.render_help().to_string();
    page.extend(["\n## ", name, "\n\n```text\n", help.trim_end(), "\n```\n"]);
    for inner in command.get_subcommands_mut() {
        let name = format!("{name} {}", inner.get_name());
        describe(page, inner, &name);
    }
}

#[test]
fn the_page_on_the_command_line_is_its_help() {
    let mut page = String::from(
        "# The command line\n\n\
         One binary: `skerry agent` is the daemon, the rest asks it on its socket. `check` and `explain REASON` need no \
         agent.\nErrors read `error: …`, and where a fix is known, `hint: …`. `-o json` prints what stands on MQTT.\n\n\
         Exit codes: 0 done, 1 failed, 2 a wrong command line, 77 not root, 78 a wrong configuration.\n\n\
         This page is made by `UPDATE_EXPECT=1 cargo test --package skerry --lib cli::`.\n",
    );
    let mut command = Args::command();
    command.build();
    describe(&mut page, &mut command, "skerry");
    expect_file!["../../../docs/guide/cli.md"].assert_eq(&page);
}
