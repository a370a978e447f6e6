//! Who gets which port, as tables of documents in the order in which they came.

use super::*;
use crate::allowances::Allowances;
use crate::document::Document;
use crate::intake::{self, Incoming, Verdict};
use crate::status::Source;

/// A state into which documents come one after the other.
#[derive(Default)]
struct Board {
    state: State,
    moment: u64,
}

impl Board {
    /// `ingress` is what the document says of it.
    fn desire(&mut self, app: &str, environment: &str, ingress: &str) {
        let text = format!(
            "properties: {{environmentId: {environment}, configuration: {{ingress: {{{ingress}}}}}, \
             template: {{containers: [{{name: main, image: a}}]}}}}"
        );
        self.take(app, &text);
    }

    fn take(&mut self, app: &str, text: &str) {
        let parsed = intake::take_apart(text.as_bytes(), Some(app)).unwrap();
        let Document::App(document) = parsed.document else { panic!("an app") };
        let incoming = Incoming {
            source: Source::Mqtt,
            payload: text.as_bytes(),
            force: false,
            allowances: &Allowances::default(),
        };
        let known = self.state.apps.get(&parsed.name);
        let verdict = intake::app(known, &parsed.name, *document, Vec::new(), incoming);
        let Verdict::Changed(mut record) = verdict else { panic!("{verdict:?}") };
        claim(&mut record, self.moment);
        self.moment += 1;
        self.state.apps.insert(parsed.name, *record);
    }

    fn holders(&self) -> Holders {
        Holders::of(&self.state, &BTreeSet::from([53, 80, 443, 8080]))
    }

    /// Who has the port, from this side.
    #[track_caller]
    fn check(&self, side: &Side, port: u16, expected: &str) {
        let holder = self.holders().apps.get(&(side.clone(), port)).map(ToString::to_string);
        assert_eq!(holder.unwrap_or_default(), expected, "{side:?} {port}");
    }

    fn conflicts(&self, app: &str) -> Vec<String> {
        let found = self.holders().conflicts(&self.state.apps[app]);
        let words = |one: &Finding| format!("{}: {}", one.reason, one.message);
        found.iter().map(words).collect()
    }
}

fn inside(environment: &str) -> Side {
    Side::Environment(environment.parse().unwrap())
}

const DB: &str = "transport: tcp, targetPort: 5432";
const OPEN_DB: &str = "external: true, transport: tcp, targetPort: 5432";

#[test]
fn a_document_asks_for_its_own_port_and_for_additional_ones() {
    let of = |ingress: &str| {
        let mut board = Board::default();
        board.desire("a", "default", ingress);
        let document = board.state.apps.values().next().unwrap().document().unwrap();
        let ports = of_document(Some(document)).into_iter();
        ports.map(|port| (port.exposed, port.target, port.external)).collect::<Vec<_>>()
    };
    assert_eq!(of(DB), [(5432, 5432, false)]);
    assert_eq!(of(&format!("{OPEN_DB}, exposedPort: 6000")), [(6000, 5432, true)]);
    assert_eq!(of("external: true, targetPort: 8080, exposedPort: 6000"), []);
    let more = "additionalPortMappings: [{targetPort: 7000}, \
                {targetPort: 7001, exposedPort: 7100, external: true}]";
    let expected = [(7000, 7000, false), (7100, 7001, true)];
    assert_eq!(of(&format!("external: true, targetPort: 80, {more}")), expected);
    assert_eq!(of(&format!("{OPEN_DB}, {more}"))[1..], expected);
}

#[test]
fn who_came_first_keeps_a_port_whatever_its_name() {
    let mut board = Board::default();
    board.desire("zoo", "default", OPEN_DB);
    board.desire("ape", "default", OPEN_DB);
    board.check(&Side::Lan, 5432, "zoo");
    board.check(&inside("default"), 5432, "zoo");
    assert_eq!(board.conflicts("zoo"), [""; 0]);
    let both = [
        "PortConflict: port 5432 belongs to app zoo in environment default",
        "PortConflict: port 5432 belongs to app zoo on the LAN",
    ];
    assert_eq!(board.conflicts("ape"), both);
    // A newer document that goes on asking for it is no later one.
    board.desire("zoo", "default", &format!("{OPEN_DB}, traffic: []"));
    board.check(&Side::Lan, 5432, "zoo");
    // Who gives it up and wants it back is.
    board.desire("zoo", "default", &format!("{OPEN_DB}, exposedPort: 6000"));
    board.check(&Side::Lan, 5432, "ape");
    assert_eq!(board.conflicts("ape"), [""; 0]);
}

#[test]
fn a_port_is_free_again_when_its_app_is_removed() {
    let mut board = Board::default();
    board.desire("first", "default", DB);
    board.desire("second", "default", DB);
    board.take("first", "skerry: {absent: true}");
    board.check(&inside("default"), 5432, "second");
    board.desire("first", "default", DB);
    board.check(&inside("default"), 5432, "second");
    assert_eq!(board.conflicts("first").len(), 1);
}

#[test]
fn environments_have_their_own_ports_and_share_those_of_the_lan() {
    let mut board = Board::default();
    board.desire("one", "default", OPEN_DB);
    board.desire("two", "lab", DB);
    board.desire("three", "yard", OPEN_DB);
    board.check(&inside("default"), 5432, "one");
    board.check(&inside("lab"), 5432, "two");
    board.check(&inside("yard"), 5432, "three");
    board.check(&Side::Lan, 5432, "one");
    assert_eq!(board.conflicts("two"), [""; 0]);
    let lan = ["PortConflict: port 5432 belongs to app one on the LAN"];
    assert_eq!(board.conflicts("three"), lan);
}

#[test]
fn ports_of_the_board_belong_to_nobody_else() {
    let mut board = Board::default();
    board.desire("names", "default", "transport: tcp, targetPort: 53");
    board.desire("web", "default", "targetPort: 80, additionalPortMappings: [{targetPort: 8080}]");
    board.check(&inside("default"), 53, "");
    board.check(&inside("default"), 8080, "");
    let told = "PortConflict: port 53 belongs to the board itself in environment default";
    assert_eq!(board.conflicts("names"), [told]);
    let found = board.holders().conflicts(&board.state.apps["web"]);
    let path = "properties.configuration.ingress.additionalPortMappings[0].exposedPort";
    assert_eq!(found[0].path, path);
}

#[test]
fn a_port_that_cannot_be_listened_on_is_told_to_the_app_that_has_it() {
    let mut board = Board::default();
    board.desire("one", "default", OPEN_DB);
    board.desire("two", "default", OPEN_DB);
    let trouble = Trouble { reason: Reason::PortTaken, details: "by nginx".to_owned() };
    let listeners = BTreeMap::from([(listener(&Side::Lan, 5432), trouble)]);
    let told = |app: &str| {
        let found = board.holders().closed(&board.state.apps[app], &listeners);
        found.into_iter().map(|one| (one.path, one.reason, one.message)).collect::<Vec<_>>()
    };
    let path = "properties.configuration.ingress.exposedPort".to_owned();
    assert_eq!(told("one"), [(path, Reason::PortTaken, "by nginx".to_owned())]);
    assert_eq!(told("two"), []);
}
