//! The connection itself: how it begins, fails, comes back and ends.

use std::process::Command;
use std::sync::Arc;

use domain::model::WallTime;
use domain::reason::Reason;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use super::device::{Device, status};
use super::observer::Observer;
use crate::broker::testing::{Broker, free_port};
use crate::clock::Clock;
use crate::mqtt::Session;

#[tokio::test]
async fn stopping_says_offline() {
    let Some(broker) = Broker::start("").await else { return };
    let device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let power = device.start();
    cloud.message("status", |json| json["online"] == true).await;
    power.stop().await;
    let offline = cloud.message("status", |json| json["online"] == false).await;
    assert_eq!(offline.json()["epoch"], "7");
    assert_eq!(cloud.count("status"), 2, "a clean end needs no will");
    let mut late = Observer::connect(&device.tasks, broker.port).await;
    assert!(late.message("status", |json| json["online"] == false).await.retained);
}

#[tokio::test]
async fn a_device_that_dies_leaves_its_will_with_its_epoch() {
    let Some(broker) = Broker::start("").await else { return };
    let device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    for epoch in ["7", "8"] {
        let power = device.start();
        cloud.message("status", |json| json["online"] == true && json["epoch"] == epoch).await;
        power.kill().await;
        cloud.message("status", |json| json["online"] == false && json["epoch"] == epoch).await;
    }
}

#[tokio::test]
async fn stopping_while_there_is_no_broker_takes_no_longer() {
    let device = Device::on(free_port());
    let power = device.start();
    power.stop().await;
}

#[tokio::test]
async fn a_broker_that_comes_later_is_found_and_costs_one_epoch() {
    let Some(mut broker) = Broker::reserve("") else { return };
    let mut device = Device::on(broker.port);
    let _power = device.start();
    let details = device.trouble(Some(Reason::BrokerUnreachable)).await;
    assert!(details.contains("refused"), "{details}");
    broker.resume().await;
    device.trouble(None).await;
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.message("status", |json| json["online"] == true && json["epoch"] == "7").await;
    assert_eq!(device.epochs(), [7], "an epoch that no broker saw serves again");
}

#[tokio::test]
async fn a_broker_that_lost_everything_is_told_everything() {
    let Some(mut broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    device.statuses(|all| {
        all.apps.insert("one".to_owned(), status("one", 1));
    });
    let _power = device.start();
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.message("apps/one/status", |_| true).await;
    broker.kill().await;
    device.trouble(Some(Reason::BrokerUnreachable)).await;
    broker.resume().await;
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.message("apps/one/status", |json| json["generation"] == "1").await;
    cloud.message("hello", |json| json["epoch"] == "8").await;
    cloud.message("status", |json| json["online"] == true && json["epoch"] == "8").await;
    cloud.publish("apps/one/desired", true, "a: 1").await;
    device
        .until("a document through the new session", |all| {
            all.iter().any(|asked| matches!(asked, super::device::Asked::Document(..)))
        })
        .await;
}

#[tokio::test]
async fn retained_documents_come_again_with_each_connection() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.publish("apps/one/desired", true, "a: 1").await;
    let documents = |all: &Vec<super::device::Asked>| {
        all.iter().filter(|asked| matches!(asked, super::device::Asked::Document(..))).count()
    };
    for n in 1..=3 {
        let power = device.start();
        device.until("the document once more", |all| documents(all) == n).await;
        power.stop().await;
    }
}

#[tokio::test]
async fn a_fresh_session_forgets_what_the_broker_kept() {
    let Some(broker) = Broker::start("").await else { return };
    let mut device = Device::on(broker.port);
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    let power = device.start();
    cloud.message("hello", |_| true).await;
    power.stop().await;
    cloud.publish("apps/old/desired", false, "kept by the session").await;
    device.settings.session = Session::Fresh;
    let _power = device.start();
    cloud.message("hello", |json| json["epoch"] == "8").await;
    cloud.publish("apps/new/desired", false, "a: 1").await;
    let is_document =
        |asked: &super::device::Asked| matches!(asked, super::device::Asked::Document(..));
    let all = device.until("a document", |all| all.iter().any(is_document)).await;
    assert_eq!(all.iter().filter(|asked| is_document(asked)).count(), 1, "{all:?}");
}

#[tokio::test]
async fn a_wrong_password_is_said_and_a_right_one_is_read_anew() {
    let Some(mut broker) = Broker::reserve("allow_anonymous false\npassword_file {dir}/users\n")
    else {
        return;
    };
    let users = broker.dir.path().join("users");
    for (user, create) in [("pi", true), ("cloud", false)] {
        let mut tool = Command::new("mosquitto_passwd");
        tool.arg("-b").args(create.then_some("-c")).arg(&users).args([user, "right"]);
        assert!(tool.status().unwrap().success());
    }
    broker.resume().await;
    let mut device = Device::on(broker.port);
    device.settings.access.username = "pi".to_owned();
    device.settings.access.password_file = Some(broker.dir.path().join("password"));
    let _power = device.start();
    let details = device.trouble(Some(Reason::BrokerFileUnreadable)).await;
    assert!(details.contains("/password: No such file"), "{details}");
    broker.file("password", "wrong\n");
    device.trouble(Some(Reason::BrokerRefused)).await;
    broker.file("password", "right\n");
    device.trouble(None).await;
    let mut cloud = Observer::login(&device.tasks, broker.port, Some(("cloud", "right"))).await;
    cloud.message("status", |json| json["online"] == true).await;
    assert_eq!(device.epochs(), [7]);
}

/// An authority, and what it signed for the broker and for the device.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn tls_needs_the_right_authority_and_the_right_certificate_and_reads_both_anew() {
    let port = free_port();
    let config = format!(
        "listener {port} 127.0.0.1\ncafile {{dir}}/ca.pem\ncertfile {{dir}}/broker.pem\nkeyfile {{dir}}/broker.key\nrequire_certificate true\n"
    );
    let Some(mut broker) = Broker::reserve(&config) else { return };
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let ca = broker.file("ca.pem", &authority.pem);
    let (cert, key) = authority.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    broker.file("broker.pem", &cert);
    broker.file("broker.key", &key);
    broker.resume().await;

    let mut device = Device::new(&format!("mqtts://localhost:{port}"));
    let trusted = broker.file("trusted.pem", &stranger.pem);
    let (cert, key) = stranger.sign("pi", ExtendedKeyUsagePurpose::ClientAuth);
    let own = (broker.file("pi.pem", &cert), broker.file("pi.key", &key));
    device.settings.access.ca = Some(trusted.into());
    device.settings.access.identity = Some((own.0.into(), own.1.into()));
    let _power = device.start();
    let details = device.trouble(Some(Reason::BrokerCertificate)).await;
    assert!(details.contains("UnknownIssuer"), "{details}");

    std::fs::copy(ca, broker.dir.path().join("trusted.pem")).unwrap();
    let other = |all: &Arc<std::collections::BTreeMap<String, domain::replica::Trouble>>| {
        all.get("mqtt").is_some_and(|trouble| !trouble.details.contains("UnknownIssuer"))
    };
    let all =
        super::within("the broker's word on our certificate", device.troubles.wait_for(other))
            .await
            .unwrap()
            .clone();
    assert_eq!(all["mqtt"].reason, Reason::BrokerCertificate, "{all:?}");

    let (cert, key) = authority.sign("pi", ExtendedKeyUsagePurpose::ClientAuth);
    broker.file("pi.pem", &cert);
    broker.file("pi.key", &key);
    device.trouble(None).await;
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.message("status", |json| json["online"] == true).await;
}

#[tokio::test]
async fn a_board_that_wakes_in_1970_takes_a_good_certificate_of_the_broker_and_no_expired_one() {
    let port = free_port();
    let config = format!(
        "listener {port} 127.0.0.1\ncafile {{dir}}/ca.pem\ncertfile {{dir}}/broker.pem\nkeyfile {{dir}}/broker.key\n"
    );
    let Some(mut broker) = Broker::reserve(&config) else { return };
    let authority = Authority::new("ours");
    let ca = broker.file("ca.pem", &authority.pem);
    // The library's certificates begin in 1975.
    let (cert, key) = authority.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    broker.file("broker.pem", &cert);
    broker.file("broker.key", &key);
    broker.resume().await;

    let mut device = Device::new(&format!("mqtts://localhost:{port}"));
    device.settings.access.ca = Some(ca.into());
    device.clock = Clock::standing_at(WallTime::default());
    let power = device.start();
    device
        .until("a connection", |asked| asked.contains(&super::device::Asked::Connecting(7)))
        .await;
    let mut cloud = Observer::connect(&device.tasks, broker.port).await;
    cloud.message("status", |json| json["online"] == true).await;
    power.stop().await;

    // It was later than the certificate's end, once: 1975 is no excuse.
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2026, 1, 1);
    let key = KeyPair::generate().unwrap();
    broker.kill().await;
    broker.file("broker.pem", &params.signed_by(&key, &authority.issuer).unwrap().pem());
    broker.file("broker.key", &key.serialize_pem());
    broker.resume().await;
    let _power = device.start();
    let details = device.trouble(Some(Reason::BrokerCertificate)).await;
    assert!(details.contains("Expired") || details.contains("expired"), "{details}");
}
