//! Rules as they stand in documents, and what they come to.

use super::*;
use crate::document::{Container, EnvValue, EnvVar, ScaleAuth};

/// `key=value`, separated by blanks.
fn rule(kind: &str, metadata: &str, auth: &str) -> ScaleRule {
    let pairs = |text: &str| -> Vec<(String, String)> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let auth = pairs(auth).into_iter();
    ScaleRule {
        name: "rule".to_owned(),
        trigger: ScaleTrigger::Custom {
            kind: kind.to_owned(),
            metadata: pairs(metadata).into_iter().collect(),
        },
        auth: auth
            .map(|(trigger_parameter, secret_ref)| ScaleAuth { secret_ref, trigger_parameter })
            .collect(),
        identity: None,
    }
}

fn secret(text: &str) -> Secret {
    Secret(text.to_owned())
}

fn polled(rule: &ScaleRule) -> Result<Polled, Unreadable> {
    let variable = |name: &str, value| EnvVar { name: name.to_owned(), value };
    let first = Container {
        env: vec![
            variable("URL", EnvValue::Plain("http://first".to_owned())),
            variable("URL", EnvValue::Plain("http://api:81/x".to_owned())),
            variable("KEY", EnvValue::Secret("key".to_owned())),
            variable("LOST", EnvValue::Secret("lost".to_owned())),
        ],
        ..Container::default()
    };
    let second = Container {
        env: vec![variable("OTHER", EnvValue::Plain("x".to_owned()))],
        ..Container::default()
    };
    let template = Template { containers: vec![first, second], ..Template::default() };
    read(rule, &template, &[("key".to_owned(), secret("s3"))].into())
}

#[track_caller]
fn check(kind: &str, metadata: &str, auth: &str, source: Source, target: f64, activation: f64) {
    let expected = Polled { source, target, activation };
    assert_eq!(polled(&rule(kind, metadata, auth)), Ok(expected), "{kind} {metadata} {auth}");
}

#[track_caller]
fn refused(kind: &str, metadata: &str, auth: &str, expected: &str) {
    let error = polled(&rule(kind, metadata, auth)).unwrap_err();
    assert_eq!(error.to_string(), expected, "{kind} {metadata} {auth}");
}

fn http(host: &str, port: u16, path: &str) -> HttpUrl {
    HttpUrl { tls: false, host: host.to_owned(), port, path: path.to_owned() }
}

#[test]
fn usage_is_a_share_of_the_limit() {
    let source = |resource| Source::Usage(resource, Vec::new());
    check("cpu", "type=Utilization value=50", "", source(Resource::Cpu), 50.0, 0.0);
    check("Memory", "metricType=utilization VALUE=80", "", source(Resource::Memory), 80.0, 0.0);
    let only = "only Utilization, in per cent of the limit, is supported";
    refused("cpu", "type=AverageValue value=50", "", &format!("type: {only}"));
    refused("cpu", "metrictype=Value value=50", "", &format!("metrictype: {only}"));
    refused("cpu", "type=Utilization", "", "value: it is missing");
    refused("memory", "value=0", "", "value: it is a number above 0");
    refused("memory", "value=-1", "", "value: it is a number, 0 or more");
    refused("memory", "value=NaN", "", "value: it is a number, 0 or more");
}

#[test]
fn messages_are_counted_as_their_rule_says() {
    let mqtt = |mode, url| MqttSource {
        url,
        username: None,
        password: None,
        topic: "jobs/+".to_owned(),
        mode,
    };
    let source = |mode| Source::Mqtt(mqtt(mode, None));
    check("mqtt", "topic=jobs/+", "", source(MqttMode::Rate), 5.0, 0.0);
    let numbers = "topic=jobs/+ mode=retained value=2.5 activationValue=1";
    check("mqtt", numbers, "", source(MqttMode::Retained), 2.5, 1.0);
    let lag = MqttMode::Lag { done_topic: "done/#".to_owned() };
    check("mqtt", "topic=jobs/+ mode=Lag doneTopic=done/#", "", source(lag), 5.0, 0.0);
    let url = MqttUrl { tls: true, host: "broker".to_owned(), port: 8883 };
    let source = Source::Mqtt(MqttSource {
        username: Some("me".to_owned()),
        password: Some(secret("s3")),
        ..mqtt(MqttMode::Rate, Some(url))
    });
    let metadata = "topic=jobs/+ url=mqtts://broker username=me password=wrong";
    check("mqtt", metadata, "password=key", source, 5.0, 0.0);
    refused("mqtt", "mode=rate", "", "topic: it is missing");
    refused("mqtt", "topic=a/#/b", "", "topic: it is no filter for MQTT topics");
    refused("mqtt", "topic=a+", "", "topic: it is no filter for MQTT topics");
    refused("mqtt", "topic=a mode=lag", "", "doneTopic: it is missing");
    refused("mqtt", "topic=a mode=sum", "", "mode: it is one of rate, retained, lag");
    let rule = "url: it is mqtt://HOST[:PORT] or mqtts://HOST[:PORT], without a user";
    refused("mqtt", "topic=a url=mqtt://me:pw@broker", "", rule);
    let own =
        "username: the agent's own broker is reached as the agent; a url of its own is missing";
    refused("mqtt", "topic=a username=me", "", own);
}

#[test]
fn a_number_of_a_json_document_is_asked_for_with_its_credentials() {
    let base = "valueLocation=a.b targetValue=4 activationTargetValue=1.5";
    let source = |credentials| {
        Source::MetricsApi(MetricsApi {
            url: http("api", 81, "/x"),
            unsafe_ssl: false,
            credentials,
            location: Location::parse("a.b").unwrap(),
        })
    };
    let key = |name: &str, place| {
        Credentials::Key(ApiKey { name: name.to_owned(), place, value: secret("s3") })
    };
    let basic = Credentials::Basic { username: "me".to_owned(), password: secret("s3") };
    for (metadata, auth, credentials) in [
        ("url=http://api:81/x", "", Credentials::None),
        ("urlFromEnv=URL", "", Credentials::None),
        ("urlfromenv=URL authMode=basic username=me", "password=key", basic),
        ("urlFromEnv=URL authMode=bearer", "token=key", Credentials::Bearer(secret("s3"))),
        ("urlFromEnv=URL authMode=bearer tokenFromEnv=KEY", "", Credentials::Bearer(secret("s3"))),
        ("urlFromEnv=URL authMode=apiKey", "APIKEY=key", key("X-API-KEY", KeyPlace::Header)),
        (
            "urlFromEnv=URL authMode=apiKey method=query keyParamName=k",
            "apiKey=key",
            key("k", KeyPlace::Query),
        ),
    ] {
        check("metrics-api", &format!("{metadata} {base}"), auth, source(credentials), 4.0, 1.5);
    }
    let url = "url=http://api";
    let with = |more: &str| format!("{url} {base} {more}");
    refused("metrics-api", &with("format=yaml"), "", "format: only json is supported");
    refused(
        "metrics-api",
        &with("authMode=tls"),
        "",
        "authMode: it is one of basic, bearer, apiKey",
    );
    refused("metrics-api", &with("authMode=bearer"), "", "token: this authMode needs it");
    let no_value = "token: the secret \"none\" has no value";
    refused("metrics-api", &with("authMode=bearer"), "token=none", no_value);
    refused("metrics-api", &format!("{url} valueLocation=a"), "", "targetValue: it is missing");
    let steps = "valueLocation: it is names between dots, such as a.b.0.c";
    refused("metrics-api", &format!("{url} targetValue=1 valueLocation=a..b"), "", steps);
}

#[test]
fn values_from_the_environment_are_those_of_the_first_container() {
    let metadata = |variable: &str| format!("urlFromEnv={variable} valueLocation=a targetValue=1");
    let other = "url: the first container has no variable \"OTHER\"";
    refused("metrics-api", &metadata("OTHER"), "", other);
    refused("metrics-api", &metadata("LOST"), "", "url: the secret \"lost\" has no value");
}

#[test]
fn a_metric_is_read_from_its_page_or_asked_of_a_server() {
    let source = |url, pages| {
        Source::Prometheus(Prometheus {
            url,
            unsafe_ssl: false,
            credentials: Credentials::None,
            pages,
            absent_is_zero: true,
        })
    };
    let pages = |labels: &[(&str, &str)]| Pages::Exposition {
        metric: "jobs".to_owned(),
        labels: labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
    };
    let url = || http("app", 80, "/metrics");
    let base = "url=http://app/metrics metricName=jobs threshold=7";
    check("prometheus", base, "", source(url(), pages(&[])), 7.0, 0.0);
    let labels = pages(&[("queue", "a"), ("zone", "b")]);
    for text in [r#"queue="a",zone="b""#, r#"{queue="a",zone="b"}"#] {
        let metadata = format!("{base} labels={text} activationThreshold=2");
        check("prometheus", &metadata, "", source(url(), labels.clone()), 7.0, 2.0);
    }
    let query = http("prom", 9090, "/base/api/v1/query?query=sum%28jobs%7Ba%3D%22b%22%7D%29");
    let metadata = r#"serverAddress=http://prom:9090/base/ query=sum(jobs{a="b"}) threshold=1"#;
    check("prometheus", metadata, "", source(query, Pages::Query), 1.0, 0.0);
    refused("prometheus", "serverAddress=http://prom threshold=1", "", "query: it is missing");
    refused("prometheus", "url=http://app threshold=1", "", "metricName: it is missing");
    let odd = r#"labels: it is like queue="a",zone="b""#;
    refused("prometheus", &format!("{base} labels=queue=a"), "", odd);
    let rule = "url: it is http://HOST[:PORT][/PATH] or https://…, without a user";
    for url in ["ftp://app", "http://a:b@app", "http://", "http://app:0/", "http://[::1]/"] {
        refused("prometheus", &format!("url={url} metricName=jobs threshold=1"), "", rule);
    }
}

#[test]
fn a_scaler_gets_all_metadata_but_its_own_address() {
    let given = |pairs: &[(&str, &str)]| -> BTreeMap<String, Secret> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), secret(value))).collect()
    };
    let scaler = |metadata, push| {
        Source::External(ExternalScaler { host: "s.local".to_owned(), port: 9090, metadata, push })
    };
    let metadata = "scalerAddress=s.local:9090 Queue=a connectionFromEnv=KEY";
    let all = given(&[("Queue", "a"), ("connectionFromEnv", "s3"), ("token", "s3")]);
    check("external", metadata, "token=key", scaler(all, Push::Never), 1.0, 0.0);
    let push = scaler(given(&[]), Push::Activity);
    check("external-push", "scaleraddress=s.local:9090", "", push, 1.0, 0.0);
    refused("external", "scalerAddress=s.local", "", "scalerAddress: it is HOST:PORT");
    refused("external", "a=b", "", "scalerAddress: it is missing");
    let tls = "scalerAddress=s:1 enableTLS=true";
    refused("external", tls, "", "enableTLS: TLS to a scaler is not supported");
}

#[test]
fn what_nobody_samples_is_told_apart() {
    let error = |kind: &str| polled(&rule(kind, "", "")).unwrap_err();
    assert_eq!(error("cron"), Unreadable::Scheduled);
    assert_eq!(error("http"), Unreadable::Counted);
    assert_eq!(error("kafka"), Unreadable::UnknownType("kafka".to_owned()));
    let trigger =
        ScaleTrigger::AzureQueue { account_name: None, queue_name: None, queue_length: None };
    let queue = ScaleRule { trigger, ..rule("", "", "") };
    assert_eq!(polled(&queue), Err(Unreadable::UnknownType("azureQueue".to_owned())));
}
