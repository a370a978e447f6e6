//! Images that somebody must vouch for, on a whole board: what nobody signed waits beside what serves, and goes on by
//! itself once it is signed.

use anyhow::{Result, ensure};
use serde_json::Value;
use system_tests::{Access, Board, Broker, Control, Document, Image, Lan, Registry, Signer, tells};

#[test]
fn an_image_that_nobody_signed_waits_while_the_old_one_serves_and_goes_on_once_it_is_signed()
-> Result<()> {
    let lan = Lan::take()?;
    let broker = Broker::start(&lan, Access::Anonymous)?;
    let registry = Registry::open(&lan)?;
    let mut board = Board::new(lan)?;
    board.start_containerd()?;
    board.preload(&Image::testapp("test.local/app:1")?.env("VERSION", "1"))?;
    let (ours, theirs) = (Signer::new()?, Signer::new()?);
    let key = ours.public(board.dir(), "ours.pub")?;
    let host = registry.address();
    board.settings().broker(&broker).registry(&registry).set(
        "images.trust",
        &format!("\"{host}\""),
        format!("{{ keys = [\"{}\"] }}", key.display()),
    );
    let control = Control::connect(&broker, &board.device())?;
    board.start()?;
    control.desire("hello", Document::new("test.local/app:1").text())?;
    control.await_running("hello")?;

    let image = Image::testapp("test.local/app:2")?.env("VERSION", "2");
    let reference = image.push(&registry, "app:2")?;
    let snapshots = || board.ctr(["snapshots", "list"]);
    let before = snapshots()?;
    control.desire("hello", Document::new(&reference).skerry("probationSeconds", 1).text())?;
    let refused = control.await_reason("hello", "ImageUntrusted")?;
    let client = board.lan_client();
    let version = || anyhow::Ok(client.get("hello", "/")?.json()["version"].clone());
    ensure!(version()? == "1", "the old one serves");

    let told = |status: &Value| status["revisions"][0]["details"].clone();
    let unsigned = told(&refused);
    theirs.sign(&registry, "app", "2")?;
    // The next try sees that signature, and does not take it.
    control.await_status("hello", |status| {
        tells(status, "ImageUntrusted") && told(status) != unsigned
    })?;
    ensure!(snapshots()? == before, "nothing of it was unpacked: {}", snapshots()?);

    ours.sign(&registry, "app", "2")?;
    client.await_answer("hello", "/", |answer| answer.json()["version"] == "2")?;
    Ok(())
}
