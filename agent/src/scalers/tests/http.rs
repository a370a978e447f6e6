//! Pages of a small web server.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

const EVERY: Duration = Duration::from_secs(2);

/// Answers every request by `answer`, which gets path, query and the headers that matter.
async fn server(
    answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    let tasks = crate::tasks::Tasks::default();
    tasks.clone().spawn_short(tracing::Span::none(), async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let header = |name| {
                    let value = request.headers().get(name);
                    value.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
                };
                let told = format!("{}{}", header("authorization"), header("x-api-key"));
                let path = request.uri().path_and_query().unwrap().as_str();
                let (status, body) = answer(path, &told);
                let response = Response::builder().status(status);
                let response = response.body(Full::new(Bytes::from(body))).unwrap();
                async move { Ok::<_, Infallible>(response) }
            });
            tasks.spawn_short(tracing::Span::none(), async move {
                let serving = hyper::server::conn::http1::Builder::new();
                let _ = serving.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn api(url: &str, more: &[(&str, &str)]) -> Sample {
    let base = [("url", url), ("valueLocation", "jobs.0.length"), ("targetValue", "5")];
    sample("metrics-api", &[&base, more].concat(), EVERY)
}

#[tokio::test]
async fn a_number_is_read_from_a_page_and_read_again() {
    if !may_dial() {
        return;
    }
    let turn = Mutex::new(0);
    let server = server(move |_, _| {
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        (200, format!(r#"{{"jobs": [{{"length": {turn}}}]}}"#))
    });
    let url = format!("http://{}/stats?all=1", server.await);
    let mut bench = Bench::new(None);
    bench.plan(&[("api", api(&url, &[("activationTargetValue", "1")]))]);
    bench.value("api", 1.0).await;
    let expected = Reading::Value { value: 1.0, target: 5.0, activation: 1.0 };
    assert_eq!(bench.readings.borrow()[&key("api")], expected);
    bench.value("api", 2.0).await;
    assert_eq!(bench.here.notes(), ["open default"]);
    bench.plan(&[]);
    let left = bench.readings.wait_for(|all| all.is_empty());
    time::timeout(PATIENCE, left).await.expect("who left the plan has no reading").unwrap();
    let closed = async {
        while bench.here.notes().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(bench.here.notes(), ["open default", "close default"]);
}

#[tokio::test]
async fn whoever_asks_shows_who_it_is_and_no_key_is_told() {
    if !may_dial() {
        return;
    }
    let server = server(|path, told| match (path, told) {
        ("/basic", "Basic bWU6czNjcmV0")
        | ("/bearer", "Bearer s3cret")
        | ("/header", "s3cret")
        | ("/query?a=b&k=s3cret", "") => (200, r#"{"jobs": [{"length": "7"}]}"#.to_owned()),
        _ => (403, "s3cret is no key".to_owned()),
    });
    let server = server.await;
    let mut bench = Bench::new(None);
    let basic = [("authMode", "basic"), ("username", "me"), ("passwordFromEnv", "KEY")];
    let bearer = [("authMode", "bearer"), ("tokenFromEnv", "KEY")];
    let header = [("authMode", "apiKey"), ("apiKeyFromEnv", "KEY")];
    let query = [("keyParamName", "k"), ("method", "query")];
    let query = [&header[..], &query].concat();
    let page = |path: &str| format!("http://{server}/{path}");
    bench.plan(&[
        ("basic", api(&page("basic"), &basic)),
        ("bearer", api(&page("bearer"), &bearer)),
        ("header", api(&page("header"), &header)),
        ("query", api(&page("query?a=b"), &query)),
        ("refused", api(&page("other?a=b"), &query)),
    ]);
    for rule in ["basic", "bearer", "header", "query"] {
        bench.value(rule, 7.0).await;
    }
    bench.failure("refused", &format!("http://{server}/other: status 403")).await;
}

#[tokio::test]
async fn metrics_are_read_from_a_page_or_asked_of_a_server() {
    if !may_dial() {
        return;
    }
    let server = server(|path, _| {
        let vector = r#"{"data": {"resultType": "vector", "result": [
            {"metric": {}, "value": [1, "2"]}, {"metric": {}, "value": [1, "3.5"]}]}}"#;
        match path {
            "/metrics" => (200, "jobs{queue=\"a\"} 3\njobs{queue=\"b\"} 4\n".to_owned()),
            "/api/v1/query?query=sum%28jobs%29" => (200, vector.to_owned()),
            _ => (404, String::new()),
        }
    });
    let server = format!("http://{}", server.await);
    let metrics = format!("{server}/metrics");
    let page = |more: &[(&str, &str)]| {
        let base = [("url", metrics.as_str()), ("threshold", "2")];
        sample("prometheus", &[&base, more].concat(), EVERY)
    };
    let strict = ("ignoreNullValues", "false");
    let query = [("serverAddress", server.as_str()), ("query", "sum(jobs)"), ("threshold", "2")];
    let mut bench = Bench::new(None);
    bench.plan(&[
        ("all", page(&[("metricName", "jobs")])),
        ("one", page(&[("metricName", "jobs"), ("labels", "queue=\"b\"")])),
        ("none", page(&[("metricName", "other")])),
        ("strict", page(&[("metricName", "other"), strict])),
        ("query", sample("prometheus", &query, EVERY)),
    ]);
    bench.value("all", 7.0).await;
    bench.value("one", 4.0).await;
    bench.value("none", 0.0).await;
    bench.failure("strict", &format!("{metrics}: the answer has nothing for other")).await;
    bench.value("query", 5.5).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_page_is_told() {
    if !may_dial() {
        return;
    }
    let server = server(|path, _| match path {
        "/long" => (200, "x".repeat((1 << 20) + 1)),
        "/text" => (200, "not found".to_owned()),
        _ => (200, "{}".to_owned()),
    });
    let (server, nobody) = (server.await, nobody().await);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    let mut bench = Bench::new(None);
    let page = |address: &SocketAddr, path: &str| api(&format!("http://{address}/{path}"), &[]);
    bench.plan(&[
        ("long", page(&server, "long")),
        ("text", page(&server, "text")),
        ("empty", page(&server, "empty")),
        ("nobody", page(&nobody, "")),
        ("silent", page(&silent_at, "")),
    ]);
    for (rule, expected) in [
        ("long", format!("http://{server}/long: the answer is larger than 1048576 bytes")),
        ("text", format!("http://{server}/text: the answer is no JSON, from line 1 column 2 on")),
        ("empty", format!("http://{server}/empty: the answer has nothing at jobs.0.length")),
        ("nobody", format!("http://{nobody}/: connection refused")),
        ("silent", format!("http://{silent_at}/: no answer within 2 s")),
    ] {
        bench.failure(rule, &expected).await;
    }
}
