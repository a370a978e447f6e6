//! What a person reads about a document that breaks a rule.

use expect_test::expect;

use super::{SMALL, broken, errors, numbered, warnings};
use crate::document::{MAX_DOCUMENT_BYTES, parse};
use crate::reason::Reason;

#[test]
fn syntax() {
    broken(
        "name: hello",
        "name: hello\nname: again",
        &expect![[r#"
            3:1  InvalidSyntax: line 3, column 1: the key "name" is given twice
        "#]],
    );
    broken(
        "{targetPort: 80}",
        "{targetPort: 80",
        &expect![[r#"
        6:11  InvalidSyntax: line 6, column 11: while parsing a flow mapping, did not find expected ',' or '}', in the block that begins at line 4
    "#]],
    );
    broken(
        "name: hello",
        "name: *hello",
        &expect![[r#"
            2:7  InvalidSyntax: line 2, column 7: alias references unknown anchor; a text that starts with * needs quotes
        "#]],
    );
    broken(
        "name: hello",
        "- hello",
        &expect![[r#"
        3:1  InvalidSyntax: line 3, column 1: while parsing a block collection, did not find expected '-' indicator
    "#]],
    );
    expect![[r#"
        1:1  InvalidType: expected a mapping, found a single value
    "#]]
    .assert_eq(&errors("just a text"));
    expect![[r#"
        1:1  InvalidType: expected a mapping, found nothing
    "#]]
    .assert_eq(&errors(""));
    expect![[r#"
        2:1  InvalidSyntax: line 2, column 1: a second document begins here; send one at a time
    "#]]
    .assert_eq(&errors("a: 1\n---\nb: 2\n"));
}

#[test]
fn text_that_is_not_utf_8_is_refused_at_its_place() {
    let error = parse(b"name: hello\nimage: h\xffllo\n").document.unwrap_err().remove(0);
    assert_eq!((error.reason, error.position), (Reason::InvalidSyntax, Some((2, 9))));
}

#[test]
fn the_largest_document_is_accepted_and_the_next_one_is_not() {
    let mut text = SMALL.to_owned();
    text.push('#');
    text.extend(std::iter::repeat_n('x', MAX_DOCUMENT_BYTES - text.len()));
    assert!(parse(text.as_bytes()).document.is_ok());
    text.push('x');
    let error = parse(text.as_bytes()).document.unwrap_err().remove(0);
    assert_eq!(error.reason, Reason::DocumentTooLarge);
}

#[test]
fn aliases_that_repeat_a_long_text_are_refused_before_they_are_written_out() {
    let long = "x".repeat(64 * 1024);
    let text = format!("{SMALL}tags:\n- &v {long}\n{}", "- *v\n".repeat(1000));
    let error = parse(text.as_bytes()).document.unwrap_err().remove(0);
    assert_eq!(error.reason, Reason::DocumentTooLarge);
    assert!(
        error.message.ends_with(": its aliases, written out, have more than 1 MiB of text"),
        "{}",
        error.message
    );
}

#[test]
fn names() {
    broken(
        "name: hello",
        "name: Hello",
        &expect![[r#"
        2:7 name InvalidValue: "Hello" is not a valid app name: 1 to 32 characters, a-z, 0-9 and single dashes, first a letter, last no dash
    "#]],
    );
    broken(
        "name: main",
        "name: Main Container",
        &expect![[r#"
        8:16 properties.template.containers[0].name InvalidValue: "Main Container" is not valid here: 1 to 63 characters, a-z, 0-9 and dashes, no dash first or last
    "#]],
    );
    broken(
        "name: main, ",
        "",
        &expect![[r#"
        8:9 properties.template.containers[0].name MissingValue: name is required: every container has a name of its own
    "#]],
    );
    broken(
        "- {",
        "- {name: main, image: a}\n      - {",
        &expect![[r#"
        8:7 properties.template.containers InvalidValue: the name "main" is used twice
    "#]],
    );
    broken(
        "containers:",
        "revisionSuffix: a--b\n    containers:",
        &expect![[r#"
        7:21 properties.template.revisionSuffix InvalidValue: "a--b" is not a valid revision suffix name: 1 to 64 characters, a-z, 0-9 and single dashes, no dash first or last
    "#]],
    );
    let long = format!("revisionSuffix: {}\n    containers:", "s".repeat(60));
    broken(
        "containers:",
        &long,
        &expect![[r#"
        - properties.template.revisionSuffix HostNameTooLong: the host name hello--ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss has 67 characters; 63 are allowed
    "#]],
    );
    broken(
        "hello:1",
        "<registry>/hello:1",
        &expect![[r#"
        8:29 properties.template.containers[0].image InvalidValue: "<registry>/hello:1" is not valid here: an image reference such as registry.example/app:1.2; this looks like a placeholder that was not filled in
    "#]],
    );
    broken(
        ", image: hello:1",
        "",
        &expect![[r#"
        8:9 properties.template.containers[0].image MissingValue: image is required: the image that the container runs
    "#]],
    );
    broken(
        "name: hello",
        "name: hello\ntype: Microsoft.Web/sites",
        &expect![[r#"
            3:7 type InvalidValue: must be Microsoft.App/containerApps, Microsoft.App/jobs or Microsoft.App/managedEnvironments, found "Microsoft.Web/sites"
        "#]],
    );
}

#[test]
fn shapes() {
    broken(
        "targetPort: 80",
        "targetPort: http",
        &expect![[r#"
        5:27 properties.configuration.ingress.targetPort InvalidType: expected a whole number, found "http"
    "#]],
    );
    broken(
        "targetPort: 80",
        "targetPort: 70000",
        &expect![[r#"
            5:27 properties.configuration.ingress.targetPort InvalidValue: must lie between 0 and 65535, found "70000"
        "#]],
    );
    broken(
        "targetPort: 80",
        "targetPort: [80]",
        &expect![[r#"
        5:27 properties.configuration.ingress.targetPort InvalidType: expected a whole number, found a list
    "#]],
    );
    broken(
        "targetPort: 80",
        "external: maybe",
        &expect![[r#"
        5:25 properties.configuration.ingress.external InvalidType: expected true or false, found "maybe"
    "#]],
    );
    broken(
        "targetPort: 80",
        "transport: quic",
        &expect![[r#"
        5:26 properties.configuration.ingress.transport InvalidValue: must be one of auto, http, http2, tcp, found "quic"
    "#]],
    );
    broken(
        "hello:1",
        "hello:1, command: sh",
        &expect![[r#"
        8:47 properties.template.containers[0].command InvalidType: expected a list, found a single value
    "#]],
    );
    broken(
        "hello:1",
        "hello:1, command: [null]",
        &expect![[r#"
        8:48 properties.template.containers[0].command[0] InvalidType: expected a text, found nothing
    "#]],
    );
    broken(
        "    containers:\n      - {name: main, image: hello:1}",
        "    containers: []",
        &expect![[r#"
            7:17 properties.template.containers MissingValue: containers is required: a template has at least one container
        "#]],
    );
    broken(
        "  template:\n    containers:\n      - {name: main, image: hello:1}",
        "",
        &expect![[r#"
        2:1 properties.template MissingValue: template is required: it says which containers run
    "#]],
    );
    broken(
        "hello:1",
        "\"[parameters('image')]\"",
        &expect![[r#"
        8:29 properties.template.containers[0].image UnresolvedExpression: "[parameters('image')]" is an expression of an ARM template; its value is needed here
    "#]],
    );
}

#[test]
fn an_arm_template_without_an_app_is_refused() {
    expect![[r#"
        1:12 resources InvalidValue: a template must hold exactly one app or job, and this one holds 0
    "#]].assert_eq(&errors("resources: []"));
    expect![[r#"
        1:12 resources InvalidValue: a template must hold exactly one app or job, and this one holds 2
    "#]].assert_eq(&errors(
        "resources: [{type: Microsoft.App/jobs}, {type: microsoft.app/containerapps}]",
    ));
}

#[test]
fn volumes_and_their_mounts_are_at_most_sixty_four() {
    let mounts = |n: usize| {
        let mounts = numbered(n, |n| format!("{{volumeName: v, mountPath: /m{n}}},"));
        let text = SMALL.replace("hello:1", &format!("hello:1, volumeMounts: [{mounts}]"));
        text.replace("    containers:", "    volumes: [{name: v}]\n    containers:")
    };
    assert_eq!(warnings(&mounts(64)), "");
    expect![[r#"
        9:52 properties.template.containers[0].volumeMounts InvalidValue: at most 64 volumeMounts
    "#]]
    .assert_eq(&errors(&mounts(65)));
    let volumes = |n: usize| {
        let volumes = numbered(n, |n| format!("{{name: v{n}}},"));
        SMALL.replace("    containers:", &format!("    volumes: [{volumes}]\n    containers:"))
    };
    assert_eq!(warnings(&volumes(64)), "");
    expect![[r#"
        7:14 properties.template.volumes InvalidValue: at most 64 volumes
    "#]]
    .assert_eq(&errors(&volumes(65)));
}

#[test]
fn errors_stop_at_twenty() {
    let variables: String = numbered(50, |n| format!("{{name: A{n}, secretRef: none}},"));
    let many = SMALL.replace("hello:1", &format!("hello:1, env: [{variables}]"));
    assert_eq!(errors(&many).lines().count(), 20);
}
