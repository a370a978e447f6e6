//! Secrets on their way: out of documents, into replicas, by hand, sealed, lost; and never into words.

use domain::replica::Secret;

use super::world::Board;
use super::*;
use crate::inbox::KnownSecret;
use crate::keys;

const VALUE: &str = "hunter2-of-the-loop";

fn document(secrets: &str, generation: u64) -> String {
    format!(
        "name: hello\nconfiguration:\n  secrets: [{secrets}]\n  ingress: {{external: true, targetPort: 8080}}\n\
         template:\n  containers: [{{name: main, image: 'registry.example/hello:v{generation}', env: [{{name: TOKEN, secretRef: token}}]}}]\n  \
         scale: {{minReplicas: 1}}\nskerry: {{generation: {generation}}}\n"
    )
}

async fn runs(board: &mut Board, revisions: usize) {
    board
        .until("hello", |status| {
            status.running_status == RunningStatus::Running
                && status.revisions.len() == revisions
                && status.revisions[0].phase == Phase::Committed
        })
        .await;
}

fn given(board: &Board, name: &str) -> Option<String> {
    board.world().given.get(name).map(|secret| secret.0.clone())
}

fn known(name: &str, has_value: bool, listed: bool) -> KnownSecret {
    KnownSecret { name: name.to_owned(), has_value, listed }
}

#[tokio::test(start_paused = true)]
async fn a_value_reaches_the_replica_and_no_word_of_the_agent() {
    let mut board = Board::start();
    let text = document(&format!("{{name: token, value: {VALUE}}}, {{name: later}}"), 1);
    board.send("hello", &text).await.unwrap();
    runs(&mut board, 1).await;
    assert_eq!(given(&board, "token").as_deref(), Some(VALUE));
    let record = board.stored("hello");
    let accepted = record.accepted.clone().unwrap();
    assert_eq!(accepted.digest, domain::model::Digest::of(text.as_bytes()));
    assert!(!String::from_utf8_lossy(&accepted.payload).contains(VALUE));
    for said in [format!("{record:?}"), board.said(), format!("{:?}", board.world().given)] {
        assert!(said.contains("hello") || said.contains("token"), "{said}");
        assert!(!said.contains(VALUE), "{said}");
    }
    assert!(!board.send("hello", &text).await.unwrap().changed, "the same again is a repeat");
}

#[tokio::test(start_paused = true)]
async fn a_name_without_a_value_keeps_it_and_a_name_that_is_gone_forgets_it() {
    let mut board = Board::start();
    let both = format!("{{name: token, value: {VALUE}}}, {{name: other, value: x}}");
    board.send("hello", &document(&both, 1)).await.unwrap();
    runs(&mut board, 1).await;
    board.send("hello", &document("{name: token}, {name: new, value: y}", 2)).await.unwrap();
    runs(&mut board, 2).await;
    assert_eq!(given(&board, "token").as_deref(), Some(VALUE));
    board.send("hello", &document("{name: token}, {name: new}", 3)).await.unwrap();
    runs(&mut board, 3).await;
    assert_eq!((given(&board, "new").as_deref(), given(&board, "other")), (Some("y"), None));
    let names: Vec<String> = board.stored("hello").secrets.into_keys().collect();
    assert_eq!(names, ["new", "token"]);
    board.delete(Source::Mqtt, "hello").await.unwrap();
    assert!(board.stored("hello").secrets.is_empty(), "nothing is kept of a removed app");
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_waited_for_and_set_by_hand() {
    let mut board = Board::start();
    board.send("hello", &document("{name: token}", 1)).await.unwrap();
    let missing = Some(Reason::SecretValueMissing);
    let status = board.until("hello", |status| status.revisions[0].reason == missing).await;
    expect![[r#"TOKEN needs the secret "token""#]].assert_eq(&status.revisions[0].details);
    assert_eq!(board.secrets("hello").await, [known("token", false, true)]);

    board.set_secret("hello", "token", Some(VALUE)).await.unwrap();
    runs(&mut board, 1).await;
    assert_eq!(given(&board, "token").as_deref(), Some(VALUE));
    board.set_secret("hello", "token", Some(VALUE)).await.unwrap();
    assert_eq!(board.told(Reason::SecretChanged), 1, "the same again changes nothing");
    board.set_secret("hello", "own", Some("z")).await.unwrap();
    assert_eq!(
        board.secrets("hello").await,
        [known("own", true, false), known("token", true, true)]
    );
    assert!(!board.said().contains(VALUE));

    board.send("hello", &document("{name: token}", 2)).await.unwrap();
    runs(&mut board, 2).await;
    assert_eq!(given(&board, "own").as_deref(), Some("z"), "what a person set stays");
    board.set_secret("hello", "own", None).await.unwrap();
    board.set_secret("hello", "token", None).await.unwrap();
    assert_eq!(board.secrets("hello").await, [known("token", false, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_is_refused() {
    let board = Board::start();
    let reason = |refused: Result<(), crate::inbox::Refusal>| {
        let finding = refused.unwrap_err().findings.remove(0);
        (finding.reason, finding.path)
    };
    let set =
        async |name: &'static str, value| reason(board.set_secret("hello", name, value).await);
    assert_eq!(set("token", Some("x")).await.0, Reason::UnknownApp);
    board.send("hello", &document("{name: token}", 1)).await.unwrap();
    assert_eq!(set("A_B", Some("x")).await, (Reason::InvalidValue, "name".to_owned()));
    assert_eq!(set("token", Some("a\0b")).await, (Reason::InvalidValue, "value".to_owned()));
    assert_eq!(set("token", None).await, (Reason::UnknownSecret, String::new()));
    let large: &'static str = Box::leak("x".repeat((256 << 10) + 1).into_boxed_str());
    assert_eq!(set("token", Some(large)).await, (Reason::InvalidValue, "value".to_owned()));
    let sealed = set("token", Some("sealed:AAAA")).await;
    assert_eq!(sealed, (Reason::SealedValueUnreadable, "value".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_was_sealed_for_this_device_opens_and_another_is_refused_by_its_path() {
    let mut board = Board::start();
    let value = Secret(VALUE.to_owned());
    let sealed = keys::seal(board.public_key(), &value).unwrap();
    board
        .send("hello", &document(&format!("{{name: token, value: '{sealed}'}}"), 1))
        .await
        .unwrap();
    runs(&mut board, 1).await;
    assert_eq!(given(&board, "token").as_deref(), Some(VALUE));
    board
        .set_secret("hello", "token", Some(&keys::seal(board.public_key(), &value).unwrap()))
        .await
        .unwrap();
    assert_eq!(board.stored("hello").secrets["token"].value, value);

    let other = "V9tLNZ8jrl4Ubk4lEgVnBHIlBjSMFQwUdT0Mkz0E1CE=";
    let foreign = keys::seal(other, &value).unwrap();
    let refused = board
        .send("hello", &document(&format!("{{name: a}}, {{name: token, value: '{foreign}'}}"), 2))
        .await
        .unwrap_err();
    expect!["properties.configuration.secrets[1].value: SealedValueUnreadable: it was sealed for another key, or is damaged"]
        .assert_eq(&refused.to_string());
    assert_eq!(board.stored("hello").secrets["token"].value, value, "what was stored stays");
}

#[tokio::test(start_paused = true)]
async fn values_that_were_lost_with_a_key_are_a_trouble_until_they_are_set_again() {
    let mut board = Board::start();
    board.send("hello", &document(&format!("{{name: token, value: {VALUE}}}"), 1)).await.unwrap();
    runs(&mut board, 1).await;
    {
        let mut world = board.world();
        let app = world.stored.apps.values_mut().next().unwrap();
        app.secrets.clear();
        world.lost_secrets = vec![("hello".to_owned(), "token".to_owned())];
    }
    let mut board = board.restart().await;
    runs(&mut board, 1).await;
    let trouble = Trouble { reason: Reason::SecretsLost, details: "hello/token".to_owned() };
    assert_eq!(board.troubles(), [trouble]);
    assert_eq!(board.told(Reason::SecretsLost), 1);
    board.set_secret("hello", "token", Some(VALUE)).await.unwrap();
    board.until_no_trouble().await;
}
