//! The broker, spoken to as the agent does: TLS, a CONNECT, and its answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use domain::replica::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::asked::wait;
use super::{Board, Check, Topic, Verdict};
use crate::broker::{
    Access, AccessError, Broker, Credentials, Listening, RetainedMessages, Subscription,
    SubscriptionError,
};
use crate::clock::Clock;
use crate::report::Chain;

pub(super) const CHECKS: &[Check] = &[
    Check::new("broker-identity", Topic::ControlPlane, identity),
    Check::new("broker-login", Topic::ControlPlane, login),
];

/// What a broker at the other end of a bad line needs; less than the deadline of all checks.
const PATIENCE: Duration = Duration::from_secs(8);

/// The client certificate and its key belong together.
fn identity(board: &Board) -> Verdict {
    let mqtt = &board.config.mqtt;
    if mqtt.cert.is_empty() || mqtt.key.is_empty() {
        return Verdict::ok("not used");
    }
    let (Ok(cert), Ok(key)) = (board.bytes(&mqtt.cert), board.bytes(&mqtt.key)) else {
        return Verdict::ok("a file cannot be read; broker-key and broker-certificate say why");
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert).filter_map(Result::ok).collect();
    let Ok(private) = PrivateKeyDer::from_pem_slice(&key) else {
        return Verdict::fail(
            format!("{} holds no private key", mqtt.key),
            format!("put the key of {} into {}, as PEM", mqtt.cert, mqtt.key),
        );
    };
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, private, &provider) {
        Ok(_) => Verdict::ok("certificate and key belong together"),
        Err(error) => Verdict::fail(
            format!("{} is not the key of {}: {error}", mqtt.key, mqtt.cert),
            format!(
                "these must say the same: openssl x509 -pubkey -noout -in {}, and openssl pkey -pubout -in {}",
                mqtt.cert, mqtt.key
            ),
        ),
    }
}

/// How far it came.
enum Failure {
    Files(AccessError),
    Way(io::Error),
    Word(SubscriptionError),
}

fn login(board: &Board) -> Verdict {
    let mqtt = &board.config.mqtt;
    let Some(broker) = Broker::parse(&mqtt.url) else { return Verdict::ok("not used") };
    let file = |path: &String| (!path.is_empty()).then(|| -> PathBuf { board.place(path) });
    let access = Access {
        broker,
        ca: file(&mqtt.ca),
        identity: file(&mqtt.cert).zip(file(&mqtt.key)),
        username: mqtt.username.clone(),
        password_file: file(&mqtt.password_file),
    };
    let clock = Clock::default();
    clock.raise_floor(board.floor().0.as_secs());
    let client = format!("{}-doctor", board.config.device.id);
    let talk = async {
        let credentials = Credentials::read(&access, clock).await.map_err(Failure::Files)?;
        let stream = access.connect(&credentials).await.map_err(Failure::Way)?;
        let login = credentials.login.map(|(user, word)| (user, Secret(word)));
        // Another name than the agent's: a broker ends the older of two connections of one name.
        let listening = Listening {
            client: &client,
            login,
            filters: &[],
            retained: RetainedMessages::Unwanted,
        };
        Subscription::open(stream, &listening).await.map(drop).map_err(Failure::Word)
    };
    match wait(PATIENCE, Box::pin(talk)) {
        Ok(Some(Ok(()))) => Verdict::ok(format!("{} lets us in", access.broker)),
        Ok(Some(Err(failure))) => told(board, &access, failure),
        Ok(None) => Verdict::fail(
            format!("{} does not finish its greeting", access.broker),
            "see whether it is a broker for MQTT 5 with this [mqtt] url, mqtts:// or mqtt://, and its log",
        ),
        Err(why) => Verdict::warn(why, "try again"),
    }
}

fn told(board: &Board, access: &Access, failure: Failure) -> Verdict {
    let mqtt = &board.config.mqtt;
    match failure {
        Failure::Files(AccessError::File { path, source }) => {
            let fix = format!("put {} there for root alone", path.display());
            super::unread(&path.display().to_string(), &source, fix)
        }
        Failure::Files(error @ (AccessError::Pem { .. } | AccessError::Tls(_))) => Verdict::fail(
            Chain(&error).to_string(),
            "correct [mqtt] ca, cert, key and password_file",
        ),
        Failure::Way(error) | Failure::Word(SubscriptionError::Io(error)) => {
            way(mqtt, access, &error)
        }
        Failure::Word(SubscriptionError::Refused(code)) => {
            let agent_is_in = (board.asked.agent)(&board.place(board.config.socket()))
                .is_ok_and(|reply| reply.status.is_some_and(|status| status.online));
            if agent_is_in {
                return Verdict::ok(format!(
                    "the agent is connected; a second client is refused: {code:?}"
                ));
            }
            let (user, file) = (&mqtt.username, &mqtt.password_file);
            let fix = match (user.is_empty(), file.is_empty()) {
                (true, _) => "set [mqtt] username and password_file, or cert and key, to what the broker knows".to_owned(),
                (false, true) => "set [mqtt] password_file to a file with the password".to_owned(),
                (false, false) => {
                    format!("correct [mqtt] username, the first line of {file}, or what the broker lets {user} do")
                }
            };
            Verdict::fail(format!("{} refuses us: {code:?}", access.broker), fix)
        }
        Failure::Word(
            error @ (SubscriptionError::Closed
            | SubscriptionError::Ended(_)
            | SubscriptionError::Garbled(_)
            | SubscriptionError::Forbidden(_)
            | SubscriptionError::Silent),
        ) => Verdict::fail(
            format!("{}: {}", access.broker, Chain(&error)),
            "see whether it is a broker for MQTT 5, whether it wants mqtts://, and its log",
        ),
    }
}

/// What failed before the broker had a word, or in the middle of it: TLS, mostly.
fn way(mqtt: &crate::config::Mqtt, access: &Access, error: &io::Error) -> Verdict {
    let Broker { host, port, .. } = &access.broker;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(tls) = tls else {
        return Verdict::fail(
            format!("{}: {error}", access.broker),
            "see whether the broker runs and speaks what the URL says, mqtts:// or mqtt://",
        );
    };
    let found = format!("{}: {tls}", access.broker);
    if let rustls::Error::AlertReceived(_) = tls {
        return Verdict::fail(
            found,
            "set [mqtt] cert and key to a certificate that the broker's authority has signed",
        );
    }
    let authority =
        if mqtt.ca.is_empty() { "the system's authorities".to_owned() } else { mqtt.ca.clone() };
    Verdict::fail(
        found,
        format!(
            "see what it shows: openssl s_client -connect {host}:{port}; set [mqtt] ca to its authority (now {authority}), and the host in [mqtt] url to its name"
        ),
    )
}
