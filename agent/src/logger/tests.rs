//! The sink: whole lines, within bounds, and never a reason for a container to wait.

use std::fs;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

fn order(folder: &Path, max_file_bytes: u64, max_files: u32) -> Order {
    Order { path: folder.join("a/a--1/a--1-22222/main.log"), max_file_bytes, max_files }
}

fn fed(chunks: &[&[u8]]) -> String {
    let mut out = Vec::new();
    let mut lines = Lines::new(Stream::Stdout);
    for chunk in chunks {
        lines.feed(chunk, "T", |batch, _| out.extend_from_slice(batch));
    }
    lines.finish("E", |batch, _| out.extend_from_slice(batch));
    String::from_utf8(out).unwrap()
}

fn record(second: u32, text: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z stdout {text}\n")
}

#[test]
fn an_order_survives_the_way_through_the_uri() {
    let order = Order { path: "/run/a b/x+%.log".into(), max_file_bytes: 1 << 20, max_files: 2 };
    let uri = order.uri(Path::new("/usr/bin/skerry"));
    assert_eq!(uri, "binary:///usr/bin/skerry?logger=1048576:2:/run/a%20b/x%2B%25.log");
    assert_eq!(Order::parse("1048576:2:/run/a b/x+%.log"), Some(order));
    assert_eq!(Order::parse("1048576:2:relative"), None);
    assert_eq!(Order::parse("1048576"), None);
}

#[test]
fn a_line_is_one_record_however_it_arrives() {
    assert_eq!(
        fed(&[b"one\ntw", b"o\n", b"\n", b"rest"]),
        "T stdout one\nT stdout two\nT stdout \nE stdout rest\n"
    );
}

#[test]
fn a_long_line_is_cut_and_marked() {
    let long = vec![b'x'; (32 << 10) + 5];
    let text = fed(&[&long, b"\n"]);
    let records: Vec<&str> = text.lines().collect();
    assert_eq!(records.len(), 3);
    assert!(records[0].starts_with("T stdout+ x") && records[1].starts_with("T stdout+ x"));
    assert_eq!(records[2], "T stdout xxxxx");
}

#[test]
fn the_bound_holds_for_a_flood_and_the_last_lines_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let order = order(folder.path(), 100_000, 3);
    let mut sink = Sink::open(&order);
    for n in 0..50_000 {
        sink.write(format!("2026-01-01T00:00:00.000000000Z stdout line {n}\n").as_bytes(), 1);
    }
    let files: Vec<_> = fs::read_dir(order.path.parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(files.len(), 3);
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= 300_000, "{bytes}");
    let lines = tail(&sources(folder.path(), &"a".parse().unwrap()), 4000);
    assert_eq!(lines.len(), 4000, "older files are read too");
    assert_eq!(lines.first().unwrap().text, "line 46000");
    assert_eq!(lines.last().unwrap().text, "line 49999");
}

#[test]
fn what_could_not_be_written_is_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let order = order(folder.path(), 1000, 2);
    // A file in the place of the folder: nothing can be opened until it is gone.
    fs::write(folder.path().join("a"), "").unwrap();
    let mut sink = Sink::open(&order);
    sink.write(record(1, "lost").as_bytes(), 1);
    sink.write(record(2, "lost").repeat(2).as_bytes(), 2);
    fs::remove_file(folder.path().join("a")).unwrap();
    sink.write(record(3, "kept").as_bytes(), 1);
    let text = fs::read_to_string(&order.path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("stderr skerry: 3 lines were dropped: "), "{text}");
    assert!(lines[1].ends_with("stdout kept"), "{text}");
    assert_eq!(lines.len(), 2);
}

/// A file system of 64 KiB, as long as it is held.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mounted() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("skreplicas").tempdir().unwrap();
        let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
        let mounted =
            nix::mount::mount(none, folder.path(), Some("tmpfs"), flags, Some("size=64k"));
        mounted.ok().map(|()| Self(folder))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.0.path());
    }
}

#[test]
fn a_full_disk_costs_lines_but_no_half_ones() {
    let Some(tiny) = Tiny::mounted() else {
        println!("skipped: mounting needs root");
        return;
    };
    let ballast = tiny.0.path().join("ballast");
    fs::write(&ballast, vec![0; 32 << 10]).unwrap();
    let order = order(tiny.0.path(), 1 << 20, 2);
    let mut sink = Sink::open(&order);
    let line = record(1, &"x".repeat(150));
    for _ in 0..500 {
        sink.write(line.as_bytes(), 1);
    }
    fs::remove_file(ballast).unwrap();
    sink.write(line.as_bytes(), 1);
    let text = fs::read_to_string(&order.path).unwrap();
    let (told, whole): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.contains("skerry:"));
    assert!(whole.iter().all(|whole| *whole == line.trim_end()), "{text}");
    let dropped = 501 - whole.len();
    assert!(300 < dropped, "{dropped}");
    assert_eq!(told.len(), 1);
    assert!(told[0].contains(&format!("{dropped} lines were dropped: No space left")), "{told:?}");
}

#[test]
fn a_record_that_was_cut_short_does_not_run_into_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let order = order(folder.path(), 1000, 2);
    fs::create_dir_all(order.path.parent().unwrap()).unwrap();
    fs::write(&order.path, "2026-01-01T00:00:00.0").unwrap();
    Sink::open(&order).write(record(1, "whole").as_bytes(), 1);
    let lines = tail(&sources(folder.path(), &"a".parse().unwrap()), 10);
    assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["whole"]);
}

#[test]
fn containers_are_merged_in_the_order_of_time() {
    let folder = tempfile::tempdir().unwrap();
    let replica = folder.path().join("a/a--1/a--1-22222");
    fs::create_dir_all(&replica).unwrap();
    fs::write(replica.join("main.log"), record(1, "m1") + &record(4, "m4")).unwrap();
    fs::write(replica.join("side.log"), record(2, "s2") + &record(3, "s3")).unwrap();
    let lines = tail(&sources(folder.path(), &"a".parse().unwrap()), 3);
    let texts: Vec<_> = lines.iter().map(|line| (line.container.as_str(), &*line.text)).collect();
    assert_eq!(texts, [("side", "s2"), ("side", "s3"), ("main", "m4")]);
}

#[test]
fn the_last_stopped_replicas_and_all_live_ones_keep_their_logs() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..8 {
        let replica = folder.path().join(format!("a/a--{}/r{n}", n / 4));
        fs::create_dir_all(&replica).unwrap();
        let log = File::create(replica.join("main.log")).unwrap();
        log.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(n)).unwrap();
    }
    prune(folder.path(), &"a".parse().unwrap(), 3, |replica| replica == "r0");
    let left: Vec<String> =
        sources(folder.path(), &"a".parse().unwrap()).into_iter().map(|s| s.replica).collect();
    assert_eq!(left, ["r0", "r5", "r6", "r7"]);
}

#[tokio::test]
async fn a_follower_sees_new_lines_rotation_and_new_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let order = order(folder.path(), 200, 3);
    let mut sink = Sink::open(&order);
    sink.write(record(1, "old").as_bytes(), 1);
    let (before, follower) = Follower::new(folder.path(), &"a".parse().unwrap(), 5).unwrap();
    assert_eq!(before.len(), 1);
    let (sender, mut lines) = mpsc::channel(16);
    let following = follower.run(sender);
    let reading = async {
        // Room for four records in a file: these are rotated once.
        for n in 2..8 {
            sink.write(record(n, &format!("line {n}")).as_bytes(), 1);
        }
        let mut texts = Vec::new();
        while texts.len() < 6 {
            let line = timeout(Duration::from_secs(10), lines.recv()).await.unwrap().unwrap();
            texts.push(line.text);
        }
        assert_eq!(texts, ["line 2", "line 3", "line 4", "line 5", "line 6", "line 7"]);
        let other = folder.path().join("a/a--1/a--1-33333");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("main.log"), record(9, "hello")).unwrap();
        let line = timeout(Duration::from_secs(10), lines.recv()).await.unwrap().unwrap();
        assert_eq!((line.replica.as_str(), line.text.as_str()), ("a--1-33333", "hello"));
        drop(lines);
    };
    timeout(Duration::from_secs(20), async { tokio::join!(following, reading) }).await.unwrap();
}
