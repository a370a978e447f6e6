//! What happens in a run: the whole of it is thrown before it begins, so that a part of it can be left out to find out
//! what matters.

use super::asks::{Ask, Fate};
use super::crowd::Call;
use super::dice::Dice;
use crate::document::{RevisionsMode, ScaleTarget, Standby};

/// Memory may be scarce for so many milliseconds: longer than it takes to come to trial.
const LONG_PRESSURE: u64 = 600_000;

/// Something that nobody planned, or that somebody asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happening {
    /// A document comes for an app.
    Send(usize, Ask),
    /// A person removes an app.
    Delete(usize),
    /// A scale target comes for an app.
    Scale(usize, ScaleTarget),
    /// A person stops an app, or starts it.
    Run(usize, Power),
    /// A person does something to one of an app's revisions: which, the number says.
    Verb(usize, u64, Verb),
    /// A container ends: which of those that run, the number says.
    Crash(u64),
    /// All containers of an app end.
    CrashApp(usize),
    /// A replica is not ready for so long.
    Sicken(u64, u64),
    /// A container is condemned by its liveness probe.
    Condemn(u64),
    /// Somebody removes a replica behind the agent's back.
    Vanish(u64),
    /// The agent is killed, and starts again so much later.
    KillAgent(u64),
    /// The board is without power for so long.
    CutPower(u64),
    /// As the two before, the next time the agent comes to a point.
    Ambush(Point, Fall, u64),
    /// Containerd does not answer for so long.
    LoseContainerd(u64),
    /// Nothing can be stored for so long.
    FillDisk(u64),
    /// What the agent does fails now and then, for so long.
    Trouble(u64),
    /// No memory is left for a second copy of anything, for so long.
    Crowd(u64),
    /// Processes wait for memory, for so long.
    Press(u64),
    /// Apps keep their locks for so long.
    Lock(u64),
    /// Requests of one moment.
    Call(Call),
    /// Requests for an app: so many a second, for so long.
    Flow(usize, u64, u64),
    /// What an app's source says from now on.
    Load(usize, u32),
    /// A request for an app, so long after its last replica was told to go.
    Spring(usize, u64),
    /// A person sends an app to zero.
    Rest(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    On,
    Off,
}

/// What a person does to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Activate,
    Deactivate,
    Restart,
    Copy,
    Direct(u32),
    Label,
}

/// Where the agent is when it is cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// A step is decided and not stored.
    Decided,
    /// A step is stored and nothing followed from it.
    Stored,
    /// So many of the actions are begun.
    Begun(usize),
    /// A replica's records and network are made, and it does not run.
    Made,
    /// A replica runs, and the agent does not know.
    Ran,
    /// A container's record was taken away to be made anew.
    Halved,
    /// A replica's processes ended, and its records are still there.
    Ended,
    /// Images are there, and that is not stored.
    Fetched,
    /// A replica stands by, and the agent does not know.
    Armed,
    /// A replica is frozen, and the agent does not know.
    Froze,
}

/// How it is cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fall {
    Agent,
    Power,
}

/// What happens, and when, in milliseconds from the beginning.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) happenings: Vec<(u64, Happening)>,
}

impl Script {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let apps = 1 + dice.roll(3).min(dice.roll(3));
        let count = 2 + dice.span(0, 12);
        let pace = dice.pick(&[300, 3_000, 20_000, 120_000]).unwrap_or(3_000);
        let mut asks: Vec<Ask> = Vec::new();
        let mut at = 0;
        let mut happenings = Vec::new();
        for app in 0..apps {
            let ask = first(&mut dice);
            asks.push(ask.clone());
            happenings.push((at, Happening::Send(index(app), ask)));
            at += dice.span(0, pace);
        }
        for _ in 0..count {
            let app = index(dice.roll(apps));
            let happening = happening(&mut dice, app, &mut asks);
            let updates = matches!(happening, Happening::Send(..));
            happenings.push((at, happening));
            // An update is what makes memory scarce.
            if updates && dice.once_in(4) {
                happenings.push((at, Happening::Press(dice.span(1, LONG_PRESSURE))));
            }
            at += dice.span(0, pace);
        }
        Self { seed, happenings }
    }

    /// When the last of it happens.
    pub(super) fn end(&self) -> u64 {
        self.happenings.last().map_or(0, |(at, _)| *at)
    }
}

pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

pub(super) fn happening(dice: &mut Dice, app: usize, asks: &mut [Ask]) -> Happening {
    let away = dice.span(1, 60_000);
    match dice.roll(43) {
        0..=10 => {
            let ask = change(dice, &asks[app]);
            asks[app] = ask.clone();
            Happening::Send(app, ask)
        }
        11 => Happening::Delete(app),
        12..=13 => Happening::Scale(app, target(dice)),
        14 => Happening::Run(app, Power::Off),
        15 => Happening::Run(app, Power::On),
        16..=17 => Happening::Crash(dice.roll(64)),
        18 => Happening::CrashApp(app),
        19 => Happening::Sicken(dice.roll(64), away),
        20 => Happening::Condemn(dice.roll(64)),
        21 => Happening::Vanish(dice.roll(64)),
        22..=23 => Happening::KillAgent(away),
        24 => Happening::CutPower(away),
        25..=29 => {
            let fall = fall(dice);
            Happening::Ambush(point(dice), fall, away)
        }
        30 => Happening::LoseContainerd(away),
        31 => Happening::FillDisk(away),
        32..=33 => Happening::Trouble(away),
        34 => Happening::Crowd(away),
        35 => Happening::Lock(away),
        36..=37 => Happening::Verb(app, dice.roll(8), Verb::Restart),
        38 => Happening::Press(away),
        _ => Happening::Verb(app, dice.roll(8), verb(dice)),
    }
}

pub(super) fn fall(dice: &mut Dice) -> Fall {
    if dice.once_in(2) { Fall::Agent } else { Fall::Power }
}

fn verb(dice: &mut Dice) -> Verb {
    match dice.roll(6) {
        0 => Verb::Activate,
        1 => Verb::Deactivate,
        2 => Verb::Restart,
        3 => Verb::Copy,
        4 => Verb::Direct(u32::try_from(dice.roll(101)).unwrap_or(100)),
        _ => Verb::Label,
    }
}

fn point(dice: &mut Dice) -> Point {
    match dice.roll(9) {
        0 => Point::Decided,
        1 => Point::Stored,
        2 => Point::Begun(0),
        3 => Point::Begun(1),
        4 => Point::Made,
        5 => Point::Ran,
        6 => Point::Halved,
        7 => Point::Ended,
        _ => Point::Fetched,
    }
}

pub(super) fn target(dice: &mut Dice) -> ScaleTarget {
    let count = |dice: &mut Dice| u32::try_from(dice.roll(4)).unwrap_or(1);
    let mut target = ScaleTarget::default();
    match dice.roll(4) {
        0 => (),
        1 => target.min_replicas = Some(count(dice)),
        2 => target.max_replicas = Some(1 + count(dice)),
        _ => target.replicas = Some(count(dice)),
    }
    target
}

/// Most apps begin well: what becomes of what runs is what this is about.
pub(super) fn first(dice: &mut Dice) -> Ask {
    let mut ask = Ask {
        fate: Fate::Good,
        build: 0,
        replicas: 1,
        elastic: None,
        standby: Standby::None,
        sidecar: dice.once_in(5),
        grace: None,
        device: None,
        port: 80,
        mode: RevisionsMode::Single,
        recreate: dice.once_in(5),
        lab: dice.once_in(6),
        deadline: dice.pick(&[20, 60, 600]).unwrap_or(600),
        probation: dice.pick(&[0, 5, 60]).unwrap_or(60),
        window: dice.once_in(12),
        force: false,
        absent: false,
    };
    if dice.once_in(4) {
        ask.device = Some(u8::from(dice.once_in(2)));
    } else {
        ask.replicas = 1 + u32::try_from(dice.roll(3).min(dice.roll(3))).unwrap_or(0);
    }
    if dice.once_in(5) {
        ask.fate = fate(dice);
    }
    if dice.once_in(6) {
        ask.mode = mode(dice);
    }
    ask
}

fn mode(dice: &mut Dice) -> RevisionsMode {
    let modes = [RevisionsMode::Single, RevisionsMode::Multiple, RevisionsMode::Labels];
    dice.pick(&modes).unwrap_or_default()
}

fn fate(dice: &mut Dice) -> Fate {
    let fates = [
        Fate::Good,
        Fate::Good,
        Fate::Good,
        Fate::Slow,
        Fate::Late,
        Fate::Missing,
        Fate::Crashes,
        Fate::Deaf,
        Fate::Ailing,
        Fate::Fickle,
        Fate::InitFails,
        Fate::InitHangs,
    ];
    dice.pick(&fates).unwrap_or(Fate::Good)
}

/// The next document of an app: most often the same with one thing changed.
pub(super) fn change(dice: &mut Dice, known: &Ask) -> Ask {
    let mut ask = known.clone();
    ask.force = dice.once_in(8);
    ask.absent = false;
    match dice.roll(16) {
        0..=6 => {
            ask.build = ask.build.wrapping_add(1);
            ask.fate = fate(dice);
        }
        7 => ask.port = dice.pick(&[0, 80, 8080]).unwrap_or(80),
        8 => ask.mode = mode(dice),
        9 => ask.recreate = !ask.recreate,
        10 => ask.lab = !ask.lab,
        11 if ask.device.is_none() => ask.replicas = 1 + u32::try_from(dice.roll(3)).unwrap_or(0),
        12 => {
            ask.device = (!dice.once_in(3)).then(|| u8::from(dice.once_in(2)));
            ask.replicas = 1;
        }
        13 => ask.absent = true,
        14 => ask.window = !ask.window,
        15 => ask.grace = dice.pick(&[None, Some(0), Some(2)]).flatten(),
        _ => ask.sidecar = !ask.sidecar,
    }
    ask
}
