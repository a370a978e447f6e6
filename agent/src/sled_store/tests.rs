//! The store: closed, damaged, full and old.

mod secrets;

use std::fs;

use domain::allowances::Allowances;
use domain::document::ScaleTarget;
use domain::event::Event;
use domain::intake::{self, Incoming, Verdict};
use domain::model::WallTime;
use domain::reason::Reason;
use domain::replica::Secret;
use domain::state::{
    AppRecord, Changes, DeviceRecord, EnvironmentRecord, JobRecord, Standby, StoredSecret,
};
use domain::status::{Phase, Source};

use super::*;

const DOCUMENT: &[u8] = b"
name: hello
properties:
  configuration:
    ingress: {external: true, targetPort: 8080}
  template:
    containers: [{name: main, image: 'registry.example/hello:1'}]
    scale: {minReplicas: 1, maxReplicas: 3}
skerry: {generation: 7}
";

fn record() -> AppRecord {
    record_of(DOCUMENT)
}

fn record_of(payload: &[u8]) -> AppRecord {
    let parsed = intake::take_apart(payload, Some("hello")).unwrap();
    let domain::document::Document::App(document) = parsed.document else { panic!("an app") };
    let incoming = Incoming {
        source: Source::Mqtt,
        payload,
        force: false,
        allowances: &Allowances::default(),
    };
    let verdict = intake::app(None, &parsed.name, *document, parsed.warnings, incoming);
    let Verdict::Changed(mut record) = verdict else { panic!("{verdict:?}") };
    record.revisions[0].phase = Phase::Committed;
    record.revisions[0].was_ready = true;
    record.scale = ScaleTarget { replicas: Some(2), ..ScaleTarget::default() };
    record.ports = [(5432, 7), (6000, u64::MAX)].into();
    *record
}

fn environment() -> EnvironmentRecord {
    let payload =
        b"storages: [{name: data, path: /srv/data, readOnly: true}]\nskerry: {generation: 4}\n";
    let parsed = intake::take_environment_apart(payload, "shop").unwrap();
    let allowances = Allowances { storages: vec!["/srv".to_owned()], ..Allowances::default() };
    let incoming =
        Incoming { source: Source::Mqtt, payload, force: false, allowances: &allowances };
    let verdict =
        intake::environment(None, &parsed.name, parsed.document, parsed.warnings, incoming);
    let Verdict::Changed(record) = verdict else { panic!("{verdict:?}") };
    *record
}

fn event(id: u64) -> Event {
    Event {
        id,
        time: WallTime(std::time::Duration::from_secs(1_800_000_001)),
        app: Some("hello".parse().unwrap()),
        revision: Some("hello--0000001".parse().unwrap()),
        replica: None,
        reason: Reason::RevisionReady,
        message: "ready".to_owned(),
    }
}

fn changes() -> Changes {
    Changes {
        apps: vec![record()],
        device: Some(DeviceRecord { epoch: 3, next_event: 9, ..DeviceRecord::default() }),
        events: vec![event(7), event(8)],
        ..Changes::default()
    }
}

const KEY: RecordKey = RecordKey([7; 32]);

fn open(dir: &Path) -> Result<(SledStore, Loaded), StoreError> {
    SledStore::open(dir, &[KEY])
}

fn read_copy(path: &Path) -> Option<(State, u64)> {
    snapshot::read(path, &mut Reader::new(&Seal::new(&[KEY])))
}

fn filled(dir: &Path) {
    let (mut store, _) = open(dir).unwrap();
    store.commit(&changes()).unwrap();
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let (mut store, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.values().collect::<Vec<_>>(), [&record()]);
    assert_eq!(loaded.state.device.epoch, 3);
    assert_eq!(loaded.outbox, [event(7), event(8)]);
    assert_eq!(loaded.rebuilt, None);

    store.commit(&Changes { delivered: vec![7], ..Changes::default() }).unwrap();
    drop(store);
    let (_, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.outbox, [event(8)]);
}

#[test]
fn how_far_a_revision_has_come_is_kept_to_the_last_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut record = record();
    let revision = &mut record.revisions[0];
    (revision.phase, revision.standby) = (Phase::Probation, Standby::GivenUp);
    (revision.restarts, revision.refetch) = (3, true);
    let (mut store, _) = open(dir.path()).unwrap();
    store.commit(&Changes { apps: vec![record.clone()], ..Changes::default() }).unwrap();
    drop(store);
    let (_, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.values().collect::<Vec<_>>(), [&record]);
}

#[test]
fn an_environment_is_kept_by_the_store_and_by_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    let gone = EnvironmentRecord {
        name: "gone".parse().unwrap(),
        accepted: None,
        removed: true,
        ..environment()
    };
    let environments = vec![environment(), gone.clone()];
    store.commit(&Changes { environments: environments.clone(), ..Changes::default() }).unwrap();
    drop(store);
    for rebuilt in [false, true] {
        if rebuilt {
            fs::remove_dir_all(dir.path().join("state")).unwrap();
        }
        let (_, loaded) = open(dir.path()).unwrap();
        let known: Vec<_> = loaded.state.environments.into_values().collect();
        assert_eq!(known, [gone.clone(), environment()], "rebuilt: {rebuilt}");
    }
}

#[test]
fn a_damaged_store_is_rebuilt_from_its_copy_and_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    for file in ["db", "conf"] {
        fs::write(dir.path().join("state").join(file), b"not a database at all").unwrap();
    }
    let (store, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.values().collect::<Vec<_>>(), [&record()]);
    assert_eq!(loaded.state.device.epoch, 3 + EPOCH_JUMP);
    assert!(loaded.rebuilt.unwrap().contains("state.damaged.1"));
    assert!(dir.path().join("state.damaged.1").exists());
    drop(store);
    let (_, again) = open(dir.path()).unwrap();
    assert_eq!((again.state.device.epoch, again.rebuilt), (3 + EPOCH_JUMP, None));
}

#[test]
fn a_lost_store_is_rebuilt_from_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (_, loaded) = open(dir.path()).unwrap();
    assert!(loaded.state.apps.contains_key(&record().name));
}

#[test]
fn a_damaged_copy_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let path = dir.path().join(snapshot::NAME);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(read_copy(&path).is_none());
    let (_, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.len(), 1);
}

#[test]
fn a_copy_cut_at_any_byte_is_never_taken_for_whole() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let path = dir.path().join(snapshot::NAME);
    let bytes = fs::read(&path).unwrap();
    for end in 0..bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        assert!(read_copy(&path).is_none(), "cut at {end}");
    }
}

/// Records of version 1 as the first release wrote them: they stay readable for ever.
#[test]
fn records_of_the_first_release_are_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1.snapshot");
    if std::env::var_os("SKERRY_WRITE_FIXTURES").is_some() {
        let state = State { apps: [(record().name, record())].into(), ..State::default() };
        snapshot::stage(&fixture, &state, 1, &Seal::new(&[KEY])).unwrap();
        snapshot::publish(&fixture).unwrap();
    }
    let (state, sequence) = read_copy(&fixture).expect("the fixture is a good snapshot");
    assert_eq!(sequence, 1);
    let first = AppRecord { ports: [].into(), ..record() };
    assert_eq!(state.apps.values().collect::<Vec<_>>(), [&first]);
}

#[test]
fn a_full_disk_is_refused_before_the_store_meets_it() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        dir.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=4m"),
    );
    if let Err(error) = mounted {
        println!("skipped: cannot mount a tmpfs: {error}");
        return;
    }
    let _mounted = Mounted(dir.path());
    let (mut store, _) = open(dir.path()).unwrap();
    store.commit(&changes()).unwrap();
    let ballast = dir.path().join("ballast");
    let mut size = 4 << 20;
    while fs::write(&ballast, vec![1; size]).is_err() {
        size -= 64 << 10;
    }
    let refused = store.commit(&changes()).unwrap_err();
    assert_eq!(refused.0.reason, Reason::StorageFull);
    fs::remove_file(&ballast).unwrap();
    store.commit(&changes()).unwrap();
    drop(store);
    let (_, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.len(), 1);
}

#[test]
fn what_a_change_takes_is_counted_with_its_templates_and_secrets() {
    let size_of = |change: &dyn Fn(&mut AppRecord)| {
        let mut app = record();
        change(&mut app);
        size(&Changes { apps: vec![app], ..Changes::default() })
    };
    let plain = size_of(&|_| ());
    let canonical = record().revisions[0].canonical.len() as u64;
    assert_eq!(plain, DOCUMENT.len() as u64 + canonical);
    assert_eq!(size_of(&|app| app.revisions.push(app.revisions[0].clone())), plain + canonical);
    let held = size_of(&|app| app.revisions[0].held = app.accepted.clone());
    assert_eq!(held, plain + DOCUMENT.len() as u64);
    let value = Secret("12345".to_owned());
    let secrets = [("token".to_owned(), StoredSecret { value, by_hand: false })];
    assert_eq!(size_of(&|app| app.secrets = secrets.clone().into()), plain + 5);
    let job = JobRecord {
        name: "job".parse().unwrap(),
        source: Source::Mqtt,
        generation: 0,
        accepted: None,
        received: BTreeMap::new(),
        removed: false,
        secrets: secrets.into(),
    };
    assert_eq!(size(&Changes { jobs: vec![job], ..Changes::default() }), 5);
    let environments = vec![environment()];
    let bytes = environments[0].accepted.as_ref().unwrap().payload.len() as u64;
    assert_eq!(size(&Changes { environments, ..Changes::default() }), bytes);
}

/// Takes the mount away, also when the test fails.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_copy_that_cannot_be_written_leaves_nothing_for_a_later_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    // A folder in the place of the next copy stops it from being written.
    let next = dir.path().join(snapshot::NAME).with_extension("next");
    fs::create_dir(&next).unwrap();
    store.commit(&changes()).unwrap_err();
    drop(store);
    let (mut store, loaded) = open(dir.path()).unwrap();
    assert!(loaded.state.apps.is_empty(), "what was refused is not there after a restart");
    fs::remove_dir(&next).unwrap();
    store.commit(&changes()).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).unwrap().1.state.apps.len(), 1);
}

#[test]
fn a_store_rebuilt_from_nothing_leaves_its_old_epochs_behind() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    fs::remove_file(dir.path().join(snapshot::NAME)).unwrap();
    for file in ["db", "conf"] {
        fs::write(dir.path().join("state").join(file), b"not a database at all").unwrap();
    }
    let (_, loaded) = open(dir.path()).unwrap();
    assert!(loaded.rebuilt.is_some());
    assert_eq!(loaded.state.device.epoch, EPOCH_JUMP);
}
