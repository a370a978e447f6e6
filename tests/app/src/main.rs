//! The app that the system tests and the demo deploy: one static binary that shows what its surroundings are and
//! misbehaves on demand. It is not part of what is shipped.
//!
//! | variable | what it does |
//! |---|---|
//! | `PORT`, `PORTS` | where it listens, 8080 if neither is given; `PORTS` is a list: `8080,8081` |
//! | `ECHO_PORTS` | where it speaks TCP without HTTP, none if not given |
//! | `VERSION` | told by `/`, so that a test sees which revision answered |
//! | `HEALTHY` | paths of probes that answer 200: `/healthz,/readyz` |
//! | `START_DELAY_MS` | waits before it listens |
//! | `READY_AFTER_MS` | `/ready` answers 503 until then |
//! | `IGNORE_TERM` | does not heed SIGTERM |
//! | `QUICK_TERM` | ends at SIGTERM, whatever is open |
//! | `FLOOD` | writes log lines as fast as it can |
//! | `EXIT_AFTER_MS`, `EXIT_CODE` | ends by itself |
//!
//! It counts what it served: `/served` tells, and so does its last log line.

mod answer;
mod call;
mod dns;
mod echo;
mod query;
mod tally;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use crate::answer::App;
use crate::tally::Tally;

/// Exit codes that requests ask for; more than one at a time makes no difference.
const EXITS: usize = 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<ExitCode> {
    let (exit, mut exits) = mpsc::channel(EXITS);
    let mut term = signal(SignalKind::terminate())?;
    time::sleep(millis("START_DELAY_MS").unwrap_or_default()).await;
    let ready_at = Instant::now() + millis("READY_AFTER_MS").unwrap_or_default();
    let tally = Tally::default();
    let app = App { ready_at, exit, tally: tally.clone() };
    let mut servers = JoinSet::new();
    let (stop, _) = tokio::sync::watch::channel(false);
    for port in listed("ECHO_PORTS") {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        servers.spawn(echo::serve(listener, stop.subscribe()));
    }
    for port in ports() {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        servers.spawn(serve(listener, app.clone(), stop.subscribe()));
    }
    say(&format!("listening on {:?}", ports()));
    if env::var_os("FLOOD").is_some() {
        std::thread::spawn(flood);
    }
    let ends_at = millis("EXIT_AFTER_MS");
    loop {
        tokio::select! {
            _ = term.recv() => {
                say("got SIGTERM");
                if env::var_os("IGNORE_TERM").is_none() {
                    break;
                }
            }
            code = exits.recv() => return Ok(ExitCode::from(code.unwrap_or(0))),
            () = time::sleep(ends_at.unwrap_or_default()), if ends_at.is_some() => {
                let code = env::var("EXIT_CODE").ok().and_then(|code| code.parse().ok());
                return Ok(ExitCode::from(code.unwrap_or(0)));
            }
        }
    }
    stop.send_replace(true);
    if env::var_os("QUICK_TERM").is_none() {
        while servers.join_next().await.is_some() {}
    }
    say("finished");
    say(&format!("served {}", Value::Object(tally.json())));
    Ok(ExitCode::SUCCESS)
}

/// Accepts until told to stop, then waits for the requests under way.
async fn serve(listener: TcpListener, app: App, mut stop: tokio::sync::watch::Receiver<bool>) {
    let open = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            Some(_) = connections.join_next() => continue,
            _ = stop.changed() => break,
        };
        let app = app.clone();
        let service = service_fn(move |request| {
            let app = app.clone();
            async move { app.answer(request).await }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = open.watch(connection);
        connections.spawn(async move {
            // A client that goes away is no business of ours.
            drop(connection.await);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// Log lines without end.
fn flood() {
    for n in 0_u64.. {
        say(&format!("flood {n} {:.<80}", ""));
    }
}

/// A line on standard output. Nobody reading it is no reason to fail.
fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

fn ports() -> Vec<u16> {
    let name = if env::var_os("PORTS").is_some() { "PORTS" } else { "PORT" };
    let ports = listed(name);
    if ports.is_empty() { vec![8080] } else { ports }
}

fn listed(name: &str) -> Vec<u16> {
    let list = env::var(name).unwrap_or_default();
    list.split(',').filter_map(|port| port.trim().parse().ok()).collect()
}

fn millis(name: &str) -> Option<Duration> {
    env::var(name).ok()?.parse().ok().map(Duration::from_millis)
}
