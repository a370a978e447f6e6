//! The canonical text of a template reads back, and means the same however the document was written.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::app;
use crate::document::{
    Container, ContainerProbe, EnvValue, EnvVar, ProbeAction, Resources, Scale, ScaleAuth,
    ScaleRule, ScaleTrigger, SecretItem, ServiceBind, Template, Volume, VolumeMount, VolumeSource,
};
use crate::probe::ProbeKind;

#[test]
fn a_template_that_is_written_otherwise_has_the_same_digest() {
    let one = app("template: {containers: [{name: a, image: b, env: [{name: N, value: 1}]}]}");
    let other = app("
properties:
  template:
    volumes: []
    scale: {maxReplicas: 10.0, rules: null}
    containers:
      - image: \"b\"
        resources: {memory: 512Mi, cpu: '0.250'}
        env: [{value: \"1\", name: N}]
        name: a
");
    assert_eq!(one.template.digest(), other.template.digest());
    let third = app("template: {containers: [{name: a, image: b, env: [{name: N, value: 1.0}]}]}");
    assert_ne!(one.template.digest(), third.template.digest());
}

#[test]
fn the_canonical_text_is_acas_shape_with_everything_written_out() {
    let app = app("template: {containers: [{name: a, image: b}]}");
    expect_test::expect![[r#"{"containers":[{"args":[],"command":[],"env":[],"image":"b","name":"a","probes":[],"resources":{"cpu":"0.25","memory":"536870912"},"volumeMounts":[]}],"initContainers":[],"revisionSuffix":null,"scale":{"allowScalingRuleOverride":null,"cooldownPeriod":300,"maxReplicas":10,"minReplicas":0,"pollingInterval":30,"rules":[]},"serviceBinds":[],"terminationGracePeriodSeconds":null,"volumes":[]}"#]].assert_eq(&app.template.canonical());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,8}",
        Just("null".to_owned()),
        Just("[concat('a')]".to_owned()),
        Just("1.10".to_owned())
    ]
}

fn label() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}"
}

fn probe() -> impl Strategy<Value = (ProbeAction, [u32; 5], Option<u32>)> {
    let headers = prop::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,8}"), 0..3);
    let http = (prop::option::of(label()), 1..=u16::MAX, "/[a-z?=/]{0,8}", any::<bool>(), headers)
        .prop_map(|(host, port, path, https, headers)| ProbeAction::Http {
            host,
            port,
            path,
            https,
            headers,
        });
    let tcp = (prop::option::of(label()), 1..=u16::MAX)
        .prop_map(|(host, port)| ProbeAction::Tcp { host, port });
    let numbers = (0..=60_u32, 1..=240_u32, 1..=240_u32, 1..=10_u32, 1..=300_u32)
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e]);
    (prop_oneof![http, tcp], numbers, prop::option::of(0..=3600_u32))
}

fn probes() -> impl Strategy<Value = Vec<ContainerProbe>> {
    prop::collection::vec(probe(), 0..=3).prop_map(|all| {
        let kinds = [ProbeKind::Readiness, ProbeKind::Liveness, ProbeKind::Startup];
        let each =
            all.into_iter().zip(kinds).map(|((action, numbers, grace), kind)| ContainerProbe {
                kind,
                action,
                initial_delay_secs: numbers[0],
                period_secs: numbers[1],
                timeout_secs: numbers[2],
                success_threshold: if kind == ProbeKind::Readiness { numbers[3] } else { 1 },
                failure_threshold: numbers[4],
                termination_grace_period_secs: grace,
            });
        each.collect()
    })
}

fn container() -> impl Strategy<Value = Container> {
    let value = prop_oneof![text().prop_map(EnvValue::Plain), label().prop_map(EnvValue::Secret)];
    let env = prop::collection::btree_map("[A-Z_]{1,6}", value, 0..4)
        .prop_map(|all| all.into_iter().map(|(name, value)| EnvVar { name, value }).collect());
    let texts = || prop::collection::vec(text(), 0..3);
    let resources =
        (1..=400_u32, (4_u64 << 20)..=(1 << 40)).prop_map(|(hundredths, memory_bytes)| Resources {
            cpu_millis: hundredths * 10,
            memory_bytes,
        });
    (
        "[a-z./:0-9]{0,12}",
        texts(),
        texts(),
        env,
        resources,
        prop::collection::vec(("/[a-z/]{1,8}", "[a-z]{0,4}"), 0..3),
        probes(),
    )
        .prop_map(|(image, command, args, env, resources, mounts, probes)| Container {
            name: String::new(),
            image: format!("i{image}"),
            command,
            args,
            env,
            resources,
            volume_mounts: mounts
                .into_iter()
                .map(|(mount_path, sub_path)| VolumeMount {
                    volume_name: String::new(),
                    mount_path,
                    sub_path,
                })
                .collect(),
            probes,
        })
}

fn scale() -> impl Strategy<Value = Scale> {
    let metadata = || prop::collection::btree_map(label(), text(), 0..3).boxed();
    let queue = (prop::option::of(label()), prop::option::of(label()), prop::option::of(1..9_u32))
        .prop_map(|(account_name, queue_name, queue_length)| ScaleTrigger::AzureQueue {
            account_name,
            queue_name,
            queue_length,
        });
    let trigger = prop_oneof![
        metadata().prop_map(|metadata| ScaleTrigger::Http { metadata }),
        metadata().prop_map(|metadata| ScaleTrigger::Tcp { metadata }),
        (label(), metadata()).prop_map(|(kind, metadata)| ScaleTrigger::Custom { kind, metadata }),
        queue,
    ];
    let auth = prop::collection::vec((label(), "[a-z]{0,3}"), 0..2).prop_map(|all| {
        all.into_iter()
            .map(|(secret_ref, trigger_parameter)| ScaleAuth { secret_ref, trigger_parameter })
            .collect()
    });
    let rules =
        prop::collection::btree_map(label(), (trigger, auth, prop::option::of(label())), 0..3);
    (0..9_u32, 9..99_u32, 1..999_u32, 1..999_u32, prop::option::of(any::<bool>()), rules).prop_map(
        |(
            min_replicas,
            max_replicas,
            cooldown_period_secs,
            polling_interval_secs,
            allow_scaling_rule_override,
            rules,
        )| {
            let rule =
                |(name, (trigger, auth, identity))| ScaleRule { name, trigger, auth, identity };
            let rules = rules.into_iter().map(rule).collect();
            Scale {
                min_replicas,
                max_replicas,
                cooldown_period_secs,
                polling_interval_secs,
                allow_scaling_rule_override,
                rules,
            }
        },
    )
}

fn volumes() -> impl Strategy<Value = Vec<Volume>> {
    let items = prop::collection::vec((label(), "[a-z]{1,5}"), 0..3).prop_map(|all| {
        all.into_iter().map(|(secret_ref, path)| SecretItem { secret_ref, path }).collect()
    });
    let source = prop_oneof![
        Just(VolumeSource::EmptyDir),
        items.prop_map(|items| VolumeSource::Secret { items }),
        label().prop_map(|storage_name| VolumeSource::Storage { storage_name }),
    ];
    prop::collection::vec((source, prop::option::of("[a-z=,0-9]{1,9}")), 1..4).prop_map(|all| {
        let volume = |(index, (source, mount_options))| Volume {
            name: format!("v{index}"),
            source,
            mount_options,
        };
        all.into_iter().enumerate().map(volume).collect()
    })
}

fn template() -> impl Strategy<Value = Template> {
    let binds = prop::collection::vec((label(), label()), 0..2).prop_map(|all| {
        all.into_iter().map(|(service_id, name)| ServiceBind { service_id, name }).collect()
    });
    let containers = |least| prop::collection::vec(container(), least..3);
    (
        prop::option::of(label()),
        prop::option::of(0..=3600_u32),
        containers(0),
        containers(1),
        scale(),
        volumes(),
        binds,
    )
        .prop_map(
            |(
                suffix,
                grace,
                mut init_containers,
                mut containers,
                scale,
                volumes,
                service_binds,
            )| {
                for (index, container) in
                    containers.iter_mut().chain(&mut init_containers).enumerate()
                {
                    container.name = format!("c{index}");
                    for (index, mount) in container.volume_mounts.iter_mut().enumerate() {
                        mount.volume_name = volumes[index % volumes.len()].name.clone();
                    }
                }
                for container in &mut init_containers {
                    container.probes.clear();
                }
                Template {
                    extras: crate::document::Extras::default(),
                    revision_suffix: suffix.map(|suffix| suffix.parse().unwrap()),
                    termination_grace_period_secs: grace,
                    init_containers,
                    containers,
                    scale,
                    volumes,
                    service_binds,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_canonical_text_of_any_template_reads_back(template in template()) {
        let text = template.canonical();
        prop_assert_eq!(Template::from_canonical(&text), Ok(template.clone()));
        prop_assert_eq!(template.canonical(), text);
    }

    #[test]
    fn a_document_with_the_canonical_text_has_the_same_template(mut template in template()) {
        // What an expression is depends on where it stands; a document never holds one.
        for container in template.containers.iter_mut().chain(&mut template.init_containers) {
            container.command.retain(|text| !text.starts_with('['));
            container.args.retain(|text| !text.starts_with('['));
            container.env.retain(|variable| matches!(&variable.value, EnvValue::Plain(text) if !text.starts_with('[')));
        }
        template.scale.rules = Vec::new();
        template.volumes.retain(|volume| !matches!(volume.source, VolumeSource::Secret { .. }));
        let left: BTreeSet<String> = template.volumes.iter().map(|volume| volume.name.clone()).collect();
        for container in template.containers.iter_mut().chain(&mut template.init_containers) {
            container.volume_mounts.retain(|mount| left.contains(&mount.volume_name));
        }
        let document = app(&format!("{{\"properties\": {{\"template\": {}}}}}", template.canonical()));
        prop_assert_eq!(document.template, template);
    }
}
