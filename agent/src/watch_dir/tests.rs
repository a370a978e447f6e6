//! A real folder, real inotify, and a loop that remembers what it was asked.

use std::fs;
use std::os::unix::fs::symlink;

use domain::document::Finding;
use domain::model::WallTime;
use domain::reason::Reason;
use domain::status::{AppStatus, RunningStatus};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tracing::info_span;

use super::*;
use crate::inbox::{Accepted, INBOX_DEPTH, Kind};
use crate::published::{Publisher, channels};
use crate::tasks::Tasks;

/// Longer than any machine takes, shorter than anyone waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A watched folder and the loop behind it. A document is refused if it says so: `passing` the first time, `bad` always.
struct World {
    parent: TempDir,
    asked: watch::Receiver<Vec<String>>,
    publisher: Publisher,
    tasks: Tasks,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let parent = TempDir::new().unwrap();
        fs::create_dir(parent.path().join("apps.d")).unwrap();
        for (name, text) in files {
            fs::write(parent.path().join("apps.d").join(name), text).unwrap();
        }
        Self::over(parent)
    }

    /// Watches `apps.d` in `parent`, which need not be there.
    fn over(parent: TempDir) -> Self {
        let (inbox, requests) = mpsc::channel(INBOX_DEPTH);
        let (seen, asked) = watch::channel(Vec::new());
        let (publisher, receiving) = channels();
        let tasks = Tasks::default();
        tasks.spawn_short(info_span!("loop"), answer(requests, seen));
        let dir = parent.path().join("apps.d");
        tasks.spawn(info_span!("files"), |stop| run(dir, inbox, receiving, stop));
        Self { parent, asked, publisher, tasks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.parent.path().join("apps.d").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until exactly this was asked, in this order, and forgets it.
    #[track_caller]
    fn expect(&mut self, expected: &[&str]) -> impl Future<Output = ()> {
        let mut asked = self.asked.clone();
        let expected: Vec<String> = expected.iter().map(|&line| line.to_owned()).collect();
        async move {
            let wanted = asked.wait_for(|asked| *asked == expected);
            if time::timeout(PATIENCE, wanted).await.is_err() {
                assert_eq!(*asked.borrow(), expected);
            }
        }
    }

    /// The loop has made its first round, and knows these apps of source `file`.
    fn first_round(&self, apps: &[&str]) {
        let apps = apps.iter().map(|&app| (app.to_owned(), status(app, Source::File)));
        let foreign = ("foreign".to_owned(), status("foreign", Source::Mqtt));
        let statuses = Statuses { apps: apps.chain([foreign]).collect(), ..Statuses::default() };
        self.publisher.statuses.send_replace(Arc::new(statuses));
        let device = DeviceState { rounds: 1, ..DeviceState::default() };
        self.publisher.device.send_replace(Arc::new(device));
    }

    async fn end(self) {
        self.tasks.shut_down(PATIENCE).await;
    }
}

async fn answer(mut requests: mpsc::Receiver<Request>, seen: watch::Sender<Vec<String>>) {
    let mut passing = true;
    while let Some(request) = requests.recv().await {
        match request {
            Request::Round { .. } | Request::ImagesChanged | Request::ImagesRepaired { .. } => (),
            Request::Document { source, payload, reply, force, .. } => {
                assert_eq!((source, force), (Source::File, false));
                let text = String::from_utf8_lossy(&payload).into_owned();
                seen.send_modify(|seen| seen.push(format!("apply {text}")));
                let refuse = text.contains("bad") || (text.contains("passing") && passing);
                if refuse {
                    passing = false;
                    let refusal = refusal(text.contains("passing"));
                    reply.send(Err(refusal)).unwrap();
                } else {
                    let name = text.trim_start_matches("name: ").split([' ', '\n']).next().unwrap();
                    let environment = text.contains("managedEnvironments");
                    let accepted = Accepted {
                        name: name.to_owned(),
                        kind: if environment { Kind::Environment } else { Kind::App },
                        changed: true,
                        warnings: Vec::new(),
                    };
                    reply.send(Ok(accepted)).unwrap();
                }
            }
            Request::Delete { source, app, reply, .. } => {
                assert_eq!(source, Source::File);
                seen.send_modify(|seen| seen.push(format!("delete {app}")));
                reply.send(Ok(())).unwrap();
            }
            Request::DeleteEnvironment { source, environment, reply } => {
                assert_eq!(source, Source::File);
                seen.send_modify(|seen| seen.push(format!("delete environment {environment}")));
                reply.send(Ok(())).unwrap();
            }
            Request::Scale { .. }
            | Request::ToZero { .. }
            | Request::Run { .. }
            | Request::Revision { .. }
            | Request::Traffic { .. }
            | Request::Secret { .. }
            | Request::Secrets { .. }
            | Request::Connecting { .. }
            | Request::ImageUses { .. }
            | Request::Delivered { .. } => panic!("a folder does not ask this: {request:?}"),
        }
    }
}

fn refusal(passing: bool) -> Refusal {
    let reason = if passing { Reason::StorageFull } else { Reason::InvalidValue };
    let finding = Finding { path: String::new(), reason, message: String::new(), position: None };
    Refusal { findings: vec![finding], passing }
}

fn status(app: &str, source: Source) -> AppStatus {
    AppStatus {
        app: app.to_owned(),
        generation: 0,
        digest: None,
        source,
        running_status: RunningStatus::Running,
        fqdn: String::new(),
        lan_name: String::new(),
        exposed_port: 0,
        latest_revision: None,
        latest_ready_revision: None,
        revisions: Vec::new(),
        warnings: Vec::new(),
        error: None,
        scale_target: String::new(),
        updated: WallTime::default(),
    }
}

#[tokio::test]
async fn every_document_is_sent_at_start_and_a_change_is_sent_again() {
    let mut world =
        World::new(&[("b.yml", "name: b"), ("a.yaml", "name: a"), ("notes.txt", "name: no")]);
    world.expect(&["apply name: a", "apply name: b"]).await;
    world.write("b.yml", "name: b # 2");
    world.expect(&["apply name: a", "apply name: b", "apply name: b # 2"]).await;
    world.end().await;
}

#[tokio::test]
async fn an_editor_that_replaces_a_file_by_renaming_changes_it_and_removes_nothing() {
    let mut world = World::new(&[("a.yaml", "name: a")]);
    world.expect(&["apply name: a"]).await;
    fs::rename(world.path("a.yaml"), world.path("a.yaml~")).unwrap();
    world.write(".a.yaml.swp", "name: a # 2");
    fs::rename(world.path(".a.yaml.swp"), world.path("a.yaml")).unwrap();
    world.expect(&["apply name: a", "apply name: a # 2"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_removed_file_removes_its_app_and_a_renamed_file_does_not() {
    let mut world = World::new(&[("a.yaml", "name: a"), ("b.yaml", "name: b")]);
    world.expect(&["apply name: a", "apply name: b"]).await;
    fs::rename(world.path("b.yaml"), world.path("c.yaml")).unwrap();
    // The new name is sent once more, which the loop knows for a repeat.
    world.expect(&["apply name: a", "apply name: b", "apply name: b"]).await;
    fs::remove_file(world.path("a.yaml")).unwrap();
    world.expect(&["apply name: a", "apply name: b", "apply name: b", "delete a"]).await;
    world.end().await;
}

#[tokio::test]
async fn an_environment_may_have_the_name_of_an_app_and_goes_with_its_own_file() {
    let environment = "name: a\ntype: microsoft.app/managedEnvironments";
    let mut world = World::new(&[("a.yaml", "name: a"), ("b.yaml", environment)]);
    let both = ["apply name: a".to_owned(), format!("apply {environment}")];
    let [app, environment] = &both;
    world.expect(&[app, environment]).await;
    fs::remove_file(world.path("b.yaml")).unwrap();
    world.expect(&[app, environment, "delete environment a"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_file_that_is_gone_since_the_last_start_removes_its_app_and_no_other() {
    let mut world = World::new(&[("a.yaml", "name: a")]);
    world.expect(&["apply name: a"]).await;
    world.first_round(&["a", "orphan"]);
    world.expect(&["apply name: a", "delete orphan"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_broken_file_keeps_the_app_it_may_have_been_until_it_is_whole_again() {
    let mut world = World::new(&[("a.yaml", "name: [bad")]);
    world.first_round(&["a", "orphan"]);
    world.expect(&["apply name: [bad"]).await;
    world.write("a.yaml", "name: a");
    world.expect(&["apply name: [bad", "apply name: a", "delete orphan"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_folder_that_does_not_exist_removes_nothing_and_is_found_when_it_comes() {
    let mut world = World::over(TempDir::new().unwrap());
    world.first_round(&["orphan"]);
    fs::create_dir(world.path("")).unwrap();
    world.write("a.yaml", "name: a");
    world.expect(&["apply name: a", "delete orphan"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_folder_that_goes_away_removes_nothing() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("apps.d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), "name: a").unwrap();
    let (inbox, requests) = mpsc::channel(INBOX_DEPTH);
    let (seen, asked) = watch::channel(Vec::new());
    let (_publisher, Published { statuses, device, .. }) = channels();
    let (known, orphans) = (Known::default(), Orphans::Unknown);
    let mut watcher = Watcher { dir: dir.clone(), inbox, statuses, device, known, orphans };
    let tasks = Tasks::default();
    tasks.spawn_short(info_span!("loop"), answer(requests, seen));

    let mut rests = vec![watcher.round().await.ok()];
    let aside = parent.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    rests.push(watcher.round().await.ok());
    assert_eq!(*asked.borrow(), ["apply name: a"]);
    // It is the same as before when it is back; only what is gone from it then is gone.
    fs::rename(&aside, &dir).unwrap();
    rests.push(watcher.round().await.ok());
    assert_eq!(*asked.borrow(), ["apply name: a"]);
    fs::remove_file(dir.join("a.yaml")).unwrap();
    rests.push(watcher.round().await.ok());
    assert_eq!(*asked.borrow(), ["apply name: a", "delete a"]);
    assert_eq!(rests, [Some(Rest::Done); 4]);
}

#[tokio::test]
async fn of_two_files_with_one_name_the_first_holds_and_the_second_inherits() {
    let mut world = World::new(&[("a.yaml", "name: a"), ("b.yaml", "name: a # second")]);
    world.expect(&["apply name: a"]).await;
    fs::remove_file(world.path("a.yaml")).unwrap();
    world.expect(&["apply name: a", "apply name: a # second"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_bad_file_holds_up_no_other_and_is_not_sent_twice() {
    let mut world = World::new(&[("a.yaml", "name: a bad"), ("b.yaml", "name: b")]);
    world.expect(&["apply name: a bad", "apply name: b"]).await;
    world.write("c.yaml", "name: c");
    world.expect(&["apply name: a bad", "apply name: b", "apply name: c"]).await;
    world.end().await;
}

#[tokio::test]
async fn a_refusal_that_passes_is_tried_again() {
    let mut world = World::new(&[("a.yaml", "name: a passing")]);
    world.expect(&["apply name: a passing", "apply name: a passing"]).await;
    world.end().await;
}

#[test]
fn a_link_that_leads_nowhere_is_unreadable_and_keeps_its_app() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, "name: a").unwrap();
    let mut known = Known::default();
    let [Step::Send { .. }] = known.plan(&read(dir.path()).unwrap())[..] else { panic!() };
    fs::remove_file(&path).unwrap();
    symlink("/nowhere", &path).unwrap();
    let folder = read(dir.path()).unwrap();
    let [Step::Unreadable { .. }] = known.plan(&folder)[..] else { panic!() };
    // Once is enough.
    assert_eq!(known.plan(&folder), []);
}

#[test]
fn a_folder_with_too_many_files_removes_nothing() {
    let dir = TempDir::new().unwrap();
    let last = dir.path().join("z.yaml");
    fs::write(&last, "name: z").unwrap();
    let mut known = Known::default();
    known.plan(&read(dir.path()).unwrap());
    for n in 0..folder::MOST_FILES {
        fs::write(dir.path().join(format!("a{n}.yaml")), format!("name: a{n}")).unwrap();
    }
    let steps = known.plan(&read(dir.path()).unwrap());
    assert!(!steps.iter().any(|step| matches!(step, Step::Remove { .. })), "{steps:?}");
    assert_eq!(steps.last(), Some(&Step::TooMany { most: folder::MOST_FILES }));
}
