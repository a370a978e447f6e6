//! Documents that others wrote for Azure, sent to a board as they are, with stand-ins in place of their images.
//!
//! They are read from `aca/samples` of the folder `shared` beside the repository, or below `SKERRY_SHARED`; where they
//! are not at hand, the tests say so and do nothing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{Answer, Board, Image, LONG, Stage};

/// What becomes of a document that is sent as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It runs at this port, without anything else.
    Runs(u16),
    /// It waits for a storage of its environment, and runs at this port once there is one.
    WaitsForStorage(u16),
    /// It is refused: the reason, and the path of the first error.
    Refused(&'static str, &'static str),
    /// It is a job: read, checked and stored.
    Stored,
}

/// Number of the file, name that it is sent to, and what becomes of it.
const AS_PUBLISHED: &[(&str, &str, Fate)] = &[
    // An unquoted `{acr-name}` is no YAML.
    ("02", "flask", Fate::Refused("InvalidSyntax", "")),
    // The placeholders of a pipeline, where a name and secrets must stand.
    ("05", "bot", Fate::Refused("InvalidValue", "name")),
    ("07", "hhc-line-bot-catalog-sync", Fate::Stored),
    ("08", "hhc-line-bot-attachment-worker", Fate::Stored),
    ("09", "hhc-line-bot-periodic-assurance", Fate::Stored),
    // `<git-sha>` is no suffix, and no tag of an image.
    ("10", "aegisap", Fate::Refused("InvalidValue", "properties.template.revisionSuffix")),
    ("12", "spl-rest-api", Fate::Runs(8080)),
    ("14", "helloworld", Fate::Runs(80)),
    // The password of its registry is not told, and not asked for: the image is on the board.
    ("16", "ca-labkv-b3erju", Fate::Runs(8000)),
    // Expressions of a template, which nobody here resolves.
    ("17", "containerappshealthprobesnode", EXPRESSION),
    ("18", "containerappscalingkedacpu", EXPRESSION),
    ("23", "grpcserver", EXPRESSION),
    // Azure Files is a storage of the environment here.
    ("25", "mycontainerapp", Fate::WaitsForStorage(80)),
];

const EXPRESSION: Fate = Fate::Refused("UnresolvedExpression", "");

/// Image, ports that it listens on, paths of probes that it answers, and commands that it has.
const STAND_INS: &[(&str, &str, &str, &[&str])] = &[
    ("docker.io/yoimerdr/spl-backend-rust:1.3.0-alpine", "8080", "", &[]),
    ("mcr.microsoft.com/azuredocs/containerapps-helloworld:latest", "80", "", &[]),
    ("acrlabkvb3erju.azurecr.io/ca-labkv-b3erju:v1", "8000", "", &[]),
    ("docker.io/library/nginx:latest", "80,8080,8081", "/health,/startup", &["/bin/npm"]),
    ("acr.azurecr.io/qa-demo:1", "8080", "", &[]),
    ("acr.azurecr.io/nginx-proxy:1", "8088", "", &[]),
    ("acr.example/bot:1", "8080", "/healthz,/readyz", &[]),
    ("acr.example/aegisap-api:0a1b2c3", "8000", "/health/live,/health/ready", &[]),
    ("acr.example/cpu:1", "8080", "", &[]),
    ("acr.example/grocer:1", "50051", "", &[]),
];

fn prepare(board: &mut Board) -> Result<()> {
    for (name, ports, healthy, commands) in STAND_INS {
        let image = Image::testapp(name)?.env("PORT", ports).env("HEALTHY", healthy);
        let image = commands.iter().fold(image, |image, path| image.also_at(path));
        board.preload(&image)?;
    }
    Ok(())
}

/// The files by their numbers; nothing where they are not at hand.
#[expect(clippy::print_stdout, reason = "a test that does nothing says so")]
fn samples() -> Result<Option<Vec<(String, String)>>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("SKERRY_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("aca/samples");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("skipped: {} is not there; SKERRY_SHARED may name its parent", folder.display());
        return Ok(None);
    };
    let mut samples = Vec::new();
    for file in files {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if let Some((number, _)) = name.split_once('-') {
            samples.push((number.to_owned(), fs::read_to_string(file.path())?));
        }
    }
    samples.sort();
    Ok(Some(samples))
}

fn text<'a>(samples: &'a [(String, String)], number: &str) -> Result<&'a str> {
    let found = samples.iter().find(|(own, _)| own == number);
    found.map(|(_, text)| text.as_str()).with_context(|| format!("there is no sample {number}"))
}

/// The answer of the stand-in of `app`, asked where it is: not every app is open to the LAN.
fn ask(stage: &Stage, app: &str, port: u16, path: &str) -> Result<Answer> {
    let status = stage.control.await_running(app)?;
    let address = status["revisions"][0]["replicaList"][0]["address"].as_str();
    let address: Ipv4Addr = address.context("no address")?.parse()?;
    let client = stage.board.inside().at(SocketAddr::from((address, port)));
    client.await_status(app, path, 200)
}

/// The variables of the first container of `app`, once it runs; over the ingress, where it lets the LAN in.
fn variables(stage: &Stage, app: &str, port: u16) -> Result<Value> {
    let status = stage.control.await_running(app)?;
    let found = ask(stage, app, port, "/env")?.json();
    let host = status["fqdn"].as_str().context("no name")?;
    let seen = stage.board.lan_client().await_answer(host, "/env", |answer| {
        answer.status == if app == "bot" { 404 } else { 200 } // the one that is internal
    })?;
    ensure!(app == "bot" || seen.json() == found, "{app} is not what {host} leads to");
    Ok(found)
}

/// Gives the environment the storage that a sample waits for.
fn give_storage(stage: &Stage) -> Result<()> {
    let folder = stage.board.dir().join("state/volumes/files");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("hello"), "from the board")?;
    let storages = json!([{ "name": "myazurefiles", "path": folder }]);
    let document = json!({ "properties": { "storages": storages } }).to_string();
    stage.control.publish("environments/myenvironment/desired", document)
}

#[test]
fn every_sample_runs_as_published_or_says_what_it_lacks() -> Result<()> {
    let Some(samples) = samples()? else { return Ok(()) };
    let named: Vec<&str> = AS_PUBLISHED.iter().map(|(number, ..)| *number).collect();
    let there: Vec<&str> = samples.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(there, named, "a sample has no row, or a row no sample");
    let stage = Stage::start(prepare)?;
    let control = &stage.control;
    for (number, name, fate) in AS_PUBLISHED {
        let kind = if *fate == Fate::Stored { "jobs" } else { "apps" };
        control.publish(&format!("{kind}/{name}/desired"), text(&samples, number)?)?;
    }
    for (number, name, fate) in AS_PUBLISHED {
        let met = || match *fate {
            Fate::Runs(port) => variables(&stage, name, port).map(drop),
            Fate::WaitsForStorage(port) => {
                control.await_reason(name, "StorageMissing")?;
                give_storage(&stage)?;
                variables(&stage, name, port).map(drop)
            }
            Fate::Refused(reason, path) => {
                let status = control.await_reason(name, reason)?;
                ensure!(path.is_empty() || status["error"]["path"] == path, "{status}");
                ensure!(stage.board.pids_of(name)?.is_empty(), "it runs");
                Ok(())
            }
            Fate::Stored => {
                let topic = format!("jobs/{name}/status");
                control.await_json(&topic, LONG, |status| status["digest"] != "").map(drop)
            }
        };
        met().with_context(|| format!("sample {number}, {name}, {fate:?}"))?;
    }

    let found = variables(&stage, "mycontainerapp", 80)?;
    assert_eq!(
        (&found["HTTP_PORT"], &found["secret_name"]),
        (&"80".into(), &"thisismysecret".into())
    );
    let read = |path| -> Result<String> {
        Ok(ask(&stage, "mycontainerapp", 80, &format!("/read?path={path}"))?.text())
    };
    assert_eq!(read("/mysecrets/mysecret.txt")?, "thisismysecret");
    assert_eq!(read("/myfiles/hello")?, "from the board");
    let found = variables(&stage, "ca-labkv-b3erju", 8000)?;
    assert_eq!(found["SECRET_NAME"], "demo-secret");
    Ok(())
}

/// What is replaced by what.
type Filling = &'static [(&'static str, &'static str)];

/// Number, name, port, and what stands in place of the author's placeholders. Sample 17 wants a server of HTTPS: what
/// becomes of its probes is shown by the tests of probes.
const FILLED: &[(&str, &str, u16, Filling)] = &[
    ("02", "flask-filled", 8080, &[("{acr-name}", "acr"), ("{image-tag}", "1")]),
    (
        "05",
        "bot",
        3000,
        &[
            ("PLACEHOLDER_CONTAINER_APP_NAME", "bot"),
            ("PLACEHOLDER_BOT_IMAGE", "acr.example/bot:1"),
            ("secretRef: ", "secretRef: one # "),
            ("  configuration:", "  configuration:\n    secrets: [{name: one, value: s3}]"),
        ],
    ),
    (
        "10",
        "ca-aegisap-placeholder",
        8000,
        &[("<git-sha>", "0a1b2c3"), ("<acr-login-server>", "acr.example"), ("<env>", "Prod")],
    ),
    (
        "18",
        "containerappscalingkedacpu",
        8080,
        &[
            (CONCAT, "acr.example/cpu:1"),
            ("[parameters('azureContainerRegistryServerUrl')]", "acr.example"),
            ("[parameters('azureContainerRegistryUsername')]", "user"),
            ("[parameters('azureContainerRegistryPassword')]", "secret"),
            (
                "[resourceId('Microsoft.App/managedEnvironments/', parameters('environment_name'))]",
                "lab",
            ),
        ],
    ),
    (
        "23",
        "grocer",
        50051,
        &[
            ("[parameters('containerappname')]", "grocer"),
            ("[parameters('containerimage')]", "acr.example/grocer:1"),
            (
                "[resourceId('Microsoft.App/managedEnvironments', parameters('environmentName'))]",
                "lab",
            ),
        ],
    ),
];

/// The image of the templates.
const CONCAT: &str = "[concat(parameters('azureContainerRegistryServerUrl'), '/', \
     parameters('azureContainerRegistryImageName'), ':', parameters('azureContainerRegistryImageTag'))]";

#[test]
fn a_sample_with_placeholders_runs_once_they_are_filled_in() -> Result<()> {
    let Some(samples) = samples()? else { return Ok(()) };
    let stage = Stage::start(prepare)?;
    for (number, name, _, filling) in FILLED {
        let document = text(&samples, number)?.to_owned();
        let fill = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
        stage.control.desire(name, filling.iter().fold(document, fill))?;
    }
    for (number, name, port, _) in FILLED {
        let run = || {
            let found = variables(&stage, name, *port)?;
            Ok::<_, anyhow::Error>(found["CONTAINER_APP_NAME"] == *name)
        };
        ensure!(run().with_context(|| format!("sample {number}, {name}"))?, "{name} is another");
    }
    assert_eq!(stage.board.pids_of("flask-filled")?.len(), 2, "the app and its sidecar");
    assert_eq!(variables(&stage, "bot", 3000)?["DATABASE_URL"], "s3");
    let status = stage.control.await_running("ca-aegisap-placeholder")?;
    assert_eq!(status["latestRevisionName"], "ca-aegisap-placeholder--0a1b2c3");
    Ok(())
}
