//! What can be typed.

use std::path::PathBuf;

use clap::builder::{EnumValueParser, PathBufValueParser, TypedValueParser};
use clap::{ArgGroup, Parser, Subcommand, ValueEnum};

use super::traffic::Change;
use crate::config::DEFAULT_PATH;

/// Where the agent answers when nothing else is said.
const DEFAULT_SOCKET: &str = "/run/skerry/agent.sock";

/// Runs Azure Container Apps documents on this board.
#[derive(Debug, Parser)]
#[command(name = "skerry", version, disable_help_subcommand = true)]
pub(super) struct Args {
    /// The agent's socket
    #[arg(long, global = true, value_name = "PATH", env = "SKERRY_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    pub(super) socket: PathBuf,
    /// How to print answers
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = formats(), default_value = "table")]
    pub(super) output: Output,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// As on MQTT
    Json,
    /// The same, as YAML
    Yaml,
}

/// What `-o` says: how answers are printed, and with commands that make a file, where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    Format(Format),
    File(PathBuf),
}

impl Output {
    /// How answers are printed.
    pub(super) fn format(&self) -> Format {
        match self {
            Self::Format(format) => *format,
            Self::File(_) => Format::Table,
        }
    }
}

fn formats() -> impl TypedValueParser<Value = Output> {
    EnumValueParser::<Format>::new().map(Output::Format)
}

/// For a command that makes a file: its own `-o`, in the place of the one for all.
fn file() -> impl TypedValueParser<Value = Output> {
    PathBufValueParser::new().map(Output::File)
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the agent
    Agent(AgentArgs),
    /// Check a document without an agent
    Check {
        /// YAML or JSON; `-` reads the standard input
        file: PathBuf,
    },
    /// Apply a document, or a bundle of documents with their images
    Apply {
        /// YAML or JSON, or a bundle; `-` reads the standard input
        #[arg(short, long = "filename", value_name = "FILE", required = true)]
        file: PathBuf,
        /// Take the app over from another source
        #[arg(long)]
        force: bool,
        /// Wait until the app runs, or has failed
        #[arg(long)]
        wait: bool,
    },
    /// Make one file of documents and their images, for a board that no registry reaches
    #[command(after_help = BUNDLE_HELP)]
    Bundle(BundleArgs),
    /// Remove an app
    Delete {
        app: String,
        /// Although it belongs to another source
        #[arg(long)]
        force: bool,
    },
    /// List the apps
    Apps,
    /// Show one app with its revisions and replicas
    Show { app: String },
    /// List an app's revisions, newest first
    #[command(after_help = "Example:\n  skerry revisions hello")]
    Revisions { app: String },
    /// List an app's replicas, newest first
    #[command(after_help = "Example:\n  skerry replicas hello -o json")]
    Replicas { app: String },
    /// Activate, deactivate, restart or copy a revision
    Revision {
        #[command(subcommand)]
        command: RevisionCommand,
    },
    /// Show or change which revision gets how much of an app's traffic
    #[command(after_help = TRAFFIC_HELP)]
    Traffic(TrafficArgs),
    /// Print what an app's containers wrote
    Logs(LogsArgs),
    /// Print the latest of what happened on the device
    Events {
        /// Go on with what happens
        #[arg(short, long)]
        follow: bool,
    },
    /// List the environments and their storages
    Environments,
    /// List, pull, import or export images
    Images {
        #[command(subcommand)]
        command: Option<ImagesCommand>,
    },
    /// Say why an app is not as asked for, or what a reason means
    Explain {
        /// An app, or the word of a reason; without one, all reasons
        #[arg(value_name = "APP|REASON")]
        what: Option<String>,
    },
    /// Start an app that was stopped
    Start { app: String },
    /// Stop an app and keep its definition
    Stop { app: String },
    /// Set or clear an app's scale target
    #[command(group = ArgGroup::new("target").required(true).multiple(true))]
    Scale {
        app: String,
        /// In place of the template's minReplicas
        #[arg(long, value_name = "N", group = "target")]
        min: Option<u32>,
        /// In place of the template's maxReplicas
        #[arg(long, value_name = "N", group = "target")]
        max: Option<u32>,
        /// Exactly so many, whatever the load
        #[arg(long, value_name = "N", group = "target")]
        replicas: Option<u32>,
        /// Back to what the template says
        #[arg(long, group = "target", conflicts_with_all = ["min", "max", "replicas"])]
        clear: bool,
        /// To zero now, from where the next request or event brings it back
        #[arg(long, group = "target", conflicts_with_all = ["min", "max", "replicas", "clear"])]
        to_zero: bool,
    },
    /// Set, list or remove the values of an app's secrets
    Secret {
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Show the state of the device
    Status,
    /// Look at the board, and say what to do; needs no agent
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Install a new agent; the old one comes back if the new one does not work
    #[command(after_help = UPGRADE_HELP)]
    Upgrade {
        /// The binary, or a Debian package
        file: PathBuf,
        /// Seconds that the new agent has for its first round
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        patience: u64,
    },
    /// Before a start of the agent: goes back to the one before, where a new one completes no round
    #[command(hide = true)]
    Guard,
    /// Print a completion script
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// What stands below the help of `skerry doctor`.
const DOCTOR_HELP: &str = "\
Exit code 1 where a check fails, but 0 where a bundle is written.

Examples:
  skerry doctor
  skerry doctor -o json --only broker-login --only clock-floor
  skerry doctor --bundle pi-1.tar.gz";

/// What `skerry doctor` is told.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// The agent's configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
    /// Make this check alone; may be given several times
    #[arg(long, value_name = "CHECK")]
    pub(super) only: Vec<String>,
    /// Write what a supporter needs into a new archive, with every secret taken out
    #[arg(long, value_name = "FILE.tar.gz")]
    pub(super) bundle: Option<PathBuf>,
}

/// What stands below the help of `skerry upgrade`.
const UPGRADE_HELP: &str = "\
Apps run on, and connections that come meanwhile wait. A new agent that is started three times and completes no round
gives way to the old one, also when this command is cut short. Example:
  skerry upgrade skerry_0.2.0_arm64.deb";

/// What stands below the help of `skerry traffic`.
const TRAFFIC_HELP: &str = "\
A REVISION is a name or its suffix alone. Weights that are not given keep their proportions.

Examples:
  skerry traffic hello
  skerry traffic hello latest=80 0000001=20
  skerry traffic hello blue=0000001 green=0000002
  skerry traffic hello blue=50 green=50
  skerry traffic hello blue=";

/// What stands below the help of `skerry images pull`.
const PULL_HELP: &str = "\
The agent fetches it, by its mirrors and under its rules for signatures and the line.

Example:
  skerry images pull nginx:1.27";

/// What stands below the help of `skerry images export`.
const EXPORT_HELP: &str = "\
Of an image for several platforms, the part for this board goes along.

Examples:
  skerry images export nginx:1.27 -o nginx.tar
  skerry images export nginx:1.27 hello:2 -o -";

/// What `skerry agent` is told.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct AgentArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// Stop every app and end, without running; what is desired stays stored
    #[arg(long)]
    pub drain: bool,
}

/// What stands below the help of `skerry bundle`.
const BUNDLE_HELP: &str = "\
Images come from this board's agent, or from archives. skerry apply -f FILE checks it, imports and applies it.

Examples:
  skerry bundle -f hello.yaml -o bundle.tar
  skerry bundle -f shop.yaml -f env.yaml --image redis:7 -o bundle.tar
  skerry bundle -f hello.yaml --archive hello-arm64.tar -o bundle.tar";

#[derive(Debug, clap::Args)]
pub(super) struct BundleArgs {
    /// A document, YAML or JSON; `-` reads the standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// An image beside those that the documents name
    #[arg(long = "image", value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    /// An OCI or docker archive that has some of them, taken as it is
    #[arg(long = "archive", value_name = "FILE")]
    pub(super) archives: Vec<PathBuf>,
    /// The bundle; `-` is the standard output
    #[arg(short, long, value_name = "FILE", value_parser = file(), required = true)]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    pub(super) app: String,
    /// Go on with what is written
    #[arg(short, long)]
    pub(super) follow: bool,
    /// The last lines
    #[arg(long, value_name = "N")]
    pub(super) tail: Option<u32>,
    /// Of this revision
    #[arg(long, value_name = "NAME")]
    pub(super) revision: Option<String>,
    /// Of this replica
    #[arg(long, value_name = "NAME")]
    pub(super) replica: Option<String>,
    /// Of this container
    #[arg(long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// The time before each line
    #[arg(long)]
    pub(super) timestamps: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum SecretCommand {
    /// Set a value, which the standard input gives
    Set { app: String, name: String },
    /// List the secrets, never what they say
    Ls { app: String },
    /// Remove a value
    Rm { app: String, name: String },
    /// Seal a value, which the standard input gives, so that only one device can open it
    Seal {
        /// The publicKey of the device's status; this board's where not given
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RevisionCommand {
    /// Let a revision have replicas again
    #[command(after_help = "Example:\n  skerry revision activate hello--0000001")]
    Activate { revision: String },
    /// Stop a revision's replicas and keep it
    #[command(after_help = "Example:\n  skerry revision deactivate hello--0000001")]
    Deactivate { revision: String },
    /// Make a revision's replicas anew, with images and secrets as they are now
    #[command(after_help = "Example:\n  skerry revision restart hello--0000002")]
    Restart { revision: String },
    /// Make a new revision of an old one's template
    #[command(after_help = "Example:\n  skerry revision copy hello--0000001 --suffix again")]
    Copy {
        revision: String,
        /// The new one's suffix; a number where not given
        #[arg(long)]
        suffix: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct TrafficArgs {
    pub(super) app: String,
    /// REVISION=WEIGHT, latest=WEIGHT, LABEL=WEIGHT; LABEL=REVISION moves a label, LABEL= takes it away
    #[arg(value_name = "CHANGE")]
    pub(super) changes: Vec<Change>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImagesCommand {
    /// List the images on the board
    Ls,
    /// Fetch an image from its registry; interrupted, it keeps what came
    #[command(after_help = PULL_HELP)]
    Pull {
        /// As a template would name it
        #[arg(value_name = "IMAGE")]
        reference: String,
        /// User for the registry; the standard input gives the password
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
    },
    /// Import OCI or docker archives
    Import {
        /// `*.tar`
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Write images of this board to one OCI archive
    #[command(after_help = EXPORT_HELP)]
    Export {
        /// As `skerry images ls` names them
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
        /// The archive; `-` is the standard output
        #[arg(short, long, value_name = "FILE", value_parser = file(), required = true)]
        output: Output,
    },
}
