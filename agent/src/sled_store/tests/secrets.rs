//! Values of secrets on the disk: sealed, lost with their key, and moved out of the documents of the first release.

use super::*;
use crate::sled_store::seal::Owner;

const OTHER: RecordKey = RecordKey([8; 32]);
const VALUE: &str = "hunter2-of-the-disk";

fn with_secrets() -> AppRecord {
    let secret = |by_hand| StoredSecret { value: Secret(VALUE.to_owned()), by_hand };
    let secrets = [("token".to_owned(), secret(false)), ("own".to_owned(), secret(true))];
    AppRecord { secrets: secrets.into(), ..record() }
}

fn committed(dir: &Path) -> AppRecord {
    let (mut store, _) = open(dir).unwrap();
    store.commit(&Changes { apps: vec![with_secrets()], ..Changes::default() }).unwrap();
    with_secrets()
}

/// Every byte of every file below `dir`.
fn all_bytes(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let more = if path.is_dir() { all_bytes(&path) } else { fs::read(&path).unwrap() };
        bytes.extend(more);
    }
    bytes
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn values_come_back_and_stand_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let record = committed(dir.path());
    let bytes = all_bytes(dir.path());
    assert!(holds(&bytes, "token"), "names are no secret");
    assert!(!holds(&bytes, VALUE));
    assert!(!holds(&bytes, "hunter2"));
    let (_, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.values().collect::<Vec<_>>(), [&record]);
    assert_eq!(loaded.lost_secrets, []);
}

#[test]
fn another_key_loses_the_values_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    committed(dir.path());
    let (store, loaded) = SledStore::open(dir.path(), &[OTHER]).unwrap();
    let app = loaded.state.apps.values().next().unwrap();
    assert_eq!(*app, record());
    let lost = ["own", "token"].map(|name| ("hello".to_owned(), name.to_owned()));
    assert_eq!(loaded.lost_secrets, lost);
    drop(store);
    let (_, again) = open(dir.path()).unwrap();
    assert_eq!(again.lost_secrets, [], "the key came back, and so do the values");
    assert_eq!(again.state.apps.values().next(), Some(&with_secrets()));
}

/// A record whose document lists one of its two secrets.
fn listing() -> AppRecord {
    let text = std::str::from_utf8(DOCUMENT).unwrap();
    let text = text.replace("configuration:\n", "configuration:\n    secrets: [{name: token}]\n");
    AppRecord { secrets: with_secrets().secrets, ..record_of(text.as_bytes()) }
}

fn commit(store: &mut SledStore, app: AppRecord) {
    store.commit(&Changes { apps: vec![app], ..Changes::default() }).unwrap();
}

#[test]
fn values_outlast_what_is_written_while_their_key_is_away() {
    let dir = tempfile::tempdir().unwrap();
    commit(&mut open(dir.path()).unwrap().0, listing());
    for n in 1..=2 {
        let (mut store, loaded) = SledStore::open(dir.path(), &[OTHER]).unwrap();
        assert_eq!(loaded.lost_secrets.len(), 2, "told at every start");
        let app = loaded.state.apps.into_values().next().unwrap();
        assert_eq!(app.secrets, [].into());
        commit(&mut store, AppRecord { generation: 100 + n, ..app.clone() });
        commit(&mut store, AppRecord { generation: 200 + n, ..app });
    }
    for rebuilt in [false, true] {
        if rebuilt {
            fs::remove_dir_all(dir.path().join("state")).unwrap();
        }
        let (_, loaded) = open(dir.path()).unwrap();
        assert_eq!(loaded.lost_secrets, []);
        let expected = AppRecord { generation: 202, ..listing() };
        assert_eq!(loaded.state.apps.values().next(), Some(&expected), "rebuilt: {rebuilt}");
    }
}

#[test]
fn values_that_were_set_anew_or_given_up_do_not_come_back_with_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let after = |change: &dyn Fn(&mut SledStore, AppRecord)| {
        commit(&mut open(dir.path()).unwrap().0, listing());
        let (mut store, loaded) = SledStore::open(dir.path(), &[OTHER]).unwrap();
        change(&mut store, loaded.state.apps.into_values().next().unwrap());
        drop(store);
        let (_, loaded) = SledStore::open(dir.path(), &[KEY, OTHER]).unwrap();
        assert_eq!(loaded.lost_secrets, []);
        let app = loaded.state.apps.into_values().next().unwrap();
        let value = |(name, secret): (String, StoredSecret)| format!("{name}={}", secret.value.0);
        app.secrets.into_iter().map(value).collect::<Vec<_>>().join(" ")
    };
    let anew = StoredSecret { value: Secret("anew".to_owned()), by_hand: true };
    let set = after(&|store, mut app| {
        app.secrets.insert("own".to_owned(), anew.clone());
        commit(store, app.clone());
        // What was set anew and then removed is gone.
        app.secrets.insert("token".to_owned(), anew.clone());
        commit(store, app.clone());
        app.secrets.remove("token");
        commit(store, app);
    });
    assert_eq!(set, "own=anew");
    let unlisted = after(&|store, _| {
        commit(store, record());
        commit(store, AppRecord { secrets: [].into(), ..listing() });
    });
    assert_eq!(unlisted, format!("own={VALUE}"), "what a person set stays");
    let removed = after(&|store, app| {
        let gone = AppRecord { removed: true, accepted: None, revisions: Vec::new(), ..app };
        commit(store, gone);
        commit(store, AppRecord { secrets: [].into(), ..listing() });
    });
    assert_eq!(removed, "");
}

#[test]
fn the_copy_is_sealed_by_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let record = committed(dir.path());
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (store, loaded) = open(dir.path()).unwrap();
    assert_eq!(loaded.state.apps.values().next(), Some(&record));
    drop(store);
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (_, lost) = SledStore::open(dir.path(), &[OTHER]).unwrap();
    assert_eq!(lost.lost_secrets.len(), 2);
}

#[test]
fn a_new_key_goes_on_opening_what_the_older_one_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let record = committed(dir.path());
    let (mut store, loaded) = SledStore::open(dir.path(), &[OTHER, KEY]).unwrap();
    assert_eq!(loaded.state.apps.values().next(), Some(&record));
    store.commit(&Changes { apps: vec![record.clone()], ..Changes::default() }).unwrap();
    drop(store);
    let (_, loaded) = SledStore::open(dir.path(), &[OTHER]).unwrap();
    assert_eq!(loaded.state.apps.values().next(), Some(&record));
}

#[test]
fn a_sealed_value_opens_under_its_own_name_alone() {
    let seal = Seal::new(&[KEY]);
    let secrets = with_secrets().secrets;
    let owner = Owner { name: "apps/hello".to_owned(), secrets: &secrets, listed: None };
    let mut sealed = seal.close(&owner);
    assert_ne!(sealed[0].sealed, seal.close(&owner)[0].sealed, "no nonce twice");
    let opened = |owner: &str, sealed: &[_]| Reader::new(&seal).open(owner, "hello", sealed);
    assert_eq!(opened("apps/hello", &sealed), secrets);
    assert_eq!(opened("jobs/hello", &sealed), [].into());
    let (own, token) = (sealed[0].sealed.clone(), sealed[1].sealed.clone());
    (sealed[0].sealed, sealed[1].sealed) = (token, own);
    assert_eq!(opened("apps/hello", &sealed), [].into());
    sealed[0].sealed.truncate(5);
    sealed[1].sealed.clear();
    assert_eq!(opened("apps/hello", &sealed), [].into());
}

/// A store whose records hold values where the documents had them, as the first release wrote it.
#[test]
fn values_in_the_documents_of_the_first_release_move_out_of_them() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1-secrets.snapshot");
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join(snapshot::NAME);
    fs::copy(&fixture, &copy).unwrap();
    assert!(holds(&all_bytes(dir.path()), "s3cr3t-of-v1"), "the fixture is an old one");

    let (mut store, loaded) = open(dir.path()).unwrap();
    let (app, job) = only(&loaded);
    let values = |secrets: &BTreeMap<String, StoredSecret>| {
        let value =
            |(name, secret): (&String, &StoredSecret)| (name.clone(), secret.value.0.clone());
        secrets.iter().map(value).collect::<Vec<_>>()
    };
    let expected = [("empty", ""), ("token", "s3cr3t-of-v1")];
    assert_eq!(values(&app.secrets), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(values(&job.secrets), [("token".to_owned(), "s3cr3t-of-job-v1".to_owned())]);
    let accepted = app.accepted.as_ref().unwrap();
    assert!(accepted.document.configuration.secrets.iter().all(|entry| entry.value.is_none()));
    assert_eq!(app.received[&Source::Mqtt], accepted.digest, "the digest is that of what came");
    assert_eq!(app.revisions[0].template, accepted.document.template.clone().into());
    let (app, job) = (app.clone(), job.clone());

    assert!(!holds(&all_bytes(dir.path()), "s3cr3t"), "both copies were written anew at once");
    store.commit(&Changes { apps: vec![app.clone()], ..Changes::default() }).unwrap();
    drop(store);
    let (_, again) = open(dir.path()).unwrap();
    assert_eq!(only(&again), (&app, &job));
    assert!(!holds(&all_bytes(dir.path()), "s3cr3t"));
}

fn only(loaded: &Loaded) -> (&AppRecord, &JobRecord) {
    assert_eq!((loaded.state.apps.len(), loaded.state.jobs.len()), (1, 1));
    (loaded.state.apps.values().next().unwrap(), loaded.state.jobs.values().next().unwrap())
}
