//! Topics of a real broker.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

use super::*;
use crate::broker::Broker as Address;
use crate::broker::testing::Broker;

const EVERY: Duration = Duration::from_millis(500);

/// Publishes to a broker.
struct Publisher {
    client: AsyncClient,
    acknowledged: watch::Receiver<u32>,
}

impl Publisher {
    fn new(name: &str, port: u16) -> Self {
        let options = MqttOptions::new(name, "127.0.0.1", port);
        let (client, mut events) = AsyncClient::new(options, 64);
        let (acknowledge, acknowledged) = watch::channel(0);
        let tasks = crate::tasks::Tasks::default();
        tasks.spawn_short(tracing::Span::none(), async move {
            while let Ok(event) = events.poll().await {
                if matches!(event, Event::Incoming(Packet::PubAck(_))) {
                    acknowledge.send_modify(|count| *count += 1);
                }
            }
        });
        Self { client, acknowledged }
    }

    /// Returns when the broker has it.
    async fn say(&mut self, topic: &str, retain: bool, payload: &str) {
        let (payload, before) = (payload.to_owned(), *self.acknowledged.borrow());
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await.unwrap();
        let acknowledged = self.acknowledged.wait_for(|count| before < *count);
        time::timeout(PATIENCE, acknowledged).await.unwrap().unwrap();
    }
}

fn access(port: u16) -> Access {
    let broker = Address { tls: false, host: "127.0.0.1".to_owned(), port };
    let username = String::new();
    Access { broker, ca: None, identity: None, username, password_file: None }
}

fn rule(metadata: &[(&str, &str)]) -> Sample {
    sample("mqtt", metadata, EVERY)
}

#[tokio::test]
async fn an_app_lags_behind_by_what_came_and_is_not_done() {
    let Some(mut broker) = Broker::start("").await else { return };
    let mut bench = Bench::new(Some(access(broker.port)));
    let mut publisher = Publisher::new("jobs", broker.port);
    publisher.say("jobs/0", true, "from before").await;
    bench.plan(&[(
        "lag",
        rule(&[("mode", "lag"), ("topic", "jobs/+"), ("doneTopic", "jobs/+/done"), ("value", "2")]),
    )]);
    bench.value("lag", 0.0).await;
    for number in 1..=5 {
        publisher.say(&format!("jobs/{number}"), false, "do").await;
    }
    bench.value("lag", 5.0).await;
    let expected = Reading::Value { value: 5.0, target: 2.0, activation: 0.0 };
    assert_eq!(bench.readings.borrow()[&key("lag")], expected);
    for number in 1..=3 {
        publisher.say(&format!("jobs/{number}/done"), false, "").await;
    }
    bench.value("lag", 2.0).await;

    // A broker that is away is a failure, and what was counted is kept.
    broker.kill().await;
    let failed = |reading: &Reading| matches!(reading, Reading::Failed(_));
    let Reading::Failed(trouble) = bench.reading("lag", failed).await else { unreachable!() };
    assert_eq!(trouble.reason, Reason::ScalerFailed);
    let broker_at = format!("mqtt://127.0.0.1:{}: ", broker.port);
    assert!(trouble.details.starts_with(&broker_at), "{}", trouble.details);
    broker.resume().await;
    bench.value("lag", 2.0).await;
    let mut publisher = Publisher::new("more jobs", broker.port);
    publisher.say("jobs/6", false, "do").await;
    bench.value("lag", 3.0).await;
    assert_eq!(bench.here.notes(), [""; 0], "the agent's own broker is dialled from the board");
}

#[tokio::test]
async fn messages_are_counted_by_the_second_and_only_while_they_come() {
    let Some(broker) = Broker::start("").await else { return };
    let mut bench = Bench::new(Some(access(broker.port)));
    bench.plan(&[("rate", rule(&[("topic", "jobs/#")]))]);
    bench.value("rate", 0.0).await;
    let mut publisher = Publisher::new("jobs", broker.port);
    for _ in 0..10 {
        publisher.say("jobs/a", false, "do").await;
    }
    let came = |reading: &Reading| matches!(reading, Reading::Value { value, .. } if 0.0 < *value);
    let Reading::Value { value, target, .. } = bench.reading("rate", came).await else {
        unreachable!()
    };
    assert!(value < 21.0, "ten in half a second are about 20 a second at most: {value}");
    assert!(target.total_cmp(&5.0).is_eq());
    bench.value("rate", 0.0).await;
}

#[tokio::test]
async fn a_retained_number_is_read_at_a_broker_that_the_document_names() {
    if !may_dial() {
        return;
    }
    let Some(broker) = Broker::start("").await else { return };
    let mut bench = Bench::new(None);
    let mut publisher = Publisher::new("numbers", broker.port);
    publisher.say("length/a", true, "7").await;
    publisher.say("length/b", true, " 5.5\n").await;
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let with = |topic| rule(&[("mode", "retained"), ("topic", topic), ("url", &url)]);
    bench.plan(&[("sum", with("length/+")), ("none", with("other"))]);
    bench.value("sum", 12.5).await;
    assert!(bench.here.notes().contains(&"open default".to_owned()));
    bench.failure("none", &format!("{url}: no message is retained there")).await;
    publisher.say("length/a", true, "8").await;
    publisher.say("length/a", false, "1000").await;
    publisher.say("length/b", true, "6").await;
    bench.value("sum", 14.0).await;
    publisher.say("length/b", true, "").await;
    bench.value("sum", 8.0).await;
    publisher.say("length/a", true, "many").await;
    bench.failure("sum", &format!("{url}: a retained message is no number")).await;
}

#[tokio::test]
async fn a_filter_is_subscribed_only_while_it_is_in_the_plan() {
    let Some(broker) = Broker::start("sys_interval 1\n").await else { return };
    let mut bench = Bench::new(Some(access(broker.port)));
    let clients = rule(&[("mode", "retained"), ("topic", "$SYS/broker/clients/connected")]);
    bench.plan(&[("clients", clients.clone()), ("rate", rule(&[("topic", "jobs")]))]);
    bench.value("clients", 2.0).await;
    bench.plan(&[("clients", clients)]);
    bench.value("clients", 1.0).await;
}

#[tokio::test]
async fn a_broker_that_refuses_is_told_of_and_one_that_is_not_there_too() {
    if !may_dial() {
        return;
    }
    let Some(broker) = Broker::start("allow_anonymous false\n").await else { return };
    let nobody = nobody().await;
    let mut bench = Bench::new(None);
    let at = |port: u16| format!("mqtt://127.0.0.1:{port}");
    let refused = at(broker.port);
    bench.plan(&[
        (
            "refused",
            rule(&[
                ("topic", "a"),
                ("url", &refused),
                ("username", "me"),
                ("passwordFromEnv", "KEY"),
            ]),
        ),
        ("nobody", rule(&[("topic", "a"), ("url", &at(nobody.port()))])),
        ("own", rule(&[("topic", "a")])),
    ]);
    bench.failure("own", "[mqtt] of agent.toml names no broker").await;
    bench.failure("nobody", &format!("{}: connection refused", at(nobody.port()))).await;
    let refusal = format!("{refused}: the broker refuses the connection: NotAuthorized");
    bench.failure("refused", &refusal).await;
}

#[test]
fn a_client_id_is_of_one_board_and_one_rule() {
    let ids = [("pi", "a"), ("pi", "b"), ("pj", "a")]
        .map(|(device, rule)| crate::scalers::mqtt::client_id(device, &key(rule)));
    assert_eq!(ids[0].len(), "pi-scale-".len() + 12, "{}", ids[0]);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
}
