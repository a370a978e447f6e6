//! Documents on their way down.

use super::device::{Answer, Asked, Device};
use super::observer::Observer;
use crate::broker::testing::Broker;
use crate::inbox::Subject;
use crate::mqtt::intake::CROWD;

fn document(asked: &Asked) -> Option<(&str, &[u8])> {
    match asked {
        Asked::Document(
            Subject::App(name) | Subject::Job(name) | Subject::Environment(name),
            payload,
        ) => Some((name, payload)),
        Asked::Document(Subject::Itself, _)
        | Asked::Scale(..)
        | Asked::Connecting(_)
        | Asked::Delivered(_) => None,
    }
}

fn payloads(all: &[Asked], app: &str) -> Vec<String> {
    let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
    all.iter()
        .filter_map(document)
        .filter(|(name, _)| *name == app)
        .map(|(_, payload)| text(payload))
        .collect()
}

fn has(all: &[Asked], app: &str, payload: &str) -> bool {
    payloads(all, app).iter().any(|known| known == payload)
}

#[tokio::test]
async fn documents_and_scale_targets_reach_the_loop() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.publish("apps/hello/desired", true, "a: 1").await;
    let _power = device.start();
    device.until("the retained document", |all| has(all, "hello", "a: 1")).await;
    cloud.publish("jobs/nightly/desired", true, "b: 2").await;
    cloud.publish("apps/hello/scale", true, "replicas: 2").await;
    cloud.publish("apps/hello/desired", true, "").await;
    cloud.publish("apps/NOT A NAME/desired", false, vec![0xff, 0x00]).await;
    cloud.publish("apps/hello/else", false, "x").await;
    cloud.publish("apps/last/desired", false, "z").await;
    let all = device.until("the last document", |all| has(all, "last", "z")).await;
    assert!(all.contains(&Asked::Document(Subject::Job("nightly".to_owned()), b"b: 2".to_vec())));
    assert!(all.contains(&Asked::Scale("hello".to_owned(), b"replicas: 2".to_vec())));
    assert!(all.contains(&Asked::Document(Subject::App("hello".to_owned()), Vec::new())));
    assert!(
        all.contains(&Asked::Document(Subject::App("NOT A NAME".to_owned()), vec![0xff, 0x00]))
    );
    assert_eq!(all.len(), 7, "{all:?}");
}

#[tokio::test]
async fn a_document_without_an_answer_is_sent_again_and_one_with_an_answer_is_not() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    device.answer(&[Answer::Silence]);
    let power = device.start();
    cloud.message("hello", |_| true).await;
    cloud.publish("apps/hello/desired", false, "a: 1").await;
    device.until("the document", |all| has(all, "hello", "a: 1")).await;
    power.kill().await;

    device.answer(&[Answer::Refuse]);
    let power = device.start();
    device.until("it again", |all| payloads(all, "hello").len() == 2).await;
    // Its answer came before this one's, so its acknowledgement has gone too once this one is answered and stopped.
    cloud.publish("apps/other/desired", false, "b: 2").await;
    device.until("another", |all| has(all, "other", "b: 2")).await;
    power.stop().await;

    device.answer(&[Answer::Accept]);
    let _power = device.start();
    cloud.publish("apps/third/desired", false, "c: 3").await;
    let all = device.until("a third", |all| has(all, "third", "c: 3")).await;
    assert_eq!(payloads(&all, "hello").len(), 2, "{all:?}");
}

#[tokio::test]
async fn a_full_disk_holds_a_document_and_no_other() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let _power = device.start();
    cloud.message("hello", |_| true).await;
    device.answer(&[Answer::Full, Answer::Accept]);
    cloud.publish("apps/big/desired", false, "a: 1").await;
    device.until("the big one", |all| has(all, "big", "a: 1")).await;
    cloud.publish("apps/small/desired", false, "b: 2").await;
    let all = device.until("the small one", |all| has(all, "small", "b: 2")).await;
    assert_eq!(payloads(&all, "big").len(), 1, "{all:?}");
    device.until("the big one again", |all| payloads(all, "big").len() == 2).await;
}

#[tokio::test]
async fn a_newer_document_takes_the_place_of_one_that_is_held() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let power = device.start();
    cloud.message("hello", |_| true).await;
    device.answer(&[Answer::Full, Answer::Full, Answer::Accept]);
    cloud.publish("apps/big/desired", false, "a: 1").await;
    device.until("the first", |all| has(all, "big", "a: 1")).await;
    cloud.publish("apps/big/desired", false, "a: 2").await;
    let all = device.until("the second", |all| has(all, "big", "a: 2")).await;
    assert_eq!(payloads(&all, "big"), ["a: 1", "a: 1", "a: 2"], "a newer one never overtakes");
    cloud.publish("apps/other/desired", false, "b").await;
    device.until("another", |all| has(all, "other", "b")).await;
    power.stop().await;

    // Both were acknowledged: neither comes again.
    let _power = device.start();
    cloud.publish("apps/third/desired", false, "c").await;
    let all = device.until("a third", |all| has(all, "third", "c")).await;
    assert_eq!(payloads(&all, "big").len(), 3, "{all:?}");
}

#[tokio::test]
async fn a_silent_loop_is_asked_no_more_than_the_receive_maximum() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    device.answer(&[Answer::Silence]);
    for n in 0..40 {
        cloud.publish(&format!("apps/a{n}/desired"), true, "a: 1").await;
    }
    let _power = device.start();
    let all = device
        .until("the first sixteen", |all| all.iter().filter_map(document).count() == 16)
        .await;
    assert_eq!(all.len(), 17, "a Connecting and sixteen documents");
    // A status still goes up, and by then no seventeenth has come.
    device.statuses(|all| {
        all.apps.insert("x".to_owned(), super::device::status("x", 1));
    });
    cloud.message("apps/x/status", |_| true).await;
    assert_eq!(device.asked.borrow().iter().filter_map(document).count(), 16);
}

#[tokio::test]
async fn a_flood_of_documents_arrives_in_order_and_whole() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let _power = device.start();
    cloud.message("hello", |_| true).await;
    for n in 0..1000 {
        cloud.publish_soon(&format!("apps/a{}/desired", n % 10), true, format!("{n}")).await;
    }
    let all =
        device.until("all of them", |all| all.iter().filter_map(document).count() == 1000).await;
    for app in 0..10 {
        let expected: Vec<String> = (0..100).map(|n| (n * 10 + app).to_string()).collect();
        assert_eq!(payloads(&all, &format!("a{app}")), expected);
    }
}

#[tokio::test]
async fn after_a_crowd_the_retained_document_has_the_last_word() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let _power = device.start();
    cloud.message("hello", |_| true).await;
    // What a broker leaves that let the newest pass the older ones: the last to come is not what is retained.
    device.answer(&[Answer::Full]);
    cloud.publish("apps/web/desired", true, "newest").await;
    device.until("the newest", |all| has(all, "web", "newest")).await;
    for n in 0..CROWD {
        cloud.publish(&format!("apps/a{n}/desired"), false, "a: 1").await;
    }
    cloud.publish("apps/web/desired", false, "older").await;
    device.until("the crowd", |all| (0..CROWD).all(|n| has(all, &format!("a{n}"), "a: 1"))).await;
    device.answer(&[Answer::Accept]);
    let last = |all: &Vec<Asked>| payloads(all, "web").last().cloned();
    device
        .until("the newest again, after the older one", |all| {
            has(all, "web", "older") && last(all).as_deref() == Some("newest")
        })
        .await;
    assert_eq!(device.epochs(), [7], "one connection held through it all");
}

#[tokio::test]
async fn large_documents_cost_neither_the_connection_nor_the_others() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.publish("apps/huge/desired", true, vec![b'x'; 600 * 1024]).await;
    cloud.publish("apps/large/desired", true, vec![b'x'; 300 * 1024]).await;
    cloud.publish("apps/small/desired", true, "a: 1").await;
    let _power = device.start();
    device.until("the small one", |all| has(all, "small", "a: 1")).await;
    let all = device.until("the large one", |all| !payloads(all, "large").is_empty()).await;
    assert_eq!(payloads(&all, "large")[0].len(), 300 * 1024);
    cloud.publish("apps/huge/desired", true, vec![b'y'; 600 * 1024]).await;
    cloud.publish("apps/small/desired", true, "a: 2").await;
    let all = device.until("the next small one", |all| has(all, "small", "a: 2")).await;
    assert!(payloads(&all, "huge").is_empty());
    assert_eq!(device.epochs(), [7], "one connection held through it all");
}
