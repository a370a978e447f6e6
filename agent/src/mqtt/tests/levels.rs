//! What goes up: the device, its apps, its events.

use std::sync::Arc;

use domain::intake::refusal;
use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::status::{EnvironmentStatus, Source};
use domain::view::refused_environment;
use expect_test::expect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::device::{Asked, Device, status};
use super::observer::Observer;
use super::within;
use crate::broker::testing::Broker;
use crate::published::DeviceState;

fn delivered(all: &[Asked]) -> Vec<u64> {
    let ids =
        |asked: &Asked| if let Asked::Delivered(ids) = asked { ids.clone() } else { Vec::new() };
    all.iter().flat_map(ids).collect()
}

#[tokio::test]
async fn the_device_says_who_it_is_and_what_it_knows() {
    let Some(broker) = Broker::start("").await else { return };
    let device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let trouble = Trouble { reason: Reason::ForwardBlocked, details: "by docker".to_owned() };
    let known = vec![("hello".parse().unwrap(), 3, Digest::of(b"x"))];
    device.publisher.device.send_replace(Arc::new(DeviceState {
        rounds: 1,
        troubles: vec![trouble],
        apps: known,
    }));
    let _power = device.start();
    let mut online = cloud.message("status", |json| json["online"] == true).await.json();
    online["architecture"] = "any".into();
    online["updatedTime"] = "now".into();
    expect![[r#"{"agentVersion":"0.1.0","architecture":"any","bootId":"boot-1","epoch":"7","online":true,"publicKey":"key","tags":{"site":"berlin"},"troubles":[{"message":"by docker","path":"","reason":"ForwardBlocked"}],"updatedTime":"now"}"#]].assert_eq(&online.to_string());
    let mut hello = cloud.message("hello", |_| true).await.json();
    hello["architecture"] = "any".into();
    expect![[r#"{"agentVersion":"0.1.0","apps":{"hello":{"digest":"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","generation":"3"}},"architecture":"any","epoch":"7"}"#]].assert_eq(&hello.to_string());
    device.publisher.device.send_modify(|state| Arc::make_mut(state).troubles.clear());
    cloud
        .message("status", |json| {
            json["online"] == true && json["troubles"] == serde_json::json!([])
        })
        .await;
}

#[tokio::test]
async fn only_what_changed_goes_up_and_what_was_removed_is_cleared() {
    let Some(broker) = Broker::start("").await else { return };
    let device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    device.statuses(|all| {
        all.apps.insert("one".to_owned(), status("one", 1));
        all.apps.insert("two".to_owned(), status("two", 1));
        all.apps.insert("no/topic".to_owned(), status("no/topic", 1));
    });
    let _power = device.start();
    cloud.message("apps/one/status", |json| json["generation"] == "1").await;
    cloud.message("apps/two/status", |json| json["generation"] == "1").await;
    for generation in 2..=9 {
        device.statuses(|all| {
            all.apps.insert("one".to_owned(), status("one", generation));
        });
    }
    cloud.message("apps/one/status", |json| json["generation"] == "9").await;
    assert_eq!(
        (cloud.count("apps/one/status"), cloud.count("apps/two/status")),
        (2, 1),
        "changes are gathered"
    );

    device.statuses(|all| {
        all.apps.insert("one".to_owned(), status("one", 10));
        all.removed.insert("one".parse().unwrap());
    });
    let last = |all: &Vec<super::observer::Message>| {
        all.iter()
            .rev()
            .find(|message| message.topic == "t/pi/apps/one/status")
            .is_some_and(|message| message.payload.is_empty())
    };
    let all = cloud.until("the topic to be cleared", last).await;
    assert!(
        all.iter().any(|message| message.json()["generation"] == "10"),
        "the last status went up before"
    );
    device.statuses(|all| {
        all.removed.clear();
        all.apps.insert("one".to_owned(), status("one", 11));
        all.apps.remove("two");
    });
    cloud.message("apps/one/status", |json| json["generation"] == "11").await;
    cloud
        .until("what is no more to be cleared", |all| {
            all.iter().any(|message| {
                message.topic == "t/pi/apps/two/status" && message.payload.is_empty()
            })
        })
        .await;
}

#[tokio::test]
async fn an_environment_has_a_topic_while_somebody_speaks_of_it() {
    let Some(broker) = Broker::start("").await else { return };
    let device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let environment = |name: &str, source, apps| {
        let finding = refusal(Reason::InvalidValue, "storages", "");
        let one = refused_environment(name, Source::Mqtt, finding);
        (name.to_owned(), EnvironmentStatus { source, apps, ..one })
    };
    device.statuses(|all| {
        let both = [environment("a", Some(Source::File), 1), environment("quiet", None, 1)];
        all.environments.extend(both);
    });
    let _power = device.start();
    cloud.message("environments/a/status", |json| json["source"] == "file").await;
    device.statuses(|all| {
        all.environments.extend([environment("a", None, 2)]);
        all.removed_environments.insert("a".parse().unwrap());
    });
    let cleared = |all: &Vec<super::observer::Message>| {
        let of_a = |one: &&super::observer::Message| one.topic == "t/pi/environments/a/status";
        all.iter().rev().find(of_a).is_some_and(|message| message.payload.is_empty())
    };
    cloud.until("the topic to be cleared", cleared).await;
    assert_eq!(cloud.count("environments/quiet/status"), 0);
}

#[tokio::test]
async fn events_go_up_in_order_and_leave_at_their_acknowledgement() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    device.events(1..=100);
    let _power = device.start();
    device.until("a hundred to be delivered", |all| delivered(all).len() == 100).await;
    device.events(101..=103);
    let all = device.until("three more", |all| delivered(all).len() == 103).await;
    assert_eq!(delivered(&all), (1..=103).collect::<Vec<u64>>());
    let all = cloud
        .until("all events", |all| {
            all.iter().filter(|message| message.topic == "t/pi/events").count() == 103
        })
        .await;
    let ids: Vec<String> = all
        .iter()
        .filter(|message| message.topic == "t/pi/events")
        .map(|message| message.json()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, (1..=103).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(
        all.iter()
            .filter(|message| message.topic == "t/pi/events")
            .all(|message| !message.retained)
    );
}

/// Takes one connection, grants it, and acknowledges nothing; returns once `count` events came.
async fn mute_broker(listener: &TcpListener, count: usize) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = Vec::new();
    stream.read_buf(&mut heard).await.unwrap();
    // CONNACK: no session, success, no properties.
    stream.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
    while count_events(&heard) < count {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "the device hung up");
    }
    heard
}

fn count_events(bytes: &[u8]) -> usize {
    bytes.windows(b"t/pi/events".len()).filter(|window| window == b"t/pi/events").count()
}

#[tokio::test]
async fn an_event_that_was_written_and_not_acknowledged_stays_and_goes_up_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut device = Device::on(listener.local_addr().unwrap().port());
    device.events(1..=3);
    let _power = device.start();
    for epoch in [7, 8] {
        within("three events on each connection", mute_broker(&listener, 3)).await;
        let asked =
            device.until("a connection", |all| all.contains(&Asked::Connecting(epoch))).await;
        assert!(delivered(&asked).is_empty(), "{asked:?}");
    }
    assert_eq!(device.publisher.outbox.borrow().len(), 3);
}

#[tokio::test]
async fn an_event_larger_than_the_broker_takes_stands_before_no_other() {
    let Some(broker) = Broker::start("max_packet_size 2000\n").await else { return };
    let mut device = Device::on(broker.port);
    device.publisher.outbox.send_modify(|outbox| {
        let mut large = super::device::event(1);
        large.message = "x".repeat(3000);
        Arc::make_mut(outbox).extend([large, super::device::event(2)]);
    });
    let _power = device.start();
    device.until("both to leave", |all| delivered(all).len() == 2).await;
    assert_eq!(device.epochs(), [7]);
}

#[tokio::test]
async fn no_event_is_lost_when_the_broker_is_killed() {
    let Some(mut broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let _power = device.start();
    device.trouble(None).await;
    device.events(1..=1000);
    device.until("some to be delivered", |all| !delivered(all).is_empty()).await;
    broker.kill().await;
    let before = delivered(&device.asked.borrow());
    device.events(1001..=1010);
    device.trouble(Some(Reason::BrokerUnreachable)).await;
    broker.resume().await;
    let all = device.until("all to be delivered", |all| delivered(all).contains(&1010)).await;
    let mut ids = delivered(&all);
    assert!(before.len() < 1010, "some were left to deliver");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (1..=1010).collect::<Vec<u64>>());
}
