//! Environment documents on a real board: taken over MQTT, reported, and what apps get of them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{Board, Document, Image, LONG, SHORT, Stage, tells};

fn prepare(board: &mut Board) -> Result<()> {
    board.settings().set("storage", "allow", "[\"/srv/skerry-test/*\"]");
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn environment(storages: &Value) -> String {
    json!({ "properties": { "storages": storages } }).to_string()
}

/// An app that shows the storage `data`.
fn keeper() -> Document {
    let volume = json!([{ "name": "v", "storageType": "AzureFile", "storageName": "data" }]);
    let mount = json!([{ "volumeName": "v", "mountPath": "/data" }]);
    Document::new("test.local/app:1").set("/template/volumes", volume).main("/volumeMounts", mount)
}

#[test]
fn a_document_has_a_status_and_a_refused_one_says_where_and_why() -> Result<()> {
    let stage = Stage::start(prepare)?;
    let (control, topic) = (&stage.control, "environments/shop/status");
    let data = json!([{ "name": "data", "path": "/srv/skerry-test/data", "readOnly": true }]);
    control.publish("environments/shop/desired", environment(&data))?;
    let status = control.await_json(topic, SHORT, |status| status["digest"] != "")?;
    assert_eq!(status["environment"], "shop");
    assert_eq!(status["source"], "mqtt");
    let expected = "/srv/skerry-test/data, read only";
    let storages = json!([{ "name": "data", "reason": "", "details": expected }]);
    assert_eq!(status["storages"], storages);
    let listed = stage.board.cli(["environments"])?;
    ensure!(listed.contains("shop") && listed.contains("data"), "{listed}");

    control.publish(
        "environments/shop/desired",
        environment(&json!([{ "name": "etc", "path": "/etc" }])),
    )?;
    let status = control.await_json(topic, SHORT, |status| tells(status, "StorageNotAllowed"))?;
    assert_eq!(status["error"]["path"], "properties.storages[0].path");
    assert_eq!(status["storages"], storages, "what was in force stays");

    control.publish("environments/shop/desired", "skerry: {absent: true}")?;
    control.await_since(0, "the topic to be cleared", SHORT, |message| {
        message.topic == topic && message.payload.is_empty()
    })?;
    Ok(())
}

#[test]
fn an_app_waits_for_its_storage_and_no_longer() -> Result<()> {
    let stage = Stage::start(prepare)?;
    let control = &stage.control;
    control.desire("keeper", keeper())?;
    let status = control.await_reason("keeper", "StorageMissing")?;
    let details = status["revisions"][0]["details"].as_str().context("details")?;
    ensure!(details.contains("\"data\"") && details.contains("default"), "{details}");
    let folder = stage.board.dir().join("state/volumes/data");
    std::fs::create_dir_all(&folder)?;
    let data = json!([{ "name": "data", "path": folder }]);
    control.publish("environments/default/desired", environment(&data))?;
    control.await_json("apps/keeper/status", LONG, |status| {
        !tells(status, "the environment default does not have")
    })?;
    let status =
        control.await_json("environments/default/status", SHORT, |status| status["apps"] == 1)?;
    assert_eq!(status["storages"][0]["reason"], "");
    Ok(())
}
