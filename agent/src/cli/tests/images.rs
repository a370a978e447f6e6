//! `skerry images`, word for word.

use std::os::unix::fs::FileTypeExt as _;

use super::*;

#[tokio::test]
async fn images_are_listed_and_archives_imported_as_the_caller() {
    check(
        "images",
        expect![[r#"
        IMAGE                       DIGEST                SIZE      PLATFORM         AGE   FROM       USED BY
        docker.io/library/hello:1   sha256:6b86b273ff34   2.5 MiB   linux/arm64/v8   3m    imported   hello,shop
    "#]],
    )
    .await;
    let agent = FakeAgent::start();
    let archive = agent.dir.path().join("image.tar");
    fs::write(&archive, vec![7; 700_000]).unwrap();
    let line = format!("images import {}", archive.display());
    expect![[r#"
        docker.io/library/of-700000-bytes:1
    "#]]
    .assert_eq(&skerry(&agent.socket, &line).await);
    fs::write(&archive, "rubbish").unwrap();
    expect![[r#"
        error: the archive is no archive (ImageCorrupt)
        hint: Pull or import it again
    "#]]
    .assert_eq(&skerry(&agent.socket, &line).await);
    // A folder opens and cannot be read: the transfer is given up, not ended.
    let line = format!("images import {}", agent.dir.path().display());
    let text = skerry(&agent.socket, &line).await;
    expect![[r#"
        error: cannot read DIR: Is a directory (os error 21)
    "#]]
    .assert_eq(&text.replace(&*agent.dir.path().to_string_lossy(), "DIR"));
    agent.stop().await;
}

#[tokio::test]
async fn a_pull_is_followed_and_its_answer_is_what_it_came_to() {
    let agent = FakeAgent::start();
    expect![[r#"
        docker.io/library/old:1@sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
        old:1: 1.0 of 4.0 MiB, 0 of 2 layers
        warning: it came from an archive, and no registry is asked for it
    "#]]
    .assert_eq(&skerry(&agent.socket, "images pull old:1").await);
    expect![[r#"
        {
          "progress": "",
          "bytes": "0",
          "bytesDone": "0",
          "name": "docker.io/library/new:1",
          "digest": "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
          "warning": ""
        }
        new:1: 1.0 of 4.0 MiB, 0 of 2 layers
    "#]]
    .assert_eq(&skerry(&agent.socket, "images pull new:1 -o json").await);
    expect![[r#"
        none:1: 1.0 of 4.0 MiB, 0 of 2 layers
        error: none:1 is not there (ImageNotFound)
        hint: Check the name and tag, or import the image
    "#]]
    .assert_eq(&skerry(&agent.socket, "images pull none:1").await);
    assert_eq!(agent.asked(), ["pull old:1", "pull new:1", "pull none:1"]);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_stops_ends_a_pull_and_what_came_is_kept() {
    let agent = FakeAgent::start();
    let socket = agent.socket.clone();
    let pulling = async { skerry(&socket, "images pull never:1").await };
    let stopping = async {
        time::timeout(PATIENCE, async {
            while agent.asked().is_empty() {
                time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        agent.stop().await
    };
    let (text, _dir) = tokio::join!(pulling, stopping);
    let end =
        "error: interrupted: what came is kept: skerry images pull never:1 goes on from there\n";
    assert!(text.ends_with(end), "{text}");
}

#[tokio::test]
async fn an_export_is_written_whole_or_not_at_all() {
    let agent = FakeAgent::start();
    let file = agent.dir.path().join("out.tar");
    let line = |what: &str| format!("images export {what} -o {}", file.display());
    expect![[r#"
        2 B of 7 B
        7 B of 7 B
        a:1
        b:1
    "#]]
    .assert_eq(&skerry(&agent.socket, &line("a:1 b:1")).await);
    assert_eq!(fs::read(&file).unwrap(), b"a:1 b:1");
    let before = fs::read_dir(agent.dir.path()).unwrap().count();
    expect![[r#"
        2 B of 6 B
        error: layer 2 is spoilt (ImageCorrupt)
        hint: Pull or import it again
    "#]]
    .assert_eq(&skerry(&agent.socket, &line("torn:1")).await);
    expect![[r#"
        error: missing:1 is not on this board (ImageNotFound)
        hint: Check the name and tag, or import the image
    "#]]
    .assert_eq(&skerry(&agent.socket, &line("missing:1")).await);
    assert_eq!(fs::read(&file).unwrap(), b"a:1 b:1", "the old one stays");
    assert_eq!(fs::read_dir(agent.dir.path()).unwrap().count(), before, "and nothing beside it");
    let line = format!("images export a:1 -o {}", agent.dir.path().display());
    let text = skerry(&agent.socket, &line).await;
    let text = text.replace(&*agent.dir.path().to_string_lossy(), "DIR");
    expect![[r#"
        error: cannot write DIR: it is there, and no file
    "#]]
    .assert_eq(&text);
    assert!(fs::metadata(&agent.socket).unwrap().file_type().is_socket());
    agent.stop().await;
}

#[test]
fn the_file_of_an_export_takes_the_place_of_the_format() {
    let parse = |line: &str| Args::try_parse_from(line.split(' ')).map(|args| args.output);
    let file = |name: &str| args::Output::File(name.into());
    assert_eq!(parse("skerry images export a -o b.tar").unwrap(), file("b.tar"));
    assert_eq!(parse("skerry images export a -o json").unwrap(), file("json"));
    assert_eq!(
        parse("skerry images ls -o json").unwrap(),
        args::Output::Format(args::Format::Json)
    );
    assert!(parse("skerry images ls -o b.tar").is_err());
    assert!(parse("skerry images export a").is_err());
}
