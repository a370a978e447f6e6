//! What is done to revisions and to the split, through the socket.

use super::*;

fn of_revision(revision: &str, verb: &str, suffix: &str) -> v1::RevisionRequest {
    let [revision, verb, suffix] = [revision, verb, suffix].map(str::to_owned);
    v1::RevisionRequest { revision, verb, suffix }
}

fn weight(revision: &str, label: &str, weight: u32) -> v1::Weight {
    let (revision, label) = (revision.to_owned(), label.to_owned());
    let latest = revision.is_empty() && label.is_empty();
    v1::Weight { revision, latest, label, weight }
}

fn of_traffic(weights: Vec<v1::Weight>, labels: &[(&str, &str)]) -> v1::TrafficRequest {
    let label = |(label, revision): &(&str, &str)| v1::Label {
        label: (*label).to_owned(),
        revision: (*revision).to_owned(),
    };
    let labels = labels.iter().map(label).collect();
    v1::TrafficRequest { app: "hello".to_owned(), weights, labels }
}

#[tokio::test]
async fn what_is_done_to_a_revision_reaches_the_loop() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    for verb in ["activate", "deactivate", "restart"] {
        let reply = client.revision(of_revision("hello--0000001", verb, "")).await.unwrap();
        assert_eq!(reply.into_inner().revision, "hello--0000001");
    }
    for suffix in ["", "again"] {
        let request = of_revision("hello--0000001", "copy", suffix);
        assert_eq!(client.revision(request).await.unwrap().into_inner().revision, "hello--0000003");
    }
    let asked = [
        "Activate hello--0000001",
        "Deactivate hello--0000001",
        "Restart hello--0000001",
        "Copy { suffix: None } hello--0000001",
        "Copy { suffix: Some(RevisionSuffix(\"again\")) } hello--0000001",
    ];
    assert_eq!(agent.asked(), asked);
    agent.stop().await;
}

#[tokio::test]
async fn a_revision_that_is_not_there_is_answered_with_its_neighbour() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    for (revision, message, hint) in [
        (
            "hello--0000011",
            "UnknownRevision: hello has no revision hello--0000011",
            "did you mean \"hello--0000001\"?",
        ),
        ("helo--0000001", "UnknownApp: there is no app \"helo\"", "did you mean \"hello\"?"),
        (
            "hello-0000002",
            "InvalidValue: \"hello-0000002\" is not a valid revision name: an app's name, two dashes and a suffix, 63 characters at most",
            "did you mean \"hello--0000002\"?",
        ),
    ] {
        let status = client.revision(of_revision(revision, "restart", "")).await.unwrap_err();
        assert_eq!((status.message(), refused(&status).hint.as_str()), (message, hint));
        if revision.starts_with("hello") {
            let request = of_traffic(vec![], &[("green", revision)]);
            let status = client.traffic(request).await.unwrap_err();
            assert_eq!((status.message(), refused(&status).hint.as_str()), (message, hint));
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn weights_and_labels_reach_the_loop_and_the_split_comes_back() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let weights =
        vec![weight("", "", 70), weight("", "BLUE", 20), weight("hello--0000002", "", 10)];
    let request = of_traffic(weights, &[("Green", "hello--0000002"), ("red", "")]);
    let split = client.traffic(request).await.unwrap().into_inner().weights;
    let blue = v1::Weight { revision: "hello--0000001".to_owned(), ..weight("", "blue", 20) };
    let blue = v1::Weight { latest: false, ..blue };
    assert_eq!(split, [weight("", "", 70), blue, weight("hello--0000002", "", 10)]);
    // A question changes nothing, and is answered all the same.
    let split = client.traffic(of_traffic(vec![], &[])).await.unwrap().into_inner().weights;
    assert_eq!(split[0], weight("", "", 100));
    let asked = [
        "traffic hello latest=70 blue=20 hello--0000002=10 green->hello--0000002 red->",
        "traffic hello",
    ];
    assert_eq!(agent.asked(), asked);
    agent.stop().await;
}

#[tokio::test]
async fn changes_that_cannot_be_meant_never_reach_the_loop() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let (verb, suffix, name) = ("restart", "again", "hello--0000001");
    for (request, message) in [
        (of_revision(name, "destroy", ""), "\"destroy\" is nothing that is done to a revision"),
        (of_revision(name, verb, suffix), "restart takes no suffix"),
        (
            of_revision(name, "copy", "a--b"),
            "InvalidValue: \"a--b\" is not a valid revision suffix name: 1 to 64 characters, a-z, 0-9 and single dashes, no dash first or last",
        ),
    ] {
        let status = client.revision(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message));
    }
    let long = "x".repeat(60);
    for (labels, message) in [
        (
            vec![("2blue", name)],
            "InvalidValue: \"2blue\" is not a valid label: 1 to 64 characters, a-z, 0-9 and single dashes, first a letter, last no dash".to_owned(),
        ),
        (
            vec![(long.as_str(), name)],
            format!("HostNameTooLong: the host name hello---{long} has 68 characters; 63 are allowed"),
        ),
        (vec![("blue", name), ("Blue", "")], "InvalidValue: the label blue is given twice".to_owned()),
        (vec![("blue", ""); 101], "InvalidValue: more than 100 changes in one call".to_owned()),
    ] {
        let status = client.traffic(of_traffic(vec![], &labels)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message.as_str()));
    }
    let request = v1::TrafficRequest { app: "helo".to_owned(), ..Default::default() };
    let status = client.traffic(request).await.unwrap_err();
    assert_eq!(refused(&status).hint, "did you mean \"hello\"?");
    assert_eq!(agent.asked(), ["traffic helo"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_given_up_at_the_callers_deadline() {
    let (inbox, mut requests) = mpsc::channel(INBOX_DEPTH);
    let (_publisher, published) = channels();
    let api = Api {
        inbox,
        published,
        images: Shelf(watch::channel(Vec::new()).0),
        spool_dir: PathBuf::new(),
        logs: Diary,
        about: About::default(),
        link: watch::channel(crate::published::Link { online: false, epoch: 0 }).1,
        clock: Clock::default(),
        stop: tokio_util::sync::CancellationToken::new(),
    };
    let mut restart = tonic::Request::new(of_revision("hello--0000001", "restart", ""));
    restart.set_timeout(Duration::from_millis(20));
    let mut split = tonic::Request::new(of_traffic(vec![], &[]));
    split.set_timeout(Duration::from_millis(20));
    let late = [
        super::super::verbs::revision(&api, restart).await.unwrap_err(),
        super::super::verbs::traffic(&api, split).await.unwrap_err(),
    ];
    assert_eq!(late.map(|status| status.code()), [Code::DeadlineExceeded; 2]);
    assert!(requests.try_recv().is_ok() && requests.try_recv().is_ok());
}
