//! What a person reads, word for word.

mod images;
mod revisions;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::CommandFactory as _;
use domain::model::{Digest, WallTime};
use domain::reason::Reason;
use domain::replica::Trouble;
use expect_test::{Expect, expect};
use skerry_proto::v1;
use tempfile::TempDir;
use tokio::time;

use super::*;
use crate::api::tests::{FakeAgent, event};
use crate::published::DeviceState;
use crate::report::Report;

/// Longer than any machine takes, shorter than anyone waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three minutes after the apps of the fake agent last changed.
const NOW: WallTime = WallTime(Duration::from_secs(1_700_000_180));

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Runs `skerry …`; the answer is what a terminal would show: standard output, then standard error.
async fn skerry(socket: &Path, line: &str) -> String {
    let (out, err) = (Paper::default(), Paper::default());
    let mut console = console(&out, &err);
    let failed = typed(socket, line, &mut console).await.err();
    if let Some(error) = failed {
        console.fail(&error);
    }
    format!("{}{}", out.text(), err.text())
}

async fn typed(socket: &Path, line: &str, console: &mut Console) -> Result<(), CliError> {
    let socket = ["skerry", "--socket", socket.to_str().unwrap()];
    let args = Args::try_parse_from(socket.into_iter().chain(line.split(' '))).unwrap();
    commands::run(args, console).await
}

fn console(out: &Paper, err: &Paper) -> Console {
    Console { out: Box::new(out.clone()), err: Box::new(err.clone()), live: false, now: NOW }
}

async fn check(line: &str, expected: Expect) {
    let agent = FakeAgent::start();
    let text = skerry(&agent.socket, line).await;
    expected.assert_eq(&text.replace(&*agent.socket.to_string_lossy(), "SOCKET"));
    agent.stop().await;
}

#[test]
fn help_names_every_command() {
    expect![[r#"
        Runs Azure Container Apps documents on this board

        Usage: skerry [OPTIONS] <COMMAND>

        Commands:
          agent         Run the agent
          check         Check a document without an agent
          apply         Apply a document, or a bundle of documents with their images
          bundle        Make one file of documents and their images, for a board that no registry reaches
          delete        Remove an app
          apps          List the apps
          show          Show one app with its revisions and replicas
          revisions     List an app's revisions, newest first
          replicas      List an app's replicas, newest first
          revision      Activate, deactivate, restart or copy a revision
          traffic       Show or change which revision gets how much of an app's traffic
          logs          Print what an app's containers wrote
          events        Print the latest of what happened on the device
          environments  List the environments and their storages
          images        List, pull, import or export images
          explain       Say why an app is not as asked for, or what a reason means
          start         Start an app that was stopped
          stop          Stop an app and keep its definition
          scale         Set or clear an app's scale target
          secret        Set, list or remove the values of an app's secrets
          status        Show the state of the device
          doctor        Look at the board, and say what to do; needs no agent
          upgrade       Install a new agent; the old one comes back if the new one does not work
          completions   Print a completion script

        Options:
              --socket <PATH>    The agent's socket [env: SKERRY_SOCKET] [default: /run/skerry/agent.sock]
          -o, --output <FORMAT>  How to print answers [default: table] [possible values: table, json, yaml]
          -h, --help             Print help (see more with '--help')
          -V, --version          Print version
    "#]].assert_eq(&Args::command().render_help().to_string());
}

#[test]
fn the_command_line_is_sound_and_wrong_ones_are_refused() {
    Args::command().debug_assert();
    for wrong in [
        "",
        "apply",
        "scale hello",
        "scale hello --clear --min 1",
        "scale hello --min -1",
        "show",
        "images import",
        "logs hello --tail all",
        "apps -o xml",
        "revision",
        "revision hello--0000001",
        "revision restart",
        "revision restart hello--0000001 --suffix again",
        "traffic",
        "traffic hello 20",
        "traffic hello =20",
    ] {
        let args = ["skerry"].into_iter().chain(wrong.split(' ').filter(|word| !word.is_empty()));
        assert!(Args::try_parse_from(args).is_err(), "{wrong}");
    }
}

#[test]
fn the_agent_is_handed_on_with_what_it_was_told() {
    let args = ["skerry", "agent", "--config", "/tmp/agent.toml", "--drain"].map(OsString::from);
    let Invocation::Agent(agent) = start(args) else { panic!("the agent was asked for") };
    assert_eq!(agent, AgentArgs { config: "/tmp/agent.toml".into(), drain: true });
    let Invocation::Agent(agent) = start(["skerry", "agent"].map(OsString::from)) else {
        panic!("the agent was asked for")
    };
    assert_eq!(agent.config, Path::new("/etc/skerry/agent.toml"));
}

#[test]
fn exit_codes_tell_a_wrong_command_line_from_a_failure() {
    let code = |args: &[&str]| {
        let Invocation::Done(code) = start(args.iter().map(OsString::from)) else {
            panic!("no agent was asked for")
        };
        code
    };
    assert_eq!(code(&["skerry", "--version"]), ExitCode::SUCCESS);
    assert_eq!(code(&["skerry", "explain", "OOMKilled"]), ExitCode::SUCCESS);
    assert_eq!(code(&["skerry", "no-such-command"]), ExitCode::from(2));
    assert_eq!(code(&["skerry", "--socket", "/nowhere/agent.sock", "apps"]), ExitCode::FAILURE);
}

#[tokio::test]
async fn a_broken_document_does_not_pass_the_check() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("app.yaml");
    fs::write(&file, "name: [hello").unwrap();
    let text = skerry(Path::new("/nowhere"), &format!("check {}", file.display())).await;
    let expected = format!("error: {} is not a document that the agent would take", file.display());
    assert_eq!(text.lines().last(), Some(expected.as_str()), "{text}");
}

#[tokio::test]
async fn apps_stand_in_columns() {
    check("apps", expect![[r#"
        APP     STATUS        READY   REVISION   HOST                          SOURCE   UPDATED   REASON
        hello   Progressing   2/3     0000002    hello.local                   mqtt     3m        ProbeFailed
        shop    Stopped       0/0     -          hello.default.pi-1.internal   file     3m        -
    "#]]).await;
}

#[tokio::test]
async fn an_app_is_a_tree_with_reasons_and_hints_where_they_belong() {
    check(
        "show hello",
        expect![[r#"
            hello  Progressing, generation 3, by mqtt, 3m ago
              http://hello.local
              http://hello.default.pi-1.internal
            ├─ hello--0000002  Activating  0/1 ready  0 % traffic  Starting
            │  image docker.io/library/hello:2@sha256:4567
            │  ProbeFailed: GET :8080/ answered 500
            │  hint: Read the details: the probe and what it got
            │  └─ hello--0000002-abcde  NotRunning  not ready  10.213.0.7  3 restarts
            │     CrashLoopBackOff: container main exited with code 1  [2J
            │     hint: See `skerry logs hello`; the wait ends by itself
            └─ hello--0000001  Running  2/2 ready  100 % traffic  Committed  label blue
               image docker.io/library/hello:1@sha256:0123
               ├─ hello--0000001-klmno  Running  ready  10.213.0.6
               └─ hello--0000001-fghij  Running  ready  10.213.0.5
            warning: location: ignored (NoMeaningHere)
        "#]],
    )
    .await;
}

#[tokio::test]
async fn environments_stand_in_columns_with_their_storages() {
    check(
        "environments",
        expect![[r#"
        ENVIRONMENT   APPS   STORAGES   SOURCE   UPDATED   REASON
        default       2      data,etc   mqtt     3m        StorageNotAllowed
    "#]],
    )
    .await;
    check(
        "environments -o yaml",
        expect![[r#"
        - environment: default
          generation: "1"
          digest: ""
          source: mqtt
          storages:
          - name: data
            reason: ""
            details: /srv/data
          - name: etc
            reason: StorageNotAllowed
            details: /etc
          apps: 2
          warnings: []
          error:
            path: ""
            reason: ""
            message: ""
          updatedTime: "2023-11-14T22:13:20Z"
    "#]],
    )
    .await;
}

#[tokio::test]
async fn json_is_what_stands_on_mqtt() {
    let agent = FakeAgent::start();
    let text = skerry(&agent.socket, "show hello -o json").await;
    let status: v1::AppStatus = serde_json::from_str(&text).unwrap();
    let published = Arc::clone(&agent.publisher.statuses.subscribe().borrow());
    let expected = crate::wire::app(&published.apps["hello"]);
    assert_eq!(status, expected);
    assert_eq!(text.trim_end(), serde_json::to_string_pretty(&expected).unwrap());
    let text = skerry(&agent.socket, "show hello -o yaml").await;
    assert_eq!(serde_saphyr::from_str::<v1::AppStatus>(&text).unwrap(), expected);
    agent.stop().await;
}

#[tokio::test]
async fn an_explanation_says_what_is_wrong_and_what_to_do() {
    check("explain hello", expect![[r#"
        hello is Progressing, 2 of 3 replicas ready, 100 % of the traffic on hello--0000001; hello--0000002 is starting (ProbeFailed)
        hello--0000002: ProbeFailed: A probe does not succeed. (GET :8080/ answered 500)
        hint: Read the details: the probe and what it got
        hello--0000002-abcde: CrashLoopBackOff: The container exits again and again; the next start waits. (container main exited with code 1  [2J)
        hint: See `skerry logs hello`; the wait ends by itself
    "#]]).await;
    check(
        "explain shop",
        expect![[r#"
            shop is Stopped, no replica
            shop: AppStopped: The app is stopped.
            hint: Start it: skerry start shop
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_reason_is_explained_without_an_agent() {
    let nowhere = Path::new("/nowhere/agent.sock");
    expect![[r#"
        The container used more memory than its limit.
        Raise resources.memory, or find the leak.
    "#]]
    .assert_eq(&skerry(nowhere, "explain OOMKilled").await);
    expect![[r#"
        error: "OomKilld" is not a reason
        hint: did you mean OOMKilled?
    "#]]
    .assert_eq(&skerry(nowhere, "explain OomKilld").await);
    expect![[r#"
        error: "Whatever" is not a reason
        hint: skerry explain lists them
    "#]]
    .assert_eq(&skerry(nowhere, "explain Whatever").await);
    check(
        "explain oomkilled",
        expect![[r#"
        The container used more memory than its limit.
        Raise resources.memory, or find the leak.
    "#]],
    )
    .await;
    check(
        "explain hello--0000001",
        expect![[r#"
        error: there is no app "hello--0000001" (UnknownApp)
        hint: did you mean "hello"?
    "#]],
    )
    .await;
    let all = skerry(nowhere, "explain").await;
    assert_eq!(all.lines().count(), 3 * Reason::ALL.len());
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_said_with_a_hint() {
    let nowhere = Path::new("/nowhere/agent.sock");
    expect![[r#"
        error: cannot reach the agent at /nowhere/agent.sock: No such file or directory (os error 2)
        hint: is the agent running, and is --socket its socket?
    "#]]
    .assert_eq(&skerry(nowhere, "apps").await);
    let path = || "/run/skerry/agent.sock".into();
    let unreachable = |kind: io::ErrorKind| {
        let error = CliError::Unreachable { socket: path(), source: kind.into() };
        Report(&error).to_string()
    };
    expect![[r#"
        error: cannot reach the agent at /run/skerry/agent.sock: connection refused
        hint: is skerry.service running? systemctl status skerry"#]]
    .assert_eq(&unreachable(io::ErrorKind::ConnectionRefused));
    expect![[r#"
        error: cannot reach the agent at /run/skerry/agent.sock: permission denied
        hint: join the group skerry, or use sudo"#]]
    .assert_eq(&unreachable(io::ErrorKind::PermissionDenied));
}

#[tokio::test]
async fn an_unknown_app_is_answered_with_its_neighbour() {
    check(
        "show helo",
        expect![[r#"
        error: there is no app "helo" (UnknownApp)
        hint: did you mean "hello"?
    "#]],
    )
    .await;
    check(
        "delete nothing-like-it",
        expect![[r#"
        error: there is no app "nothing-like-it" (UnknownApp)
        hint: See `skerry apps` for those there are
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_document_is_applied_with_its_warnings_or_refused_with_every_finding() {
    let agent = FakeAgent::start();
    let file = agent.dir.path().join("app.yaml");
    let line = format!("apply -f {}", file.display());
    fs::write(&file, "name: hello").unwrap();
    expect![[r#"
        app "hello" accepted
        warning: location: ignored (NoMeaningHere)
    "#]]
    .assert_eq(&skerry(&agent.socket, &line).await);
    expect![[r#"
        {
          "name": "hello",
          "changed": true,
          "warnings": [
            {
              "path": "location",
              "reason": "NoMeaningHere",
              "message": "ignored"
            }
          ],
          "kind": "app"
        }
    "#]]
    .assert_eq(&skerry(&agent.socket, &format!("{line} --force -o json")).await);
    fs::write(&file, "{}").unwrap();
    expect![[r#"
        error: refused, for 2 reasons
          name: the app has no name (MissingValue)
          properties.template: no template (MissingValue)
        hint: Add the key that the path names
    "#]]
    .assert_eq(&skerry(&agent.socket, &line).await);
    fs::remove_file(&file).unwrap();
    let text = skerry(&agent.socket, &line).await;
    expect![[r#"
        error: cannot read FILE: No such file or directory (os error 2)
    "#]]
    .assert_eq(&text.replace(&*file.to_string_lossy(), "FILE"));
    let expected = [
        "document Local Itself \"name: hello\" force=false",
        "document Local Itself \"name: hello\" force=true",
        "document Local Itself \"{}\" force=false",
    ];
    assert_eq!(agent.asked(), expected);
    agent.stop().await;
}

#[tokio::test]
async fn apply_can_wait_until_the_app_runs() {
    let agent = FakeAgent::start();
    let file = agent.dir.path().join("app.yaml");
    fs::write(&file, "name: hello").unwrap();
    let line = format!("apply --wait -f {}", file.display());
    let waiting = skerry(&agent.socket, &line);
    let running = async {
        let mut asked = agent.asked.clone();
        asked.wait_for(|asked| !asked.is_empty()).await.unwrap();
        agent.publisher.statuses.send_modify(|statuses| {
            let hello = Arc::make_mut(statuses).apps.get_mut("hello").unwrap();
            hello.digest = Some(Digest::of(b"name: hello"));
            hello.running_status = domain::status::RunningStatus::Running;
            hello.latest_ready_revision = hello.latest_revision.clone();
        });
    };
    let (text, ()) =
        time::timeout(PATIENCE, async { tokio::join!(waiting, running) }).await.unwrap();
    expect![[r#"
        app "hello" accepted
        app "hello" runs
        warning: location: ignored (NoMeaningHere)
    "#]]
    .assert_eq(&text);
    agent.stop().await;
}

#[tokio::test]
async fn what_was_done_is_said_in_one_line() {
    let agent = FakeAgent::start();
    let mut text = String::new();
    for line in [
        "stop hello",
        "start hello",
        "scale hello --min 1 --max 3",
        "scale hello --clear",
        "delete hello --force",
    ] {
        text.push_str(&skerry(&agent.socket, line).await);
    }
    expect![[r#"
        app "hello" stopped
        app "hello" started
        scale target of app "hello" set
        scale target of app "hello" cleared
        app "hello" removed
    "#]]
    .assert_eq(&text);
    expect![[r#"
        run hello Stopped
        run hello Started
        scale hello "{\"maxReplicas\":3,\"minReplicas\":1}"
        scale hello ""
        delete Local hello force=true"#]]
    .assert_eq(&agent.asked().join("\n"));
    agent.stop().await;
}

#[tokio::test]
async fn log_lines_stand_alone_and_a_change_of_writer_beside_them() {
    check(
        "logs hello",
        expect![[r#"
        listening on :8080
        no upstream
        ==> hello--0000001-fghij proxy <==
    "#]],
    )
    .await;
    check(
        "logs hello --container main --timestamps",
        expect![[r#"
        2026-11-23T01:02:03.000000001Z listening on :8080
    "#]],
    )
    .await;
    check(
        "logs hello --container nothing",
        expect![[r#"
        no lines
    "#]],
    )
    .await;
    check("logs hello --container proxy -o json", expect![[r#"
        {"time":"2026-11-23T01:02:03.000000001Z","replica":"hello--0000001-fghij","container":"proxy","stream":"stderr","line":"no upstream"}
    "#]]).await;
}

#[tokio::test]
async fn events_stand_in_columns_or_one_a_line() {
    let agent = FakeAgent::start();
    let events = vec![event(1, "digest sha256:01"), event(2, "")];
    agent.publisher.recent.send_replace(Arc::new(events));
    expect![[r#"
        2023-11-14T22:13:21Z   RevisionCreated        hello--0000002             digest sha256:01
        2023-11-14T22:13:22Z   RevisionCreated        hello--0000002
    "#]]
    .assert_eq(&skerry(&agent.socket, "events").await);
    expect![[r#"
        {"id":"1","time":"2023-11-14T22:13:21Z","app":"hello","revision":"hello--0000002","replica":"","reason":"RevisionCreated","message":"digest sha256:01"}
        {"id":"2","time":"2023-11-14T22:13:22Z","app":"hello","revision":"hello--0000002","replica":"","reason":"RevisionCreated","message":""}
    "#]].assert_eq(&skerry(&agent.socket, "events -o json").await);
    agent.stop().await;
}

#[tokio::test]
async fn the_device_is_told_with_its_troubles() {
    let agent = FakeAgent::start();
    let details = "the chain FORWARD drops".to_owned();
    let troubles = vec![Trouble { reason: Reason::ForwardBlocked, details }];
    let device = DeviceState { troubles, ..DeviceState::default() };
    agent.publisher.device.send_replace(Arc::new(device));
    let text = skerry(&agent.socket, "status").await;
    expect![[r#"
        device         pi-1
        tags           site=berlin
        agent          0.1.0 on ARCH
        control plane  mqtts://broker:8883, connected (epoch 12)
        public key     a2V5
        apps           2, 0 running
        trouble        the chain FORWARD drops (ForwardBlocked)
        hint           Allow forwarding for the interfaces sk-*
    "#]]
    .assert_eq(&text.replace(std::env::consts::ARCH, "ARCH"));
    agent.stop().await;
}

#[tokio::test]
async fn a_reader_who_has_gone_is_no_failure() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let agent = FakeAgent::start();
    let err = Paper::default();
    let mut console = Console { out: Box::new(Gone), ..console(&Paper::default(), &err) };
    let error = typed(&agent.socket, "logs hello -f", &mut console).await.unwrap_err();
    assert_eq!(console.fail(&error), ExitCode::SUCCESS);
    assert_eq!(err.text(), "");
    agent.stop().await;
}

#[tokio::test]
async fn a_socket_that_speaks_something_else_is_no_agent() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("other.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let other = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail ready\r\n").await.unwrap();
        stream
    };
    let asking = skerry(&socket, "apps");
    let (text, _) = time::timeout(PATIENCE, async { tokio::join!(asking, other) }).await.unwrap();
    assert!(text.starts_with("error: "), "{text}");
}

#[test]
fn a_completion_script_names_the_commands() {
    let out = Paper::default();
    let args = Args::try_parse_from(["skerry", "completions", "bash"]).unwrap();
    let mut console = console(&out, &Paper::default());
    single_threaded().unwrap().block_on(commands::run(args, &mut console)).unwrap();
    for word in ["revisions", "deactivate", "copy", "--suffix", "traffic"] {
        assert!(out.text().contains(word), "{word}: {}", out.text());
    }
}
