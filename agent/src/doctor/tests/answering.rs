//! Those that a doctor asks, in the test's own hands.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use skerry_proto::v1::{DeviceReply, DeviceStatus};

use crate::containerd::Census;
use crate::doctor::{Asked, Nft, Timekeepers};

/// Whoever is asked, and well.
pub(in crate::doctor) fn asked() -> Asked {
    Asked {
        timekeepers: Timekeepers::default(),
        nft: Nft {
            blockers: || Ok(Vec::new()),
            ruleset: || Ok("table inet skerry {\n}\n".to_owned()),
        },
        containerd: |_| Ok(census()),
        agent: |_| Ok(device()),
        dns_port: answering(dns_answer(0)).port(),
    }
}

pub(in crate::doctor) fn census() -> Census {
    Census {
        version: "1.7.24".to_owned(),
        snapshotters: vec!["native".to_owned(), "overlayfs".to_owned()],
        orphans: Vec::new(),
    }
}

pub(in crate::doctor) fn device() -> DeviceReply {
    let status = DeviceStatus {
        online: true,
        epoch: 7,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..DeviceStatus::default()
    };
    DeviceReply { status: Some(status), seconds_since_round: 40, ..DeviceReply::default() }
}

/// An answer to the question for the root's name servers.
pub(in crate::doctor) fn dns_answer(code: u8) -> Vec<u8> {
    let mut answer = vec![0x5c, 0x52, 0x81, 0x80 | code];
    answer.resize(17, 0);
    answer
}

/// A broker of few words: it answers each CONNECT with this code.
pub(in crate::doctor) fn broker(code: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut connect = [0; 1024];
            // Some only knock.
            if stream.read(&mut connect).is_ok_and(|length| 0 < length) {
                let _ = stream.write_all(&[0x20, 3, 0, code, 0]);
            }
        }
    });
    address
}

/// A broker with TLS, of an authority that nobody knows.
pub(in crate::doctor) fn stranger() -> SocketAddr {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "a stranger");
    let own = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let _ = stream.read(&mut [0; 10]);
        }
    });
    address
}

/// Answers each question with `answer`.
pub(in crate::doctor) fn answering(answer: Vec<u8>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut request) {
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

/// What chronyd says of itself: version, reply, command, kind; and far in, whether it follows anybody.
pub(in crate::doctor) fn chrony_tracking(leap: u8) -> Vec<u8> {
    let mut answer = vec![6, 2, 0, 0, 0, 33, 0, 5, 0, 0];
    answer.resize(104, 0);
    answer[55] = leap;
    answer
}
