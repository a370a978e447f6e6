//! Registries that want to know who asks: by TLS with an authority of their own, by password, by a token.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerd_client::services::v1::DeleteImageRequest;
use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;
use domain::reason::Reason;
use domain::replica::{RegistryLogin, Secret};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tracing::Span;

use super::fixture::{Access, Registry, Sample, archive, assert_reason, configured, images};
use crate::config;
use crate::containerd::testing::{PrivateContainerd, blobs};
use crate::tasks::Tasks;

#[tokio::test]
async fn a_registry_of_a_private_authority_is_trusted_where_the_board_is_told_so() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::UsersByTls).await else { return };
    let sample = Sample::here("tls");
    registry.push("hello", "1", &sample).await;
    let reference = format!("{}/hello:1", registry.host);

    let strangers = images(&containerd, &[]);
    let refused = strangers.ensure(&reference, &registry.right_login()).await;
    assert_reason(refused, Reason::RegistryUnreachable, &["certificate"]);

    let ca = registry.authority().display().to_string();
    let friends = configured(&containerd, config::Images { ca, ..config::Images::default() });
    let refused = friends.ensure(&reference, &[]).await;
    assert_reason(refused, Reason::ImageUnauthorized, &["wants credentials"]);
    let refused = friends.ensure(&reference, &registry.login("wrong")).await;
    assert_reason(refused, Reason::ImageUnauthorized, &["refuses", "skerry"]);
    let image = friends.ensure(&reference, &registry.right_login()).await.unwrap();
    assert_eq!(image.digest, sample.root.digest);

    let ca = "/none/ca.pem".to_owned();
    let lost = configured(&containerd, config::Images { ca, ..config::Images::default() });
    let other = format!("{}/hello:2", registry.host);
    let refused = lost.ensure(&other, &[]).await;
    assert_reason(refused, Reason::RegistryUnreachable, &["images.ca", "/none/ca.pem"]);
}

/// A registry that wants tokens, each good for a few requests, before one that does not.
struct Guarded {
    host: String,
    /// Tokens given out.
    given: Arc<AtomicU64>,
    tasks: Tasks,
}

/// Requests that one token is good for.
const GOOD_FOR: u64 = 3;

impl Guarded {
    async fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::default();
        let guarded = Self { host: host.clone(), given: Arc::default(), tasks: tasks.clone() };
        let (given, used) = (Arc::clone(&guarded.given), Arc::new(AtomicU64::new(0)));
        let far = registry.host.clone();
        tasks.spawn_short(Span::none(), async move {
            let connections = Tasks::default();
            while let Ok((near, _)) = listener.accept().await {
                let (given, used) = (Arc::clone(&given), Arc::clone(&used));
                let guard = guard(near, far.clone(), host.clone(), given, used);
                connections.spawn_short(Span::none(), guard);
            }
        });
        guarded
    }
}

/// One request of one connection.
async fn guard(
    mut near: TcpStream,
    far: String,
    host: String,
    given: Arc<AtomicU64>,
    used: Arc<AtomicU64>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = near.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let authorization = field("authorization").unwrap_or_default();
    let simple = |status: &str, extra: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{extra}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    if head.starts_with("GET /token") {
        // base64 of `me:hush`.
        let answer = if authorization == "Basic bWU6aHVzaA==" {
            let n = given.fetch_add(1, Ordering::SeqCst) + 1;
            used.store(0, Ordering::SeqCst);
            simple("200 OK", "", &json!({ "token": format!("t{n}"), "expires_in": 60 }).to_string())
        } else {
            simple("401 Unauthorized", "", r#"{"details":"incorrect username or password"}"#)
        };
        near.write_all(answer.as_bytes()).await.unwrap();
        return;
    }
    let right = format!("Bearer t{}", given.load(Ordering::SeqCst));
    if authorization != right || GOOD_FOR <= used.fetch_add(1, Ordering::SeqCst) {
        let challenge =
            format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"test\"\r\n");
        near.write_all(simple("401 Unauthorized", &challenge, "{}").as_bytes()).await.unwrap();
        return;
    }
    let kept: Vec<&str> = head
        .lines()
        .filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("authorization"))
        .chain(["connection: close", "", ""])
        .collect();
    let mut far = TcpStream::connect(far).await.unwrap();
    far.write_all(kept.join("\r\n").as_bytes()).await.unwrap();
    let _ = tokio::io::copy(&mut far, &mut near).await;
}

#[tokio::test]
async fn a_token_is_fetched_with_the_credentials_and_anew_when_it_is_good_no_more() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("token");
    registry.push("hello", "1", &sample).await;
    let guarded = Guarded::before(&registry).await;
    let images = configured(
        &containerd,
        config::Images {
            insecure_registries: vec![guarded.host.clone()],
            max_concurrent_layers: 1,
            ..config::Images::default()
        },
    );
    let reference = format!("{}/hello:1", guarded.host);
    let login = |password: &str| {
        vec![RegistryLogin {
            server: guarded.host.clone(),
            username: "me".to_owned(),
            password: Secret(password.to_owned()),
        }]
    };
    assert_reason(images.ensure(&reference, &[]).await, Reason::ImageUnauthorized, &[]);
    let wrong = images.ensure(&reference, &login("loud")).await;
    assert_reason(wrong, Reason::ImageUnauthorized, &["\"me\""]);
    // Tag, manifest, configuration, and two layers: more requests than one token is good for.
    let image = images.ensure(&reference, &login("hush")).await.unwrap();
    assert_eq!(image.digest, sample.root.digest);
    assert!(2 <= guarded.given.load(Ordering::SeqCst));
    guarded.tasks.shut_down(Duration::ZERO).await;
}

#[tokio::test]
async fn a_token_server_that_is_away_is_no_wrong_password() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::default();
    tasks.spawn_short(Span::none(), async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = near.read(&mut head).await;
            let answer = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\
                          \"http://127.0.0.1:1/token\",service=\"test\"\r\ncontent-length: 0\r\n\
                          connection: close\r\n\r\n";
            let _ = near.write_all(answer.as_bytes()).await;
        }
    });
    let insecure_registries = vec![host.clone()];
    let images = configured(
        &containerd,
        config::Images { insecure_registries, ..config::Images::default() },
    );
    let refused = images.ensure(&format!("{host}/hello:1"), &[]).await;
    assert_reason(refused, Reason::RegistryUnreachable, &[]);
    tasks.shut_down(Duration::ZERO).await;
}

#[tokio::test]
async fn layers_of_every_packing_and_manifests_of_both_kinds_are_pulled() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let images = images(&containerd, &[&registry]);
    let packings = [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip"), ("oci", "none")];
    for (n, (format, packing)) in packings.into_iter().enumerate() {
        let sample = Sample::here(&format!("{format} {packing}"));
        let name = json!({ "io.containerd.image.name": "docker.io/library/hello:1" });
        let path = archive(containerd.dir(), &format!("{n}.tar"), &sample.oci_files(&name));
        let reference = format!("{}/hello:{n}", registry.host);
        if packing == "none" {
            registry.push("hello", &n.to_string(), &sample).await;
        } else {
            let pushed = Command::new("skopeo")
                .args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--format", format])
                .args(["--dest-compress", "--dest-compress-format", packing])
                .arg(format!("oci-archive:{}", path.display()))
                .arg(format!("docker://{reference}"))
                .output();
            match pushed {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(error) => {
                    println!("skipped: skopeo: {error}");
                    return;
                }
            }
        }
        let image = images.ensure(&reference, &[]).await.unwrap();
        // Packed otherwise, and the same files.
        assert_eq!(images.config(&image).await.unwrap().chain_id, sample.chain, "{packing}");
    }
}

#[tokio::test]
async fn a_layer_that_is_here_in_another_packing_is_not_fetched() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let images = images(&containerd, &[&registry]);
    let sample = Sample::here("alike");
    let name = json!({ "io.containerd.image.name": "docker.io/library/hello:1" });
    let path = archive(containerd.dir(), "plain.tar", &sample.oci_files(&name));
    let reference = format!("{}/hello:1", registry.host);
    let pushed = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .args(["--dest-compress", "--dest-compress-format", "gzip"])
        .arg(format!("oci-archive:{}", path.display()))
        .arg(format!("docker://{reference}"))
        .output();
    if pushed.is_err() {
        println!("skipped: there is no skopeo");
        return;
    }
    images.import(&path).await.unwrap();
    let before = blobs(&containerd.connection()).await;
    let image = images.ensure(&reference, &[]).await.unwrap();
    let chain = images.config(&image).await.unwrap().chain_id;
    assert_eq!(chain, sample.chain);
    let after = blobs(&containerd.connection()).await;
    // Its configuration is the same too: the manifest is all that is new.
    assert_eq!(after.len(), before.len() + 1, "{after:?}");

    // Nothing but the pulled image holds the stand-ins then, and they are enough with no registry in reach.
    drop(registry);
    let connection = containerd.connection();
    let mut records = connection.client().await.unwrap().images();
    for info in images.list().await.unwrap() {
        for name in [info.name.clone(), format!("docker.io/library/hello@{}", info.digest)] {
            if name.starts_with("docker.io") {
                let request =
                    DeleteImageRequest { name, sync: true, ..DeleteImageRequest::default() };
                drop(records.delete(connection.request(request)).await);
            }
        }
    }
    let left = blobs(&connection).await;
    assert!(left.len() < after.len(), "the archive's manifest is collected: {left:?}");
    let mut snapshots = connection.client().await.unwrap().snapshots();
    let key = sample.chain.clone();
    let remove = RemoveSnapshotRequest { snapshotter: "overlayfs".to_owned(), key };
    snapshots.remove(connection.request(remove)).await.unwrap();
    images.forget(&image);
    assert_eq!(images.config(&image).await.unwrap().chain_id, sample.chain);
}

#[tokio::test]
async fn a_pull_keeps_to_the_bound_that_the_board_is_given() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::large(2 << 20);
    registry.push("hello", "1", &sample).await;
    let config = config::Images {
        insecure_registries: vec![registry.host.clone()],
        max_bytes_per_second: 1 << 20,
        ..config::Images::default()
    };
    let start = Instant::now();
    let images = configured(&containerd, config);
    let image = images.ensure(&format!("{}/hello:1", registry.host), &[]).await.unwrap();
    assert_eq!(image.digest, sample.root.digest);
    let took = start.elapsed();
    assert!(Duration::from_millis(1900) < took, "2 MiB came in {took:?}");
}
