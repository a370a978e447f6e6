//! Scripts of apps that scale: demand comes and goes, and everything else happens too.

use super::asks::Ask;
use super::crowd::{Call, Matters};
use super::dice::Dice;
use super::elastic::{Elastic, Rule};
use super::script::{Happening, Point, Script, change, fall, first, happening, index, target};
use crate::document::{RevisionsMode, Standby};

impl Script {
    /// What happens to apps of which most scale.
    pub(super) fn of_swings(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5CA1_AB1E);
        let apps = 1 + dice.roll(3).min(dice.roll(3));
        let count = 3 + dice.span(0, 16);
        let pace = dice.pick(&[500, 5_000, 40_000, 200_000]).unwrap_or(5_000);
        let mut asks: Vec<Ask> = Vec::new();
        let (mut at, mut happenings) = (0, Vec::new());
        for app in 0..apps {
            let mut ask = first(&mut dice);
            if !dice.once_in(6) {
                ask.elastic = Some(elastic(&mut dice));
                // A device is for one alone, and nothing stands by for it.
                ask.device = ask.device.filter(|_| dice.once_in(4));
                ask.standby = standby(&mut dice);
                if dice.once_in(3) {
                    ask.mode = RevisionsMode::Multiple;
                }
                ask.probation = dice.pick(&[0, 0, 5, 60]).unwrap_or(0);
            }
            asks.push(ask.clone());
            happenings.push((at, Happening::Send(index(app), ask)));
            at += dice.span(0, pace);
        }
        for _ in 0..count {
            // Often enough long enough for what rests to fall asleep.
            if dice.once_in(3) {
                at += dice.span(1, 420_000);
            }
            let app = index(dice.roll(apps));
            let happening = match dice.roll(5) {
                0..=2 => swing(&mut dice, app),
                3 => {
                    let ask = alter(&mut dice, &asks[app]);
                    asks[app] = ask.clone();
                    Happening::Send(app, ask)
                }
                _ => happening(&mut dice, app, &mut asks),
            };
            // It is while something goes on that a person's word counts.
            if matches!(happening, Happening::Rest(_)) && dice.once_in(2) {
                happenings.push((at, Happening::Flow(app, 5, 120_000)));
                at += dice.span(1, 60_000);
            }
            happenings.push((at, happening));
            at += dice.span(0, pace);
        }
        Self { seed, happenings }
    }
}

/// Something that moves the number of replicas.
fn swing(dice: &mut Dice, app: usize) -> Happening {
    match dice.roll(16) {
        0..=3 => {
            let revision = dice.once_in(5).then(|| dice.roll(4));
            let (count, long) = (1 + dice.span(0, 40), dice.span(1, 90_000));
            Happening::Call(Call { app, revision, count, long, matters: Matters::No })
        }
        4..=6 => Happening::Flow(app, 1 + dice.span(0, 60), dice.span(1, 300_000)),
        7..=9 => Happening::Load(app, dice.pick(&[0, 0, 1, 2, 3, 15, 60]).unwrap_or(0)),
        10 => Happening::Spring(app, dice.span(0, 200)),
        11..=12 => Happening::Rest(app),
        13 => Happening::Scale(app, target(dice)),
        14 => Happening::Press(dice.span(1, 400_000)),
        _ => {
            let point = if dice.once_in(2) { Point::Armed } else { Point::Froze };
            Happening::Ambush(point, fall(dice), dice.span(1, 60_000))
        }
    }
}

/// The next document of an app: how it scales or stands by changes, or something else.
fn alter(dice: &mut Dice, known: &Ask) -> Ask {
    match dice.roll(4) {
        0 if known.elastic.is_some() => Ask { elastic: Some(elastic(dice)), ..known.clone() },
        1 => Ask { standby: standby(dice), ..known.clone() },
        _ => change(dice, known),
    }
}

fn elastic(dice: &mut Dice) -> Elastic {
    let number = |dice: &mut Dice, most: u64| 1 + u32::try_from(dice.roll(most)).unwrap_or(0);
    let least = dice.pick(&[0, 0, 0, 0, 1, 2]).unwrap_or(0);
    let rule = match dice.roll(8) {
        0..=1 => Rule::Usual,
        2..=3 => Rule::Http(number(dice, 20)),
        4 => Rule::Cron(number(dice, 4)),
        5 => Rule::Sampled,
        6 => Rule::HttpAndCron(number(dice, 4)),
        _ => Rule::HttpAndSampled(number(dice, 20)),
    };
    Elastic {
        least,
        most: number(dice, 6).max(least),
        cooldown: dice.pick(&[1, 10, 60, 300]).unwrap_or(300),
        polling: dice.pick(&[30, 120, 300]).unwrap_or(30),
        rule,
    }
}

fn standby(dice: &mut Dice) -> Standby {
    dice.pick(&[Standby::None, Standby::Created, Standby::Frozen, Standby::Frozen])
        .unwrap_or_default()
}
