//! What a person reads about a part of a document that breaks one of its own rules.

use expect_test::{Expect, expect};

use super::{broken, errors};

#[test]
fn ingress() {
    broken(
        "targetPort: 80",
        "traffic: [{latestRevision: true, weight: 50}, {revisionName: hello--a, weight: 40}]",
        &expect![[r#"
            5:24 properties.configuration.ingress.traffic InvalidValue: the weights must add up to 100, and add up to 90
        "#]],
    );
    broken(
        "targetPort: 80",
        "traffic: [{weight: 100}]",
        &expect![[r#"
        5:25 properties.configuration.ingress.traffic[0].revisionName MissingValue: revisionName is required: an entry names a revision, a label, or has latestRevision: true
    "#]],
    );
    broken(
        "targetPort: 80",
        "traffic: [{latestRevision: true, weight: 101, label: -x}]",
        &expect![[r#"
            5:24 properties.configuration.ingress.traffic InvalidValue: the weights must add up to 100, and add up to 0
            5:56 properties.configuration.ingress.traffic[0].weight InvalidValue: must lie between 0 and 100, found "101"
            5:68 properties.configuration.ingress.traffic[0].label InvalidValue: "-x" is not valid here: 1 to 64 characters, a-z, 0-9 and single dashes, first a letter, last no dash
        "#]],
    );
    broken(
        "targetPort: 80",
        "ipSecurityRestrictions: [{name: a, ipAddressRange: 10.0.0.1/8, action: Allow}, {name: b, ipAddressRange: 10.0.0.300, action: deny}, {name: c, ipAddressRange: 10.0.0.3, action: deny}]",
        &expect![[r#"
            5:39 properties.configuration.ingress.ipSecurityRestrictions InvalidValue: all rules of an app are Allow, or all are Deny
            5:120 properties.configuration.ingress.ipSecurityRestrictions[1].ipAddressRange InvalidValue: "10.0.0.300" is not an IPv4 range such as 192.168.1.0/24
        "#]],
    );
    broken(
        "targetPort: 80",
        "additionalPortMappings: [{external: true, targetPort: 1}, {targetPort: 2}, {targetPort: 2}, {targetPort: 4}, {targetPort: 5}, {targetPort: 6}]",
        &expect![[r#"
            5:39 properties.configuration.ingress.additionalPortMappings InvalidValue: at most 5 additional ports, found 6
            5:39 properties.configuration.ingress.additionalPortMappings InvalidValue: each targetPort is given once
            5:39 properties.configuration.ingress.additionalPortMappings InvalidValue: each exposedPort is given once
            5:51 properties.configuration.ingress.additionalPortMappings[0].external InvalidValue: external: true needs ingress.external: true
        "#]],
    );
    broken(
        "targetPort: 80",
        "targetPort: 80, transport: tcp, additionalPortMappings: [{targetPort: 443}, {targetPort: 7, exposedPort: 80}, {targetPort: 8, exposedPort: 7}, {targetPort: 9, exposedPort: 7}]",
        &expect![[r#"
            5:27 properties.configuration.ingress.targetPort InvalidValue: 80 belongs to HTTP; give TCP another exposedPort
            5:71 properties.configuration.ingress.additionalPortMappings InvalidValue: each exposedPort is given once
            5:85 properties.configuration.ingress.additionalPortMappings[0].targetPort InvalidValue: 443 belongs to HTTP; give TCP another exposedPort
            5:120 properties.configuration.ingress.additionalPortMappings[1].exposedPort InvalidValue: 80 belongs to HTTP; give TCP another exposedPort
        "#]],
    );
    broken(
        "targetPort: 80",
        "customDomains: [{name: '*.example.com'}]",
        &expect![[r#"
        5:38 properties.configuration.ingress.customDomains[0].name InvalidValue: "*.example.com" is not valid here: a host name of labels and dots, without a wildcard
    "#]],
    );
    broken(
        "targetPort: 80",
        "corsPolicy: {maxAge: -1}",
        &expect![[r#"
            5:27 properties.configuration.ingress.corsPolicy.allowedOrigins MissingValue: allowedOrigins is required: the origins, or *
            5:36 properties.configuration.ingress.corsPolicy.maxAge InvalidValue: must be 0 or more, found "-1"
        "#]],
    );
    broken(
        "targetPort: 80",
        "targetPort: 9, transport: tcp, exposedPort: 443, stickySessions: {affinity: sticky}",
        &expect![[r#"
            5:59 properties.configuration.ingress.exposedPort InvalidValue: 443 belongs to HTTP; give TCP another exposedPort
            5:91 properties.configuration.ingress.stickySessions.affinity InvalidValue: sticky needs activeRevisionsMode: Single and an HTTP transport
        "#]],
    );
}

#[test]
fn secrets() {
    let with = |secret: &str| {
        format!(
            "secrets: [{secret}]\n    registries: [{{server: r.example, username: u, passwordSecretRef: pass}}]\n    ingress:"
        )
    };
    broken(
        "ingress:",
        &with("{name: password, value: x}, {name: passs, value: y}"),
        &expect![[r#"
        6:70 properties.configuration.registries[0].passwordSecretRef SecretRefNotFound: no secret named "pass" is listed; did you mean "passs"?
    "#]],
    );
    broken(
        "ingress:",
        &with("{name: pass, value: x}, {name: pass, value: y}, {value: z}, {name: A_B}"),
        &expect![[r#"
            5:14 properties.configuration.secrets InvalidValue: the name "pass" is used twice
            5:63 properties.configuration.secrets[2].name MissingValue: name is required: every secret has a name
            5:82 properties.configuration.secrets[3].name InvalidValue: "A_B" is not valid here: 1 to 253 characters, a-z, 0-9, dashes and dots, first and last a letter or digit
        "#]],
    );
    broken(
        "hello:1",
        "hello:1, env: [{name: A, secretRef: nothing}, {name: B=C}, {value: x}]",
        &expect![[r#"
            8:65 properties.template.containers[0].env[0].secretRef SecretRefNotFound: no secret named "nothing" is listed
            8:82 properties.template.containers[0].env[1].name InvalidValue: "B=C" is not valid here: a name without '='
            8:88 properties.template.containers[0].env[2].name MissingValue: name is required: the name of the variable
        "#]],
    );
    broken(
        "hello:1",
        "hello:1}\n    volumes: [{name: v, storageType: secret, secrets: [{secretRef: nothing, path: ../x}]}]\n    scale: {rules: [{name: r, custom: {type: cpu, auth: [{secretRef: nothing}]}}]}\n    x: {",
        &expect![[r#"
            9:68 properties.template.volumes[0].secrets[0].secretRef SecretRefNotFound: no secret named "nothing" is listed
            9:83 properties.template.volumes[0].secrets[0].path InvalidValue: "../x" is not valid here: a relative path without '..'
            10:70 properties.template.scale.rules[0].custom.auth[0].secretRef SecretRefNotFound: no secret named "nothing" is listed
        "#]],
    );
}

#[test]
fn containers() {
    broken(
        "hello:1",
        "hello:1, resources: {cpu: 1.555, memory: 1 gigabyte}",
        &expect![[r#"
        8:55 properties.template.containers[0].resources.cpu InvalidValue: "1.555" is not valid here: cores, more than 0, with two decimals at most, such as 0.25
        8:70 properties.template.containers[0].resources.memory InvalidValue: "1 gigabyte" is not valid here: a number with a unit, such as 0.5Gi, 250Mi or 250Mb, and 4Mi at least
    "#]],
    );
    broken(
        "hello:1",
        "hello:1, resources: {cpu: 0, memory: 2Mi}",
        &expect![[r#"
        8:55 properties.template.containers[0].resources.cpu InvalidValue: "0" is not valid here: cores, more than 0, with two decimals at most, such as 0.25
        8:66 properties.template.containers[0].resources.memory InvalidValue: "2Mi" is not valid here: a number with a unit, such as 0.5Gi, 250Mi or 250Mb, and 4Mi at least
    "#]],
    );
    broken(
        "hello:1",
        "hello:1, volumeMounts: [{volumeName: data, mountPath: 'c:/data'}, {mountPath: data}]",
        &expect![[r#"
            8:66 properties.template.containers[0].volumeMounts[0].volumeName InvalidValue: no volume named "data" is listed under template.volumes
            8:83 properties.template.containers[0].volumeMounts[0].mountPath InvalidValue: "c:/data" is not valid here: an absolute path other than /, without ':' and '..'
            8:95 properties.template.containers[0].volumeMounts[1].volumeName MissingValue: volumeName is required: the name of a volume
            8:107 properties.template.containers[0].volumeMounts[1].mountPath InvalidValue: "data" is not valid here: an absolute path other than /, without ':' and '..'
        "#]],
    );
    broken(
        "hello:1",
        "hello:1}\n    volumes: [{name: v, storageType: AzureFile}, {storageType: Floppy}]\n    initContainers: [{name: main, image: b}]\n    x: {",
        &expect![[r#"
            8:7 properties.template.containers InvalidValue: the name "main" is used twice
            9:15 properties.template.volumes[0].storageName MissingValue: storageName is required: the name of a storage of the environment
            9:50 properties.template.volumes[1].name MissingValue: name is required: containers mount a volume by its name
            9:64 properties.template.volumes[1].storageType InvalidValue: must be one of EmptyDir, Secret, AzureFile, NfsAzureFile, Smb, found "Floppy"
        "#]],
    );
    broken(
        "hello:1",
        "hello:1, probes: [{type: liveness, httpGet: {port: 0}, tcpSocket: {port: 1}, successThreshold: 2}, {type: Liveness, tcpSocket: {port: 1}, periodSeconds: 0, timeoutSeconds: 241}, {type: exec, exec: {command: [a]}}]",
        &expect![[r#"
            8:80 properties.template.containers[0].probes[0].httpGet.port InvalidValue: must lie between 1 and 65535, found "0"
            8:95 properties.template.containers[0].probes[0].tcpSocket InvalidValue: httpGet and tcpSocket exclude one another
            8:124 properties.template.containers[0].probes[0].successThreshold InvalidValue: must be 1, found "2"
            8:135 properties.template.containers[0].probes[1].type InvalidValue: a container has at most one Liveness probe
            8:182 properties.template.containers[0].probes[1].periodSeconds InvalidValue: must lie between 1 and 240, found "0"
            8:201 properties.template.containers[0].probes[1].timeoutSeconds InvalidValue: must lie between 1 and 240, found "241"
            8:207 properties.template.containers[0].probes[2].httpGet MissingValue: httpGet is required: a probe has httpGet or tcpSocket
            8:214 properties.template.containers[0].probes[2].type InvalidValue: must be one of Liveness, Readiness, Startup, found "exec"
        "#]],
    );
    broken(
        "hello:1",
        "hello:1, probes: [{type: readiness, httpGet: {port: 65536, path: 'a b', scheme: ftp, host: 'a_b', httpHeaders: [{value: x}, {name: 'a b', value: y}]}, initialDelaySeconds: 61, successThreshold: 11}, {type: startup, tcpSocket: {}, successThreshold: 2, failureThreshold: 0, terminationGracePeriodSeconds: 3601}]",
        &expect![[r#"
            8:81 properties.template.containers[0].probes[0].httpGet.port InvalidValue: must lie between 1 and 65535, found "65536"
            8:94 properties.template.containers[0].probes[0].httpGet.path InvalidValue: "a b" is not valid here: a path without white space
            8:109 properties.template.containers[0].probes[0].httpGet.scheme InvalidValue: must be one of HTTP, HTTPS, found "ftp"
            8:120 properties.template.containers[0].probes[0].httpGet.host InvalidValue: "a_b" is not valid here: a host name of labels and dots, without a wildcard
            8:141 properties.template.containers[0].probes[0].httpGet.httpHeaders[0].name MissingValue: name is required: the header's name
            8:160 properties.template.containers[0].probes[0].httpGet.httpHeaders[1].name InvalidValue: "a b" is not valid here: the name of an HTTP header
            8:201 properties.template.containers[0].probes[0].initialDelaySeconds InvalidValue: must lie between 0 and 60, found "61"
            8:223 properties.template.containers[0].probes[0].successThreshold InvalidValue: must lie between 1 and 10, found "11"
            8:255 properties.template.containers[0].probes[1].tcpSocket.port MissingValue: port is required: the number of the port that is asked
            8:277 properties.template.containers[0].probes[1].successThreshold InvalidValue: must be 1, found "2"
            8:298 properties.template.containers[0].probes[1].failureThreshold InvalidValue: must lie between 1 and 100000, found "0"
            8:332 properties.template.containers[0].probes[1].terminationGracePeriodSeconds InvalidValue: must lie between 0 and 3600, found "3601"
        "#]],
    );
    broken(
        "hello:1",
        "hello:1}\n    terminationGracePeriodSeconds: -1\n    scale: {minReplicas: 3, maxReplicas: 0, rules: [{name: a}, {name: b, http: {}, tcp: {}}]}\n    x: {",
        &expect![[r#"
            9:36 properties.template.terminationGracePeriodSeconds InvalidValue: must lie between 0 and 3600, found "-1"
            10:42 properties.template.scale.maxReplicas InvalidValue: must lie between 1 and 100000, found "0"
            10:53 properties.template.scale.rules[0] MissingValue: a scale rule has exactly one of http, tcp, custom, azureQueue
            10:64 properties.template.scale.rules[1] InvalidValue: a scale rule has exactly one of http, tcp, custom, azureQueue
        "#]],
    );
    broken(
        "hello:1",
        "hello:1}\n    scale: {minReplicas: 11}\n    x: {",
        &expect![[r#"
        9:26 properties.template.scale.minReplicas InvalidValue: 11 is more than maxReplicas, which is 10
    "#]],
    );
}

#[test]
fn jobs() {
    let job = "type: Microsoft.App/jobs\nproperties:\n  configuration: CONFIGURATION\n  template: {containers: [{name: a, image: b}]}\n";
    let check = |configuration: &str, expected: &Expect| {
        expected.assert_eq(&errors(&job.replace("CONFIGURATION", configuration)));
    };
    check(
        "{}",
        &expect![[r#"
        3:18 properties.configuration.replicaTimeout MissingValue: replicaTimeout is required: the seconds that a replica may run
    "#]],
    );
    check(
        "{triggerType: Schedule, replicaTimeout: 60}",
        &expect![[r#"
        3:18 properties.configuration.scheduleTriggerConfig MissingValue: scheduleTriggerConfig is required: triggerType: Schedule needs its cronExpression
    "#]],
    );
    check(
        "{triggerType: Schedule, replicaTimeout: 0, scheduleTriggerConfig: {cronExpression: '@daily', parallelism: 0}}",
        &expect![[r#"
            3:58 properties.configuration.replicaTimeout InvalidValue: must be 1 or more, found "0"
            3:101 properties.configuration.scheduleTriggerConfig.cronExpression InvalidValue: "@daily" is not valid here: five fields: minute 0-59, hour 0-23, day of the month 1-31, month 1-12, day of the week 0-7
            3:124 properties.configuration.scheduleTriggerConfig.parallelism InvalidValue: must lie between 1 and 100000, found "0"
        "#]],
    );
    check(
        "{triggerType: Event, replicaTimeout: 60, eventTriggerConfig: {scale: {minExecutions: 9, maxExecutions: 3, rules: [{metadata: [1]}]}}}",
        &expect![[r#"
            3:103 properties.configuration.eventTriggerConfig.scale.minExecutions InvalidValue: 9 is more than maxExecutions, which is 3
            3:132 properties.configuration.eventTriggerConfig.scale.rules[0].name MissingValue: name is required: every scale rule has a name of its own
            3:132 properties.configuration.eventTriggerConfig.scale.rules[0].type MissingValue: type is required: the scaler
            3:143 properties.configuration.eventTriggerConfig.scale.rules[0].metadata InvalidType: expected a mapping, found a list
        "#]],
    );
}

#[test]
fn the_skerry_block() {
    let with = |block: &str| format!("name: hello\nskerry: {block}");
    broken(
        "name: hello",
        &with("{generation: -1, absent: perhaps, updateStrategy: swap, readyDeadlineSeconds: 0}"),
        &expect![[r#"
            3:22 skerry.generation InvalidValue: must be 0 or more, found "-1"
            3:34 skerry.absent InvalidType: expected true or false, found "perhaps"
            3:59 skerry.updateStrategy InvalidValue: must be one of surge, recreate, found "swap"
            3:87 skerry.readyDeadlineSeconds InvalidValue: must lie between 1 and 86400, found "0"
        "#]],
    );
    broken(
        "name: hello",
        &with(
            "{updateWindow: {cron: '0 2 * *', durationMinutes: 0}, devices: [{hostPath: ttyUSB0, permissions: x}], probes: {main: {liveness: {tcpSocket: {}}}}}",
        ),
        &expect![[r#"
            3:31 skerry.updateWindow.cron InvalidValue: "0 2 * *" is not valid here: five fields: minute 0-59, hour 0-23, day of the month 1-31, month 1-12, day of the week 0-7
            3:59 skerry.updateWindow.durationMinutes InvalidValue: must lie between 1 and 10080, found "0"
            3:84 skerry.devices[0].hostPath InvalidValue: "ttyUSB0" is not valid here: an absolute path without '..'
            3:106 skerry.devices[0].permissions InvalidValue: "x" is not valid here: some of r, w and m
            3:137 skerry.probes.main.liveness.exec MissingValue: exec is required: a probe of this block runs a command
        "#]],
    );
    broken(
        "name: hello",
        &with("{capabilities: {add: [cap_net_admin, ALL, NET], drop: [all, chown, nothing]}}"),
        &expect![[r#"
            3:46 skerry.capabilities.add[1] InvalidValue: "ALL" is not valid here: the name of one capability, such as NET_ADMIN
            3:51 skerry.capabilities.add[2] InvalidValue: "NET" is not valid here: the name of one capability, such as NET_ADMIN
            3:76 skerry.capabilities.drop[2] InvalidValue: "nothing" is not valid here: the name of a capability, such as CHOWN, or ALL
        "#]],
    );
}
