//! What a person reads about a document that says more than Skerry knows, or acts on.

use expect_test::{Expect, expect};

use super::{SMALL, numbered, warnings};
use crate::document::parse;

/// The warnings of the small document with `from` replaced.
#[track_caller]
fn warned(from: &str, to: &str, expected: &Expect) {
    assert!(SMALL.contains(from), "{from} is not in the document");
    expected.assert_eq(&warnings(&SMALL.replace(from, to)));
}

#[test]
fn the_small_document_is_accepted_without_a_word() {
    assert!(parse(SMALL.as_bytes()).document.is_ok());
    assert_eq!(warnings(SMALL), "");
}

#[test]
fn an_app_that_nothing_brings_back_from_zero_is_warned_of() {
    let without = SMALL.replace("    ingress:", "    maxInactiveRevisions: 1\n    # ");
    let with = |scale: &str| {
        without.replace("  template:\n", &format!("  template:\n    scale: {scale}\n"))
    };
    expect![[r#"
        8:5 properties.template.scale.minReplicas NothingWakes: at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that could wake it; 1 keeps it running
    "#]].assert_eq(&warnings(&without));
    expect![[r#"
        8:42 properties.template.scale.minReplicas NothingWakes: at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that could wake it; 1 keeps it running
    "#]].assert_eq(&warnings(&with("{maxReplicas: 2, minReplicas: 0}")));
    let http = "{rules: [{name: a, http: {metadata: {concurrentRequests: '5'}}}]}";
    expect![[r#"
        8:12 properties.template.scale.minReplicas NothingWakes: at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that could wake it; 1 keeps it running
    "#]].assert_eq(&warnings(&with(http)));
    let cron = "{rules: [{name: a, custom: {type: cron, metadata: {start: 0 6 * * *, end: 0 7 * * *, \
                timezone: UTC, desiredReplicas: '1'}}}]}";
    for well in ["{minReplicas: 1}", cron] {
        assert_eq!(warnings(&with(well)), "", "{well}");
    }
    assert_eq!(warnings(&format!("{without}skerry: {{absent: true}}\n")), "");
}

#[test]
fn what_is_not_known_or_not_acted_on_is_said() {
    warned(
        "targetPort: 80",
        "targetport: 80",
        &expect![[r#"
        5:27 properties.configuration.ingress.targetport UnknownKey: "targetport" is not a key of the schema; did you mean "targetPort"?
    "#]],
    );
    warned(
        "name: hello",
        "name: hello\nlocaton: here\nx: 1\nlocation: there\nidentity: {type: SystemAssigned}",
        &expect![[r#"
            3:10 locaton UnknownKey: "locaton" is not a key of the schema; did you mean "location"?
            4:4 x UnknownKey: "x" is not a key of the schema
            5:11 location NoMeaningHere: has a meaning in Azure only: an app is where its board is
            6:11 identity NoMeaningHere: managed identities are Azure's; give registries a password and secrets a value
        "#]],
    );
    warned(
        "hello:1",
        "hello:1, imagePullPolicy: Always, Env: []",
        &expect![[r#"
        8:55 properties.template.containers[0].imagePullPolicy UnknownKey: "imagePullPolicy" is not a key of the schema
        8:68 properties.template.containers[0].Env UnknownKey: "Env" is not a key of the schema; did you mean "env"?
    "#]],
    );
    warned(
        "targetPort: 80",
        "allowInsecure: false, transport: tcp, exposedPort: 5000, clientCertificateMode: Require, corsPolicy: {allowedOrigins: ['*']}, customDomains: [{name: A.example.com, bindingType: sniEnabled}], ipSecurityRestrictions: [{name: a, ipAddressRange: 10.0.0.1/8, action: Allow}], additionalPortMappings: [{external: false, targetPort: 2}]",
        &expect![[r#"
            5:95 properties.configuration.ingress.clientCertificateMode NotYetSupported: not acted on yet: clients are not asked for a certificate
            5:116 properties.configuration.ingress.corsPolicy NotYetSupported: not acted on yet: no CORS headers are added
            5:192 properties.configuration.ingress.customDomains[0].bindingType NotYetSupported: not acted on yet: the domain is served over HTTP until the board has a certificate
            5:230 properties.configuration.ingress.ipSecurityRestrictions NotYetSupported: not acted on yet: EVERY address may come in
        "#]],
    );
    warned(
        "targetPort: 80",
        "exposedPort: 5000",
        &expect![[r#"
        5:28 properties.configuration.ingress.exposedPort Unsupported: without effect: HTTP is served at its own ports; see transport: tcp
    "#]],
    );
    warned(
        "targetPort: 80",
        "allowInsecure: false, stickySessions: {affinity: Sticky}, traffic: [{latestRevision: true, weight: 100, label: blue}]",
        &expect![[r#"
            5:30 properties.configuration.ingress.allowInsecure NotYetSupported: not acted on yet: HTTP is served without a redirect until the board has a certificate
            5:64 properties.configuration.ingress.stickySessions.affinity NotYetSupported: not acted on yet: each request goes to the least busy replica
        "#]],
    );
    warned(
        "ingress:",
        "maxInactiveRevisions: 5\n    dapr: {enabled: true}\n    runtime: {java: {enableMetrics: true}}\n    service: {type: redis}\n    identitySettings: [{identity: system, lifecycle: all}]\n    targetLabel: blue\n    activeRevisionsMode: labels\n    secrets: [{name: a, keyVaultUrl: 'https://v', identity: system}]\n    ingress:",
        &expect![[r#"
            6:21 properties.configuration.dapr.enabled NotYetSupported: not acted on yet: the app runs without its Dapr sidecar
            7:37 properties.configuration.runtime.java.enableMetrics Unsupported: no metrics are collected from Java
            8:14 properties.configuration.service Unsupported: the development service "redis" is Azure's; run it as an app
            9:23 properties.configuration.identitySettings NoMeaningHere: managed identities are Azure's; ignored
            12:38 properties.configuration.secrets[0].keyVaultUrl Unsupported: Azure Key Vault is not asked; set the value with `skerry secret set`
        "#]],
    );
    warned(
        "hello:1",
        "hello:1, probes: [{type: startup, tcpSocket: {port: 1, host: elsewhere}}]}\n    scale: {minReplicas: 0, cooldownPeriod: 5, rules: [{name: r, http: {metadata: {concurrentRequests: 10}}}]}\n    serviceBinds: [{serviceId: a, name: b}]\n    volumes: [{name: a, storageType: secret}, {name: b, storageType: NfsAzureFile, storageName: s}]\n    x: {",
        &expect![[r#"
            10:19 properties.template.serviceBinds Unsupported: development services are Azure's; run them as apps
            12:8 properties.template.x UnknownKey: "x" is not a key of the schema
        "#]],
    );
}

#[test]
fn how_much_may_be_written_follows_from_the_cores_and_is_told() {
    warned(
        "hello:1",
        "hello:1, resources: {cpu: 0.5, ephemeralStorage: 1Gi}}\n    volumes: [{name: a, mountOptions: 'size=3Gi'}, {name: b, mountOptions: 'size=1Gi,ro'}, {name: c, mountOptions: 'uid=7'}]\n    x: {",
        &expect![[r#"
            8:78 properties.template.containers[0].resources.ephemeralStorage ReadOnly: ignored: it follows from the cores, 2Gi for 0.50 of them
            9:39 properties.template.volumes[0].mountOptions UnknownKey: "size" is not an option that is known here; ignored
            9:39 properties.template.volumes[0].mountOptions InvalidValue: taken as 2Gi, the most for 0.50 cores
            9:76 properties.template.volumes[1].mountOptions UnknownKey: "size" is not an option that is known here; ignored
            9:116 properties.template.volumes[2].mountOptions Unsupported: "uid=7" means nothing to an EmptyDir; ro and size= do
            10:8 properties.template.x UnknownKey: "x" is not a key of the schema
        "#]],
    );
}

#[test]
fn a_job_is_told_of_keys_that_only_apps_have() {
    let job = "
type: Microsoft.App/jobs
configuration: {replicaTimeout: 60}
template: {containers: [{name: a, image: b}], scale: {minReplicas: 2}}
";
    expect![[r#"
        4:54 template.scale Unsupported: jobs have no such key; ignored
    "#]]
    .assert_eq(&warnings(job));
}

#[test]
fn the_skerry_block_is_no_exception() {
    let with = |block: &str| format!("name: hello\nskerry: {block}");
    warned(
        "name: hello",
        &with("{generations: 1, standBy: none, probation: 3}"),
        &expect![[r#"
        3:23 skerry.generations UnknownKey: "generations" is not a key of the schema; did you mean "generation"?
        3:35 skerry.standBy UnknownKey: "standBy" is not a key of the schema; did you mean "standby"?
        3:52 skerry.probation UnknownKey: "probation" is not a key of the schema
    "#]],
    );
    warned(
        "name: hello",
        &with(
            "{force: true, updateStrategy: recreate, probationSeconds: 5, standby: frozen, updateWindow: {cron: '0 2 * * *', durationMinutes: 9}, devices: [{hostPath: /dev/a}], capabilities: {add: [NET_ADMIN]}, probes: {main: {liveness: {exec: {command: [a]}}}}}",
        ),
        &expect![""],
    );
}

#[test]
fn warnings_stop_at_a_hundred() {
    let keys: String = numbered(150, |n| format!("unknown{n}: 1\n"));
    let many = warnings(&format!("{keys}{SMALL}"));
    assert_eq!(many.lines().count(), 100);
    assert!(many.ends_with("(and 50 more warnings)\n"));
}
