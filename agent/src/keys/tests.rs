//! Keys: made once, kept, given, damaged; and what is sealed with them.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn load(dir: &Path) -> Keys {
    Keys::load(dir, None).unwrap()
}

#[test]
fn keys_are_made_once_and_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let made = load(dir.path());
    let again = load(dir.path());
    assert_eq!(made.records, again.records);
    assert_eq!(made.device.public(), again.device.public());
    for name in ["key", "device.key"] {
        let file = fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!((file.len(), file.permissions().mode() & 0o777), (32, 0o600), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    let other = tempfile::tempdir().unwrap();
    assert_ne!(made.records, load(other.path()).records);
}

#[test]
fn a_credential_goes_before_the_file_which_still_opens() {
    let (dir, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = load(dir.path());
    fs::write(credentials.path().join("skerry.key"), [5; 32]).unwrap();
    fs::write(credentials.path().join("skerry.device.key"), STANDARD.encode([6; 32]) + "\n")
        .unwrap();
    let given = Keys::load(dir.path(), Some(credentials.path())).unwrap();
    assert_eq!(given.records, [RecordKey([5; 32]), own.records[0].clone()]);
    assert_eq!(given.device.public(), DeviceKey(SecretKey::from([6; 32])).public());
}

#[test]
fn where_credentials_are_given_no_key_lies_on_the_disk() {
    let (dir, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["skerry.key", "skerry.device.key"] {
        fs::write(credentials.path().join(name), [5; 32]).unwrap();
    }
    Keys::load(dir.path(), Some(credentials.path())).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_credential_that_is_no_key_is_refused_and_a_damaged_file_is_moved_aside() {
    let (dir, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = load(dir.path());
    fs::write(credentials.path().join("skerry.key"), "too short").unwrap();
    let refused = Keys::load(dir.path(), Some(credentials.path())).unwrap_err();
    assert!(matches!(refused, KeyError::NoKey(_)), "{refused}");

    for (file, n) in [("key", 1), ("key", 2), ("device.key", 1)] {
        fs::write(dir.path().join(file), [n; 31]).unwrap();
        assert_ne!(load(dir.path()).records, made.records);
        let aside = dir.path().join(format!("{file}.damaged.{n}"));
        assert_eq!(fs::read(aside).unwrap(), [n; 31], "none of them is overwritten");
    }
    assert_eq!(fs::read(dir.path().join("key.damaged.1")).unwrap(), [1; 31]);
}

#[test]
fn what_was_sealed_for_a_device_opens_there_and_nowhere_else() {
    let (one, other) = (DeviceKey(SecretKey::from([1; 32])), DeviceKey(SecretKey::from([2; 32])));
    let value = Secret("grüße".to_owned());
    let sealed = seal(&one.public(), &value).unwrap();
    let sealed = sealed.strip_prefix(SEALED).unwrap();
    assert_eq!(one.open(sealed), Ok(value.clone()));
    assert_eq!(other.open(sealed).unwrap_err(), "it was sealed for another key, or is damaged");
    assert_eq!(one.open("???").unwrap_err(), "it is not base64");
    assert!(one.open("").is_err() && one.open("AAAA").is_err());
    assert_eq!(seal("no key", &value), None);
}

/// Made by libsodium's `crypto_box_seal`, through its binding for Python.
#[test]
fn what_libsodium_sealed_opens() {
    let device = DeviceKey(SecretKey::from([9; 32]));
    assert_eq!(device.public(), LIBSODIUM_PUBLIC);
    assert_eq!(device.open(LIBSODIUM_SEALED), Ok(Secret("hunter2".to_owned())));
}

#[test]
fn no_key_is_ever_shown() {
    let keys =
        Keys { records: vec![RecordKey([9; 32])], device: DeviceKey(SecretKey::from([9; 32])) };
    let shown = format!("{keys:?}");
    assert!(!shown.contains("9, 9"), "{shown}");
    assert!(shown.contains(LIBSODIUM_PUBLIC), "{shown}");
}

const LIBSODIUM_PUBLIC: &str = "V9tLNZ8jrl4Ubk4lEgVnBHIlBjSMFQwUdT0Mkz0E1CE=";
const LIBSODIUM_SEALED: &str =
    "xJO6Tupee+9Iauvg1Bi1/wzHop5G5J16a8qVj8WbPmxuuKf0UABkYX4DVzuR5uguhIG+vxxyfA==";
