//! Revisions, replicas and the split, word for word.

use expect_test::expect;

use super::{check, skerry};
use crate::api::tests::FakeAgent;

#[tokio::test]
async fn revisions_and_replicas_stand_in_columns() {
    check(
        "revisions hello",
        expect![[r#"
            REVISION         ACTIVE   PHASE       TRAFFIC   LABELS   READY   STATE        HEALTH      REASON
            hello--0000002   yes      Starting    0 %       -        0/1     Activating   Unhealthy   ProbeFailed
            hello--0000001   yes      Committed   100 %     blue     2/2     Running      Healthy     -
        "#]],
    )
    .await;
    check(
        "replicas hello",
        expect![[r#"
        REPLICA                STATE        READY   ADDRESS      RESTARTS   REASON
        hello--0000002-abcde   NotRunning   no      10.213.0.7   3          CrashLoopBackOff
        hello--0000001-klmno   Running      yes     10.213.0.6   0          -
        hello--0000001-fghij   Running      yes     10.213.0.5   0          -
    "#]],
    )
    .await;
}

#[tokio::test]
async fn an_app_without_revisions_says_so() {
    check("revisions shop", expect!["no revisions\n"]).await;
    check("replicas shop", expect!["no replicas\n"]).await;
}

#[tokio::test]
async fn the_split_stands_in_columns_with_the_host_of_each_label() {
    check(
        "traffic hello",
        expect![[r#"
        REVISION                  WEIGHT   LABEL   READY   HOST
        latest (hello--0000001)   100 %    -       2/2     hello.default.pi-1.internal
        hello--0000001            0 %      blue    2/2     hello---blue.default.pi-1.internal
    "#]],
    )
    .await;
    check(
        "traffic hello latest=60 blue=10 0000002=30 -o table",
        expect![[r#"
        REVISION                  WEIGHT   LABEL   READY   HOST
        latest (hello--0000001)   60 %     -       2/2     hello.default.pi-1.internal
        hello--0000001            10 %     blue    2/2     hello---blue.default.pi-1.internal
        hello--0000002            30 %     -       0/1     hello--0000002.default.pi-1.internal
    "#]],
    )
    .await;
    check(
        "traffic hello -o json",
        expect![[r#"
        {
          "weights": [
            {
              "revision": "",
              "latest": true,
              "label": "",
              "weight": 100
            },
            {
              "revision": "hello--0000001",
              "latest": false,
              "label": "blue",
              "weight": 0
            }
          ]
        }
    "#]],
    )
    .await;
    check(
        "traffic hello -o yaml",
        expect![[r#"
        weights:
        - revision: ""
          latest: true
          label: ""
          weight: 100
        - revision: hello--0000001
          latest: false
          label: blue
          weight: 0
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_split_that_cannot_be_is_refused_with_a_hint() {
    check(
        "traffic hello latest=80 blue=30",
        expect![[r#"
            error: the weights add up to 110, and there are 100 to give (InvalidValue)
            hint: skerry traffic hello shows the split
        "#]],
    )
    .await;
    check(
        "traffic hello 000001=20",
        expect![[r#"
        error: "000001" is not a revision or label of hello
        hint: did you mean 0000001?
    "#]],
    )
    .await;
    check(
        "traffic hello green=hello--0000012",
        expect![[r#"
            error: hello has no revision hello--0000012 (UnknownRevision)
            hint: did you mean "hello--0000002"?
        "#]],
    )
    .await;
    check(
        "traffic helo latest=100",
        expect![[r#"
        error: there is no app "helo" (UnknownApp)
        hint: did you mean "hello"?
    "#]],
    )
    .await;
}

#[tokio::test]
async fn what_was_done_to_a_revision_is_said_in_one_line() {
    let agent = FakeAgent::start();
    let mut text = String::new();
    for line in [
        "revision activate hello--0000001",
        "revision deactivate hello--0000001",
        "revision restart hello--0000002",
        "revision copy hello--0000001",
        "revision copy hello--0000001 --suffix again -o json",
        "revision restart hello--0000002 -o yaml",
        "revision restart hello--0000022",
        "revision restart hello",
    ] {
        text.push_str(&skerry(&agent.socket, line).await);
    }
    expect![[r#"
        revision "hello--0000001" activated
        revision "hello--0000001" deactivated
        hint: 100 % of the traffic was on it: skerry traffic hello
        revision "hello--0000002" is being restarted
        revision "hello--0000003" made, a copy of "hello--0000001"
        {
          "revision": "hello--0000003"
        }
        revision: hello--0000002
        error: hello has no revision hello--0000022 (UnknownRevision)
        hint: did you mean "hello--0000002"?
        error: "hello" is not a valid revision name: an app's name, two dashes and a suffix, 63 characters at most (InvalidValue)
        hint: skerry revisions hello lists them
    "#]].assert_eq(&text);
    agent.stop().await;
}
