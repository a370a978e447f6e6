//! TCP ports of apps: where they lead, who has them, and that an app behind one goes to zero and back.

use std::time::Duration;

use domain::document::Finding;
use domain::reason::Reason;
use domain::route::{Ports, RouteTable, Side, Sleep};
use domain::scale::Asked;
use domain::status::{AppStatus, RunningStatus};
use tokio::time::sleep;

use super::world::{Board, document};

/// The ports of a table from one side: `5432 ▶ 10.213.0.2:5432`.
fn told(ports: &Ports) -> Vec<String> {
    let one = |(port, service): (&u16, &std::sync::Arc<domain::route::Service>)| {
        let backends = service.revisions.values().flatten();
        let backends: Vec<String> = backends.map(|one| one.address.to_string()).collect();
        format!("{} {port} ▶ {}", service.app, backends.join(" "))
    };
    ports.iter().map(one).collect()
}

fn inside(table: &RouteTable) -> Vec<String> {
    told(&table.environments["default"].ports)
}

fn tcp(app: &str, ingress: &str) -> String {
    document(app, "v1", 1).replace("targetPort: 8080", &format!("transport: tcp, {ingress}"))
}

async fn run(board: &mut Board, app: &str, document: &str) {
    board.send(app, document).await.unwrap();
    board.until(app, |status| status.running_status == RunningStatus::Running).await;
}

fn conflicts(status: &AppStatus) -> Vec<&str> {
    let one = |one: &&Finding| one.reason == Reason::PortConflict;
    status.warnings.iter().filter(one).map(|one| one.message.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn ports_lead_to_what_is_behind_them_from_the_sides_that_the_document_gives_them() {
    let mut board = Board::start();
    run(&mut board, "db", &tcp("db", "targetPort: 5432")).await;
    let more = "targetPort: 8080, additionalPortMappings: \
                [{targetPort: 9000, exposedPort: 7000, external: true}, {targetPort: 9001}]";
    run(&mut board, "web", &document("web", "v1", 1).replace("targetPort: 8080", more)).await;
    let table = board.routes();
    let outside = ["db 5432 ▶ 10.213.0.2:5432", "web 7000 ▶ 10.213.0.3:9000"];
    assert_eq!(told(&table.ports), outside);
    assert_eq!(inside(&table), [outside[0], outside[1], "web 9001 ▶ 10.213.0.3:9001"]);
    assert_eq!(board.backends("web"), ["10.213.0.3:8080"]);
    let exposed = |app: &str| board.statuses().apps[app].exposed_port;
    assert_eq!((exposed("db"), exposed("web")), (5432, 0));
    assert_eq!(table.find("db", &Side::Lan), Err(Reason::UnknownHost));
    // Without a new revision.
    let other = tcp("db", "targetPort: 5432, exposedPort: 15432");
    let other = other.replace("external: true", "external: false");
    board.send("db", &other.replace("generation: 1", "generation: 2")).await.unwrap();
    board.until("db", |status| status.exposed_port == 15432).await;
    let table = board.routes();
    assert_eq!(told(&table.ports), outside[1..]);
    assert_eq!(inside(&table)[2], "db 15432 ▶ 10.213.0.2:5432");
}

#[tokio::test(start_paused = true)]
async fn who_came_first_has_the_port_after_a_restart_too() {
    let mut board = Board::start();
    run(&mut board, "zebra", &tcp("zebra", "targetPort: 5432")).await;
    run(&mut board, "ant", &tcp("ant", "targetPort: 5432")).await;
    let status = board.until("ant", |status| !conflicts(status).is_empty()).await;
    let both = ["in environment default", "on the LAN"]
        .map(|place| format!("port 5432 belongs to app zebra {place}"));
    assert_eq!(conflicts(&status), both);
    let mut board = board.restart().await;
    board.until("ant", |status| status.revisions[0].ready_replicas == 1).await;
    let status = board.until("zebra", |status| status.revisions[0].ready_replicas == 1).await;
    assert_eq!(conflicts(&status), [""; 0]);
    let ours = ["zebra 5432 ▶ 10.213.0.2:5432"];
    assert_eq!(told(&board.routes().ports), ours);
    assert_eq!(inside(&board.routes()), ours);
    let absent = "name: zebra\nskerry: {generation: 2, absent: true}\n";
    board.send("zebra", absent).await.unwrap();
    board.until("ant", |status| conflicts(status).is_empty()).await;
    assert_eq!(told(&board.routes().ports), ["ant 5432 ▶ 10.213.0.3:5432"]);
}

#[tokio::test(start_paused = true)]
async fn an_app_behind_a_port_goes_to_zero_and_a_connection_that_waits_brings_it_back() {
    const REVISION: &str = "db--0000001";
    let mut board = Board::start();
    let lazy = tcp("db", "targetPort: 5432").replace("minReplicas: 1", "minReplicas: 0");
    run(&mut board, "db", &lazy).await;
    // An open connection keeps it, two of its ten do not make it more.
    board.ask_for(REVISION, Asked { open: 2, ..Asked::default() });
    sleep(Duration::from_mins(30)).await;
    board.until("db", |status| status.revisions[0].replicas == 1).await;
    board.ask_for(REVISION, Asked { open: 21, ..Asked::default() });
    let status = board.until("db", |status| status.revisions[0].ready_replicas == 3).await;
    assert_eq!(status.revisions[0].scaled_by, "tcp");
    board.ask_for(REVISION, Asked::default());
    board.until("db", |status| status.revisions[0].replicas == 0).await;
    assert_eq!(told(&board.routes().ports), ["db 5432 ▶ "]);
    assert_eq!(board.sleep_of("db", REVISION), Some(Sleep::Wakes));
    board.ask_for(REVISION, Asked { waiting: 1, ..Asked::default() });
    board.until("db", |status| status.revisions[0].ready_replicas == 1).await;
    board.ask_for(REVISION, Asked::default());
    board.to_zero("db").await.unwrap();
    board.until("db", |status| status.revisions[0].replicas == 0).await;
}
