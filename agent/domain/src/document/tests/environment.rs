//! The environment document, as people write it.

use expect_test::{Expect, expect};

use super::{SMALL, lines, numbered, warnings};
use crate::document::{Document, EnvironmentDocument, parse, parse_environment};
use crate::reason::Reason;
use crate::storage::{MountFlag, StorageSource};

#[track_caller]
fn environment(text: &str) -> EnvironmentDocument {
    match parse_environment(text.as_bytes()).document {
        Ok(Document::Environment(environment)) => *environment,
        Ok(other) => panic!("this is {other:?}"),
        Err(errors) => panic!("refused:\n{}", lines(&errors)),
    }
}

#[track_caller]
fn refused(text: &str, expected: &Expect) {
    match parse_environment(text.as_bytes()).document {
        Ok(_) => panic!("accepted"),
        Err(errors) => expected.assert_eq(&lines(&errors)),
    }
}

const FULL: &str = "
type: Microsoft.App/managedEnvironments
name: shop
location: here
tags: {site: harbour}
properties:
  storages:
    - {name: uploads, path: /srv//uploads/./, mountOptions: 'uid=1000,noexec,nobrl,mfsymlinks'}
    - {name: disk, device: LABEL=data, readOnly: true}
  certificates: [{name: a}]
  daprComponents: []
  httpRouteConfigs: [{name: b}]
  staticIp: 10.0.0.1
  zoneRedundant: true
  storage: []
skerry: {generation: 3, extra: 1}
";

#[test]
fn a_whole_one_is_read() {
    let read = environment(FULL);
    assert_eq!(read.name.as_ref().unwrap().as_str(), "shop");
    assert_eq!((read.generation, read.absent), (Some(3), false));
    let [uploads, disk] = &read.storages[..] else { panic!("{:?}", read.storages) };
    assert_eq!(uploads.source, StorageSource::Path("/srv/uploads".to_owned()));
    assert_eq!(uploads.options.options.uid, Some(1000));
    assert!(uploads.options.options.flags.contains(&MountFlag::NoExec));
    assert!(!uploads.options.read_only);
    assert_eq!(uploads.found_at, "properties.storages[0].path");
    assert_eq!(disk.source, StorageSource::Device("LABEL=data".to_owned()));
    assert!(disk.options.read_only);
    assert_eq!(read.storage("disk"), Some(disk));
    assert_eq!(parse(FULL.as_bytes()), parse_environment(FULL.as_bytes()), "it says what it is");
}

#[test]
fn what_has_no_effect_is_warned_about_by_path() {
    expect![[r#"
        4:11 location NoMeaningHere: has a meaning in Azure only: an app is where its board is
        8:61 properties.storages[0].mountOptions NoMeaningHere: nobrl is for network file systems; ignored; mfsymlinks is for network file systems; ignored
        10:17 properties.certificates NotYetSupported: not acted on yet: the board has no certificates
        12:21 properties.httpRouteConfigs NotYetSupported: not acted on yet: each host name leads to its own app
        13:13 properties.staticIp ReadOnly: set by the server; ignored
        14:18 properties.zoneRedundant NoMeaningHere: has a meaning in Azure only; ignored
        15:12 properties.storage UnknownKey: "storage" is not a key of the schema; did you mean "storages"?
        16:32 skerry.extra UnknownKey: "extra" is not a key of the schema
    "#]].assert_eq(&warnings(FULL));
}

#[test]
fn the_parts_may_stand_at_the_top_and_the_top_wins() {
    let text = "storages: [{name: a, path: /a}]\nproperties: {storages: [{name: b, path: /b}]}\n";
    let read = environment(text);
    assert_eq!(read.storages[0].found_at, "storages[0].path");
    assert_eq!(read.storages.len(), 1);
    expect![[r#"
        2:24 properties.storages InvalidValue: storages is given twice; the one at the top level counts
    "#]].assert_eq(&lines(&parse_environment(text.as_bytes()).warnings));
}

#[test]
fn one_that_says_nothing_or_is_absent_is_accepted() {
    assert_eq!(environment("{}").storages, []);
    assert!(environment("skerry: {absent: true}").absent);
}

#[test]
fn what_is_wrong_is_refused_by_path() {
    refused(
        "name: Shop
storages:
  - {name: a, path: srv/a}
  - {name: b, path: /srv/../etc}
  - {name: c, path: /}
  - {name: d, device: /srv/d}
  - {name: e, device: LABEL=a/b}
  - {name: f, device: /dev/../etc}
  - {name: g}
  - {name: h, path: /h, device: /dev/h}
  - {path: /i}
  - {name: ../j, path: /j}
  - {name: k, path: /k, readOnly: perhaps, mountOptions: 'uid=app,ro,dir_mode=rwx'}
",
        &expect![[r#"
            1:7 name InvalidValue: "Shop" is not a valid environment name: 1 to 60 characters, a-z, 0-9 and dashes, no dash first or last
            3:21 storages[0].path InvalidValue: "srv/a" is not valid here: an absolute path without '..'
            4:21 storages[1].path InvalidValue: "/srv/../etc" is not valid here: an absolute path without '..'
            5:21 storages[2].path InvalidValue: "/" is not valid here: an absolute path other than /
            6:23 storages[3].device InvalidValue: "/srv/d" is not valid here: a path below /dev without '..', or LABEL=, UUID=, PARTLABEL= or PARTUUID= and a name
            7:23 storages[4].device InvalidValue: "LABEL=a/b" is not valid here: a path below /dev without '..', or LABEL=, UUID=, PARTLABEL= or PARTUUID= and a name
            8:23 storages[5].device InvalidValue: "/dev/../etc" is not valid here: a path below /dev without '..', or LABEL=, UUID=, PARTLABEL= or PARTUUID= and a name
            9:5 storages[6].path MissingValue: path is required: a storage is a folder of the board, or else a device
            10:33 storages[7].device InvalidValue: a storage is a path or a device, and this one is both
            11:5 storages[8].name MissingValue: name is required: volumes name a storage by it
            12:12 storages[9].name InvalidValue: "../j" is not valid here: 1 to 63 letters, digits, dashes, underscores and dots, first a letter or digit
            13:35 storages[10].readOnly InvalidType: expected true or false, found "perhaps"
            13:58 storages[10].mountOptions InvalidValue: uid is a number such as uid=1000
            13:58 storages[10].mountOptions InvalidValue: dir_mode is an octal number such as dir_mode=0755
        "#]],
    );
    refused(
        "storages: [{name: a, path: /a}, {name: a, path: /b}]",
        &expect![[r#"
        1:11 storages InvalidValue: the name "a" is used twice
    "#]],
    );
    let many = format!("storages:\n{}", numbered(65, |n| format!("- {{name: s{n}, path: /s}}\n")));
    refused(
        &many,
        &expect![[r#"
        2:3 storages InvalidValue: at most 64 storages
    "#]],
    );
    refused(
        "type: Microsoft.App/other",
        &expect![[r#"
        1:1 properties.template MissingValue: template is required: it says which containers run
        1:7 type InvalidValue: must be Microsoft.App/containerApps, Microsoft.App/jobs or Microsoft.App/managedEnvironments, found "Microsoft.App/other"
    "#]],
    );
}

#[test]
fn a_document_that_does_not_say_its_kind_is_an_app_unless_it_came_to_an_environment() {
    let text = SMALL.as_bytes();
    assert!(matches!(parse(text).document, Ok(Document::App(_))));
    assert!(matches!(parse_environment(text).document, Ok(Document::Environment(_))));
    let app = format!("type: Microsoft.App/containerApps{SMALL}");
    assert!(matches!(parse_environment(app.as_bytes()).document, Ok(Document::App(_))));
}

#[test]
fn an_environment_is_taken_from_a_template_that_holds_no_app() {
    let environment = "{type: Microsoft.App/managedEnvironments, name: shop}";
    let alone = format!("resources: [{environment}, {{type: other}}]");
    assert!(matches!(parse(alone.as_bytes()).document, Ok(Document::Environment(_))));
    let app = "{type: Microsoft.App/containerApps, name: a, properties: {template: {containers: [{name: a, image: b}]}}}";
    let both = format!("resources: [{environment}, {app}]");
    assert!(matches!(parse(both.as_bytes()).document, Ok(Document::App(_))));
}

#[test]
fn options_of_volumes_are_remarked_on_and_never_refused() {
    let volumes = |options: &str| {
        let volume = format!(
            "{{name: v, storageType: AzureFile, storageName: s, mountOptions: '{options}'}}"
        );
        format!(
            "{SMALL}    volumes: [{volume}, {{name: w, storageType: AzureFile, storageName: s}}]\n"
        )
    };
    expect![[r#"
        7:5 properties.template.volumes[1].mountOptions InvalidValue: another volume mounts "s" with other options; those of the last one count
        9:79 properties.template.volumes[0].mountOptions InvalidValue: uid is a number such as uid=1000
        9:79 properties.template.volumes[0].mountOptions UnknownKey: "noexce" is not an option that is known here; ignored
        9:79 properties.template.volumes[0].mountOptions NoMeaningHere: nobrl is for network file systems; ignored; mfsymlinks is for network file systems; ignored
    "#]].assert_eq(&warnings(&volumes("dir_mode=0777,nobrl,mfsymlinks,uid=x,noexce")));
    let findings = parse(volumes("nobrl").as_bytes()).warnings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].reason, Reason::NoMeaningHere);
}
