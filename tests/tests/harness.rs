//! The harness itself: the real parts start, do what the tests rely on, and leave nothing behind.

use std::fs;

use anyhow::{Result, ensure};
use system_tests::{Access, Board, Broker, Control, Image, Lan, Registry, SHORT, eventually, run};

/// A board needs a path to an agent; these tests never start it.
fn board(lan: Lan) -> Result<Board> {
    Board::new(lan)
}

#[test]
fn both_kinds_of_archive_are_images_that_containerd_runs() -> Result<()> {
    let mut board = board(Lan::take()?)?;
    board.start_containerd()?;
    let archive = board.dir().join("image.tar").display().to_string();

    Image::busybox("test.local/oci:1").command(["-c", "echo oci"]).write_oci(archive.as_ref())?;
    board.ctr(["images", "import", &archive])?;
    assert_eq!(board.ctr(["run", "--rm", "test.local/oci:1", "one"])?, "oci\n");

    Image::testapp("test.local/docker:1")?.env("VERSION", "7").write_docker(archive.as_ref())?;
    board.ctr(["images", "import", &archive])?;
    board.ctr(["run", "--detach", "--net-host", "test.local/docker:1", "two"])?;
    let pids = board.container_pids()?;
    assert_eq!(pids.keys().collect::<Vec<_>>(), ["two"]);

    let client = board.lan_client().at((board.lan().board(), 8080).into());
    let answer = client.await_status("hello", "/", 200)?;
    assert_eq!(answer.json()["version"], "7");
    let inside = board.inside().at(([127, 0, 0, 1], 8080).into());
    assert_eq!(inside.get("hello", "/headers")?.json()["host"], "hello");
    Ok(())
}

#[test]
fn a_board_leaves_nothing_behind_even_with_a_container_running() -> Result<()> {
    let lan = Lan::take()?;
    let (name, dir, netns) = (lan.name(), lan.dir().to_owned(), lan.netns());
    let mut board = board(lan)?;
    board.start_containerd()?;
    let archive = dir.join("image.tar").display().to_string();
    Image::busybox("test.local/long:1")
        .command(["-c", "sleep 1000"])
        .write_oci(archive.as_ref())?;
    board.ctr(["images", "import", &archive])?;
    board.ctr(["run", "--detach", "test.local/long:1", "long"])?;
    let pid = board.container_pids()?["long"];
    drop(board);
    assert!(!dir.exists() && !netns.exists());
    assert!(!fs::read_to_string("/proc/self/mounts")?.contains(&format!("/{name}/")));
    assert!(!fs::exists(format!("/proc/{pid}"))?);
    assert!(!run("ip", ["link"])?.contains(&format!("skt{}@", name.trim_start_matches("skt-"))));
    Ok(())
}

#[test]
fn a_broker_keeps_what_is_retained_over_a_restart_and_loses_it_when_wiped() -> Result<()> {
    for access in [Access::Anonymous, Access::Password, Access::Certificate] {
        let lan = Lan::take()?;
        let mut broker = Broker::start(&lan, access)?;
        let control = Control::connect(&broker, "pi-1")?;
        control.desire("hello", "name: hello")?;
        broker.stop()?;
        broker.resume()?;
        let again = Control::connect(&broker, "pi-1")?;
        let kept =
            again.await_since(0, "the retained document", SHORT, |message| message.retained)?;
        assert_eq!(kept.payload, b"name: hello");
        broker.wipe()?;
        let third = Control::connect(&broker, "pi-1")?;
        third.desire("other", "name: other")?;
        assert!(third.latest("apps/hello/desired").is_none());
    }
    Ok(())
}

#[test]
fn a_registry_takes_images_and_a_locked_one_wants_its_password() -> Result<()> {
    let lan = Lan::take()?;
    let image = Image::busybox("test.local/pushed:1");
    for registry in [Registry::open(&lan)?, Registry::locked(&lan)?] {
        let reference = image.push(&registry, "pushed:1")?;
        let inspect = |extra: &[&str]| {
            let url = format!("docker://{reference}");
            run("skopeo", ["inspect", "--tls-verify=false"].iter().chain(extra).chain(&[&*url]))
        };
        match registry.credentials() {
            None => assert!(inspect(&[])?.contains("sha256:")),
            Some((user, password)) => {
                assert!(inspect(&[]).is_err());
                assert!(inspect(&["--creds", &format!("{user}:{password}")])?.contains("sha256:"));
            }
        }
    }
    Ok(())
}

#[test]
fn waiting_in_vain_tells_what_was_seen_last() {
    let error = eventually("the moon", std::time::Duration::ZERO, || -> Result<()> {
        ensure!(1 == 2, "it is cloudy");
        Ok(())
    })
    .unwrap_err();
    assert_eq!(format!("{error:#}"), "waited 0ns for the moon: it is cloudy");
}
