//! What is read from a document, however it is written.

use super::{SMALL, app, errors, warnings};
use crate::document::{Document, EnvValue, ScaleTarget, effective_probes, parse};
use crate::probe::{Ask, Probe, ProbeKind};

fn variable(text: &str) -> String {
    let document = format!(
        "
template:
  containers:
    - name: main
      image: hello:1
      env:
        - name: X
          value: {text}
"
    );
    match app(&document).template.containers[0].env[0].value.clone() {
        EnvValue::Plain(text) => text,
        EnvValue::Secret(name) => panic!("a secret {name}"),
    }
}

#[test]
fn a_text_stays_as_it_was_written() {
    let cases = [
        ("80", "80"),
        ("1.10", "1.10"),
        ("0x1F", "0x1F"),
        ("1e999", "1e999"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("True", "True"),
        (".nan", ".nan"),
        ("1.10 # a price", "1.10"),
        ("2026-01-01", "2026-01-01"),
        (
            "12345678901234567890123456789012345678901234567890",
            "12345678901234567890123456789012345678901234567890",
        ),
        ("'80'", "80"),
        ("\"a\\tb\"", "a\tb"),
        ("\"\\ud83d\\ude00\"", "😀"),
        ("'[\"a\"]'", "[\"a\"]"),
        ("", ""),
        ("null", ""),
    ];
    for (written, read) in cases {
        assert_eq!(variable(written), read, "{written}");
    }
}

#[test]
fn json_is_read_with_its_tabs_and_escapes() {
    let text = "{\r\n\t\"name\": \"hello\",\r\n\t\"properties\": {\r\n\t\t\"template\": {\"containers\": [{\"name\":\"main\",\"image\":\"a\\/b:1\",\
        \"env\":[{\"name\":\"N\",\"value\":1.10},{\"name\":\"E\",\"value\":\"\\ud83d\\ude00\"}]}]}\r\n\t}\r\n}\r\n";
    let container = app(text).template.containers.remove(0);
    assert_eq!(container.image, "a/b:1");
    assert_eq!(container.env[0].value, EnvValue::Plain("1.10".to_owned()));
    assert_eq!(container.env[1].value, EnvValue::Plain("😀".to_owned()));
}

#[test]
fn nul_bytes_and_a_byte_order_mark_are_no_part_of_it() {
    let text = format!("\u{feff}{}", SMALL.replace("hello:1", "hel\0lo:1"));
    assert_eq!(app(&text).template.containers[0].image, "hello:1");
}

#[test]
fn keys_at_the_top_level_count_as_properties() {
    let text = "
managedEnvironmentId: /subscriptions/x/managedEnvironments/Lab/
environmentId: other
configuration: {activeRevisionsMode: multiple, ingress: {transport: HTTP2, external: 'true', targetPort: '8080'}}
template: {containers: [{name: main, image: a}], scale: {minReplicas: 1.0}}
";
    let app = app(text);
    assert_eq!(app.environment.as_str(), "lab");
    let ingress = app.configuration.ingress.unwrap();
    assert!(ingress.external);
    assert_eq!(ingress.target_port, 8080);
    assert_eq!(app.template.scale.min_replicas, 1);
}

#[test]
fn null_is_not_given() {
    let text = SMALL
        .replace("{targetPort: 80}", "null")
        .replace("  template:\n", "  template:\n    scale: {minReplicas: 1, rules: ~}\n")
        .replace("hello:1", "hello:1, env: null, probes: ~");
    assert_eq!(app(&text).configuration.ingress, None);
    assert_eq!(warnings(&text), "");
}

#[test]
fn aliases_and_merge_keys_repeat_a_block() {
    let text = "
template:
  containers:
    - &base {name: one, image: a, env: [{name: N, value: 010}]}
    - <<: *base
      name: two
";
    let app = app(text);
    assert_eq!(app.template.containers[1].name, "two");
    assert_eq!(app.template.containers[1].env, app.template.containers[0].env);
    assert_eq!(app.template.containers[1].env[0].value, EnvValue::Plain("010".to_owned()));
}

#[test]
fn of_two_variables_with_one_name_the_last_wins() {
    let text = SMALL.replace(
        "hello:1",
        "hello:1, env: [{name: A, value: 1}, {name: B, value: 2}, {name: A, value: 3}]",
    );
    let env = app(&text).template.containers.remove(0).env;
    let pairs: Vec<_> =
        env.iter().map(|variable| (variable.name.as_str(), &variable.value)).collect();
    assert_eq!(
        pairs,
        [("B", &EnvValue::Plain("2".to_owned())), ("A", &EnvValue::Plain("3".to_owned()))]
    );
    assert!(warnings(&text).contains("given twice"));
}

#[test]
fn the_url_of_a_registry_becomes_its_host() {
    let text = SMALL
        .replace("ingress:", "registries: [{server: 'https://r.example:5000/'}]\n    ingress:");
    assert_eq!(app(&text).configuration.registries[0].server, "r.example:5000");
}

#[test]
fn a_document_that_removes_an_app_needs_no_template() {
    let app = app("name: hello\nskerry: {absent: true, generation: 12}\n");
    assert!(app.skerry.absent);
    assert_eq!(app.skerry.generation, Some(12));
    assert_eq!(app.skerry.ready_deadline_secs, 600);
    let job = parse(b"type: microsoft.app/JOBS\nskerry: {absent: true}\n").document.unwrap();
    assert!(matches!(job, Document::Job(_)));
}

#[test]
fn a_job_is_known_by_its_trigger_where_the_type_is_missing() {
    let text = b"properties: {configuration: {triggerType: manual, replicaTimeout: 60}, template: {containers: [{name: a, image: b}]}}";
    assert!(matches!(parse(text).document, Ok(Document::Job(_))));
}

#[test]
fn a_secret_does_not_show_in_what_is_printed() {
    let text = SMALL.replace("ingress:", "secrets: [{name: key, value: hunter2}]\n    ingress:");
    assert!(!format!("{:?}", app(&text)).contains("hunter2"));
    let broken = SMALL
        .replace("ingress:", "secrets: [{name: key, value: {hunter2: hunter2}}]\n    ingress:");
    assert!(!errors(&broken).contains("hunter2"));
}

#[test]
fn host_names_are_checked_under_the_name_that_the_document_was_sent_to() {
    let text = SMALL
        .replace("name: hello\n", "")
        .replace("containers:", &format!("revisionSuffix: {}\n    containers:", "s".repeat(40)));
    let app = app(&text);
    assert_eq!(app.check_host_names(&"short".parse().unwrap()), []);
    let long = "a".repeat(32).parse().unwrap();
    assert_eq!(app.check_host_names(&long)[0].path, "properties.template.revisionSuffix");
}

#[test]
fn a_host_name_that_is_too_long_is_named_where_it_was_written() {
    let suffix = "s".repeat(60);
    let template =
        format!("template: {{revisionSuffix: {suffix}, containers: [{{name: a, image: b}}]}}");
    let above = errors(&format!("name: hello\n{template}"));
    assert!(above.starts_with("- template.revisionSuffix HostNameTooLong"), "{above}");
    let below = errors(&format!("name: hello\nproperties: {{{template}}}"));
    assert!(below.starts_with("- properties.template.revisionSuffix HostNameTooLong"), "{below}");
}

#[test]
fn the_main_container_gets_the_default_probes_that_it_lacks() {
    let text = SMALL.replace(
        "hello:1",
        "hello:1, probes: [{type: readiness, httpGet: {port: 81, path: ready}}]",
    );
    let container = app(&text).template.containers.remove(0);
    let probes = effective_probes(&container, None, Some(80));
    let shape: Vec<_> =
        probes.iter().map(|probe| (probe.kind, probe.eager, probe.failure_threshold)).collect();
    assert_eq!(
        shape,
        [
            (ProbeKind::Startup, true, 240),
            (ProbeKind::Readiness, false, 3),
            (ProbeKind::Liveness, true, 3)
        ]
    );
    assert_eq!(effective_probes(&container, None, None).len(), 1);
    assert_eq!(effective_probes(&container, None, Some(0)).len(), 1);
}

#[test]
fn the_fields_of_a_probe_have_the_defaults_of_aca() {
    let text = SMALL.replace(
        "hello:1",
        "hello:1, probes: [{type: Liveness, httpGet: {port: 81}}, {type: Readiness, tcpSocket: {port: 82}, \
         initialDelaySeconds: 60, periodSeconds: 240, timeoutSeconds: 240, successThreshold: 10, \
         failureThreshold: 240, terminationGracePeriodSeconds: 3600}]",
    );
    let container = app(&text).template.containers.remove(0);
    let numbers = |probe: &Probe| {
        let secs = [probe.initial_delay, probe.period, probe.timeout].map(|time| time.as_secs());
        (secs, probe.success_threshold, probe.failure_threshold, probe.grace.map(|it| it.as_secs()))
    };
    let probes = effective_probes(&container, None, None);
    let [readiness, liveness] = &probes[..] else { panic!("{probes:?}") };
    let ask =
        Ask::Http { host: None, port: 81, path: "/".to_owned(), https: false, headers: Vec::new() };
    assert_eq!(liveness.ask, ask);
    assert_eq!(numbers(liveness), ([0, 10, 1], 1, 3, None));
    assert_eq!(readiness.ask, Ask::Tcp { host: None, port: 82 });
    assert_eq!(numbers(readiness), ([60, 240, 240], 10, 240, Some(3600)));
    assert!(!readiness.eager && !liveness.eager);
}

#[test]
fn a_probe_keeps_host_scheme_path_and_headers() {
    let text = SMALL.replace(
        "hello:1",
        "hello:1, probes: [{type: startup, httpGet: {host: other, port: 8443, path: a/b?c=d, scheme: https, \
         httpHeaders: [{name: X-A, value: 'b c'}]}}]",
    );
    assert_eq!(warnings(&text), "");
    let probes = effective_probes(&app(&text).template.containers[0], None, None);
    let ask = Ask::Http {
        host: Some("other".to_owned()),
        port: 8443,
        path: "/a/b?c=d".to_owned(),
        https: true,
        headers: vec![("X-A".to_owned(), "b c".to_owned())],
    };
    assert_eq!(probes[0].ask, ask);
}

#[test]
fn a_command_takes_the_place_of_what_a_probe_asks_and_leaves_its_timing() {
    let text = SMALL.replace(
        "hello:1",
        "hello:1, probes: [{type: liveness, tcpSocket: {port: 81}, periodSeconds: 7, failureThreshold: 9}]",
    ) + "skerry: {probes: {main: {liveness: {exec: {command: [test, -e, /a]}}, startup: {exec: {command: [b]}}}}}\n";
    assert_eq!(warnings(&text), "");
    let template = app(&text).template;
    let commands = template.extras.exec_probes.get("main");
    let probes = effective_probes(&template.containers[0], commands, Some(80));
    let command = |words: &[&str]| Ask::Exec {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    let shape: Vec<_> = probes
        .iter()
        .map(|probe| {
            (probe.kind, probe.ask.clone(), probe.period.as_secs(), probe.failure_threshold)
        })
        .collect();
    assert_eq!(
        shape,
        [
            (ProbeKind::Startup, command(&["b"]), 10, 3),
            (ProbeKind::Readiness, Ask::Tcp { host: None, port: 80 }, 5, 48),
            (ProbeKind::Liveness, command(&["test", "-e", "/a"]), 7, 9),
        ]
    );
    let timeouts: Vec<_> =
        probes.iter().map(|probe| (probe.timeout.as_secs(), probe.eager)).collect();
    assert_eq!(timeouts, [(1, false), (5, true), (1, false)]);
}

#[test]
fn an_exec_probe_of_an_unknown_container_is_refused_by_path() {
    let probes = |name: &str| {
        SMALL.to_owned()
            + &format!("skerry: {{probes: {{{name}: {{liveness: {{exec: {{command: [a]}}}}}}}}}}\n")
    };
    assert_eq!(
        errors(&probes("mian")),
        "9:25 skerry.probes.mian InvalidValue: the template has no container named \"mian\"; did you mean \"main\"?\n"
    );
    let init = probes("first")
        .replace("containers:", "initContainers: [{name: first, image: a:1}]\n    containers:");
    assert!(
        errors(&init).ends_with("no container named \"first\"; init containers have no probes\n")
    );
    assert_eq!(warnings(&probes("main")), "");
}

#[test]
fn a_scale_target_is_set_cleared_or_refused() {
    assert_eq!(ScaleTarget::parse(b" \n").unwrap(), None);
    assert_eq!(ScaleTarget::parse(b"{}").unwrap(), None);
    let pinned = ScaleTarget { replicas: Some(0), ..ScaleTarget::default() };
    assert_eq!(ScaleTarget::parse(b"{\"replicas\": 0}").unwrap(), Some(pinned));
    let range = ScaleTarget { min_replicas: Some(1), max_replicas: Some(3), replicas: None };
    assert_eq!(ScaleTarget::parse(b"minReplicas: 1\nmaxReplicas: 3").unwrap(), Some(range));
    for bad in [
        "replicas: -1",
        "replicas: many",
        "replica: 1",
        "[]",
        "minReplicas: 3\nmaxReplicas: 1",
        "{",
    ] {
        assert!(ScaleTarget::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}
