//! Containers as documents describe them: images from where they are, limits, variables, volumes, company, restarts.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::{
    Board, Document, Image, LONG, Registry, SHORT, Shared, Stage, cgroup_file, eventually,
};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.preload(&Image::testapp("test.local/user:1")?.user("1000:1001"))?;
    board.preload(&Image::busybox("test.local/tool:1"))
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

fn app() -> Document {
    Document::new("test.local/app:1")
}

/// What `app` answers at `path`, once it answers with 200.
fn ask(stage: &Stage, app: &str, path: &str) -> Result<String> {
    Ok(stage.board.lan_client().await_status(app, path, 200)?.text())
}

#[test]
fn variables_come_from_the_document_its_secrets_and_the_platform() -> Result<()> {
    let stage = stage()?;
    let document = app()
        .env("PLAIN", "value")
        .set("/configuration/secrets", json!([{"name": "token", "value": "s3cret"}]))
        .main("/env/1", json!({"name": "TOKEN", "secretRef": "token"}));
    stage.control.desire("vars", document)?;
    let answer = stage.board.lan_client().await_status("vars", "/env", 200)?.json();
    let status = stage.control.await_running("vars")?;
    assert_eq!(answer["PLAIN"], "value");
    assert_eq!(answer["TOKEN"], "s3cret");
    assert_eq!(answer["CONTAINER_APP_NAME"], "vars");
    assert_eq!(answer["CONTAINER_APP_REVISION"], status["latestRevisionName"]);
    let replica = &status["revisions"][0]["replicaList"][0]["name"];
    assert_eq!(&answer["CONTAINER_APP_REPLICA_NAME"], replica);
    ensure!(!status.to_string().contains("s3cret"), "the status tells a secret");
    ensure!(!stage.board.agent_log().contains("s3cret"), "the log tells a secret");
    Ok(())
}

#[test]
fn limits_are_set() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("limited", app())?;
    stage.control.await_running("limited")?;
    let pids = stage.board.pids_of("limited")?;
    let pid = *pids.values().next().context("no process")?;
    assert_eq!(cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")?, "134217728");
    let quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    let quota: f64 = quota.split(' ').next().context("no quota")?.parse()?;
    let period = cgroup_file(pid, "cpu", "cpu.cfs_period_us", "cpu.max")?;
    let period: f64 = period.split(' ').next_back().context("no period")?.parse()?;
    assert!((quota / period - 0.25).abs() < 0.001, "{quota} of {period}");
    Ok(())
}

#[test]
fn a_container_that_takes_too_much_memory_is_told_and_started_again() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("greedy", app())?;
    stage.control.await_running("greedy")?;
    // It dies of it, so no answer is an answer too.
    let _ = stage.board.lan_client().get("greedy", "/eat?mb=300");
    let mark = "OOMKilled";
    eventually(mark, 3 * SHORT, || {
        let history = stage.control.history("apps/greedy/status");
        let told = history.iter().any(|status| system_tests::tells(&status.json(), mark));
        ensure!(told, "no status tells it");
        Ok(())
    })?;
    ask(&stage, "greedy", "/")?;
    Ok(())
}

#[test]
fn the_command_and_the_user_are_as_asked_for() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("user", Document::new("test.local/user:1"))?;
    let status = ask(&stage, "user", "/read?path=/proc/self/status")?;
    let ids = |name: &str| -> Option<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    assert_eq!(ids("Uid:").as_deref(), Some("1000"));
    assert_eq!(ids("Gid:").as_deref(), Some("1001"));
    assert_eq!(ids("NoNewPrivs:").as_deref(), Some("1"));

    let line = "echo from $0; exec sleep 1000";
    let document = Document::new("test.local/tool:1")
        .without_ingress()
        .main("/command", json!(["/bin/busybox", "sh"]))
        .main("/args", json!(["-c", line, "args"]));
    stage.control.desire("commanded", document)?;
    stage.control.await_running("commanded")?;
    eventually("the line in the log", SHORT, || {
        let said = stage.board.cli(["logs", "commanded"])?;
        ensure!(said.contains("from args"), "{said}");
        Ok(())
    })
}

#[test]
fn containers_of_a_replica_share_its_network_and_its_volumes() -> Result<()> {
    let stage = stage()?;
    let document = app()
        .set("/template/volumes", json!([{"name": "shared", "storageType": "EmptyDir"}]))
        .main("/volumeMounts", json!([{"volumeName": "shared", "mountPath": "/shared"}]))
        .set(
            "/template/containers/1",
            json!({
                "name": "side", "image": "test.local/app:1",
                "env": [{"name": "PORT", "value": "9090"}],
                "resources": {"cpu": 0.25, "memory": "64Mi"},
                "volumeMounts": [{"volumeName": "shared", "mountPath": "/elsewhere"}],
            }),
        )
        .set(
            "/template/initContainers",
            json!([{
                "name": "first", "image": "test.local/tool:1",
                "args": ["-c", "echo prepared > /shared/note"],
                "resources": {"cpu": 0.25, "memory": "64Mi"},
                "volumeMounts": [{"volumeName": "shared", "mountPath": "/shared"}],
            }]),
        );
    stage.control.desire("company", document)?;
    assert_eq!(ask(&stage, "company", "/read?path=/shared/note")?, "prepared\n");
    let path = "/call?url=http://127.0.0.1:9090/read%3Fpath=/elsewhere/note";
    assert_eq!(ask(&stage, "company", path)?, "prepared\n");
    assert_eq!(stage.board.pids_of("company")?.len(), 2);
    Ok(())
}

#[test]
fn an_init_container_that_fails_is_named_with_its_code_and_nothing_starts_after_it() -> Result<()> {
    let stage = stage()?;
    let init = |name: &str, script: &str| {
        json!({"name": name, "image": "test.local/tool:1", "args": ["-c", script],
               "resources": {"cpu": 0.25, "memory": "64Mi"}})
    };
    let first = init("first", "echo first was here; exit 3");
    let second = init("second", "echo second was here");
    let document = app()
        .main("/env", json!([{"name": "FLOOD", "value": "1"}]))
        .set("/template/initContainers", json!([first, second]));
    stage.control.desire("unprepared", document)?;
    let status = stage.control.await_reason("unprepared", "InitContainerFailed")?.to_string();
    ensure!(status.contains("first") && status.contains("exited with 3"), "{status}");
    // It has failed once at least by now, and what comes after it has said nothing.
    let said = eventually("its words", SHORT, || {
        let said = stage.board.cli(["logs", "unprepared"])?;
        ensure!(said.contains("first was here"), "{said}");
        Ok(said)
    })?;
    ensure!(!said.contains("second") && !said.contains("listening"), "{said}");
    Ok(())
}

#[test]
fn init_containers_run_in_order_each_to_its_end() -> Result<()> {
    let stage = stage()?;
    let init = |n: u32| {
        json!({"name": format!("step{n}"), "image": "test.local/tool:1",
               "args": ["-c", format!("busybox usleep 100000; echo {n} >> /order/steps")],
               "command": ["/bin/busybox", "sh"],
               "resources": {"cpu": 0.25, "memory": "64Mi"},
               "volumeMounts": [{"volumeName": "order", "mountPath": "/order"}]})
    };
    let document = app()
        .set("/template/volumes", json!([{"name": "order"}]))
        .main("/volumeMounts", json!([{"volumeName": "order", "mountPath": "/order"}]))
        .set("/template/initContainers", json!([init(1), init(2), init(3)]));
    stage.control.desire("steps", document)?;
    assert_eq!(ask(&stage, "steps", "/read?path=/order/steps")?, "1\n2\n3\n");
    Ok(())
}

#[test]
fn a_sidecar_that_ends_is_started_again_alone() -> Result<()> {
    let stage = stage()?;
    let document = app().set(
        "/template/containers/1",
        json!({"name": "side", "image": "test.local/app:1",
               "env": [{"name": "PORT", "value": "9090"}],
               "resources": {"cpu": 0.25, "memory": "64Mi"}}),
    );
    stage.control.desire("sidecar", document)?;
    ask(&stage, "sidecar", "/call?url=http://127.0.0.1:9090/")?;
    let before = stage.board.pids_of("sidecar")?;
    ask(&stage, "sidecar", "/call?url=http://127.0.0.1:9090/exit%3Fcode=4")?;
    let after = eventually("another process in its place", LONG, || {
        let after = stage.board.pids_of("sidecar")?;
        ensure!(after.len() == 2 && after != before, "{before:?} and still {after:?}");
        Ok(after)
    })?;
    let kept = before.iter().filter(|(id, pid)| after.get(*id) == Some(*pid)).count();
    assert_eq!(kept, 1, "{before:?} became {after:?}");
    eventually("the sidecar to answer", SHORT, || {
        ask(&stage, "sidecar", "/call?url=http://127.0.0.1:9090/").map(drop)
    })?;
    let status = stage.control.await_status("sidecar", |status| {
        status["revisions"][0]["replicaList"][0]["ready"] == true
    })?;
    assert_eq!(status["revisions"][0]["replicaList"][0]["restartCount"], 1);
    Ok(())
}

#[test]
fn names_and_name_servers_are_those_of_the_environment() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("named", app())?;
    let status = {
        ask(&stage, "named", "/")?;
        stage.control.await_running("named")?
    };
    let replica = &status["revisions"][0]["replicaList"][0];
    let hosts = ask(&stage, "named", "/read?path=/etc/hosts")?;
    let address = replica["address"].as_str().context("no address")?;
    ensure!(hosts.contains(address) && hosts.contains("localhost"), "{hosts}");
    let resolv = ask(&stage, "named", "/read?path=/etc/resolv.conf")?;
    let suffix = format!("default.{}.internal", stage.board.device());
    ensure!(resolv.contains("nameserver 10.") && resolv.contains(&suffix), "{resolv}");
    assert_eq!(ask(&stage, "named", "/read?path=/etc/hostname")?.trim(), replica["name"]);
    Ok(())
}

#[test]
fn a_container_that_ends_is_started_again_in_its_place() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("ending", app())?;
    ask(&stage, "ending", "/exit?code=3")?;
    stage.control.await_status("ending", |status| {
        let replica = &status["revisions"][0]["replicaList"][0];
        replica["restartCount"] == 1 && replica["ready"] == true
    })?;
    ask(&stage, "ending", "/")?;
    Ok(())
}

#[test]
fn one_that_does_not_heed_the_signal_is_ended_after_its_grace() -> Result<()> {
    let stage = stage()?;
    let document = app().env("IGNORE_TERM", "1").set("/template/terminationGracePeriodSeconds", 1);
    stage.control.desire("stubborn", document)?;
    stage.control.await_running("stubborn")?;
    stage.control.remove("stubborn")?;
    eventually("its end", LONG, || {
        ensure!(stage.board.pids_of("stubborn")?.is_empty(), "it runs");
        Ok(())
    })
}

#[test]
fn images_are_pulled_and_their_digest_is_told() -> Result<()> {
    let lan = system_tests::Lan::take()?;
    let (open, locked) = (Registry::open(&lan)?, Registry::locked(&lan)?);
    let (public, private) = {
        let image = Image::testapp("test.local/pulled:1")?;
        (image.push(&open, "team/app:1")?, image.push(&locked, "team/app:1")?)
    };
    let stage = Stage::start(|board| {
        let list = format!("[\"{}\", \"{}\"]", open.address(), locked.address());
        board.settings().set("images", "insecure_registries", list);
        Ok(())
    })?;
    stage.control.desire("public", Document::new(&public))?;
    let status = stage.control.await_running("public")?;
    let image = status["revisions"][0]["image"].as_str().context("no image")?;
    ensure!(image.contains("@sha256:"), "{image}");

    let with = |password: &str| {
        Document::new(&private)
            .set("/configuration/secrets", json!([{"name": "password", "value": password}]))
            .set(
                "/configuration/registries",
                json!([{"server": locked.address().to_string(), "username": "user",
                        "passwordSecretRef": "password"}]),
            )
    };
    stage.control.desire("private", with("wrong"))?;
    stage.control.await_reason("private", "ImageUnauthorized")?;
    stage.control.desire("private", with("secret"))?;
    stage.control.await_running("private")?;

    stage.control.desire("missing", Document::new(&format!("{}/team/none:1", open.address())))?;
    stage.control.await_reason("missing", "ImageNotFound")?;
    Ok(())
}

#[test]
fn both_kinds_of_archive_are_imported_by_hand() -> Result<()> {
    let stage = stage()?;
    let archive = stage.board.dir().join("by-hand.tar");
    let path = archive.display().to_string();
    Image::testapp("test.local/oci:1")?.write_oci(&archive)?;
    stage.board.cli(["images", "import", &path])?;
    Image::testapp("test.local/docker:1")?.write_docker(&archive)?;
    stage.board.cli(["images", "import", &path])?;
    let list = stage.board.cli(["images"])?;
    ensure!(list.contains("test.local/oci:1") && list.contains("test.local/docker:1"), "{list}");
    for name in ["oci", "docker"] {
        stage.control.desire(name, Document::new(&format!("test.local/{name}:1")))?;
        ask(&stage, name, "/")?;
    }
    Ok(())
}
