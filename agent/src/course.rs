//! The course of a wake: when each of its steps was over, counted from the arrival of the request that called for it.
//!
//! ```text
//!   arrived ─▶ told ─▶ planned ─▶ network, recorded ─▶ made ─▶ started ─▶ ready ─▶ answered
//!   ingress     loop     loop        tasks beside it        runtime   tasks     ingress   ingress
//! ```
//!
//! For whoever looks for where the time goes: one line of the log for each wake, at the level debug. Like that log it is
//! the process's own, so that nothing is handed from module to module for it. Unless the line is asked for nothing is
//! kept. A step that did not happen, as it was done before anybody asked, is left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::model::RevisionName;
use tokio::time::Instant;
use tracing::{Level, debug, enabled};

/// Wakes that are followed at a time; one that failed is followed until there are as many.
const FOLLOWED_MAX: usize = 64;

/// What has been done for a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The loop knows that somebody waits.
    Told,
    /// A replica is ordered.
    Planned,
    /// Its network stands.
    Network,
    /// Its records and root file systems stand.
    Recorded,
    /// Its processes are made.
    Made,
    /// It runs.
    Started,
    /// It was found ready, and who waited is called.
    Ready,
}

/// The steps of one wake.
#[derive(Debug)]
struct Course {
    arrived: Instant,
    /// How far from serving the replica was that stood by; nothing where none did.
    tier: &'static str,
    /// When each was over first.
    steps: BTreeMap<Step, Duration>,
}

static COURSES: Mutex<BTreeMap<RevisionName, Course>> = Mutex::new(BTreeMap::new());

/// A request for a revision that is asleep is the first to wait.
pub fn begin(revision: &RevisionName) {
    if is_followed() {
        let mut courses = courses();
        if FOLLOWED_MAX <= courses.len() {
            courses.clear();
        }
        let course = Course { arrived: Instant::now(), tier: "", steps: BTreeMap::new() };
        courses.insert(revision.clone(), course);
    }
}

/// The loop has heard of all that were to be told.
pub fn told() {
    if is_followed() {
        courses().values_mut().for_each(|course| course.note(Step::Told));
    }
}

/// A replica of a revision is ordered, which stood by as `tier` says.
pub fn planned(revision: &RevisionName, tier: &'static str) {
    if is_followed()
        && let Some(course) = courses().get_mut(revision)
    {
        course.tier = tier;
        course.note(Step::Planned);
    }
}

/// A step is over.
pub fn over(revision: &RevisionName, step: Step) {
    if is_followed()
        && let Some(course) = courses().get_mut(revision)
    {
        course.note(step);
    }
}

/// The head of an answer has come from a replica: the first one ends the course.
pub fn answered(revision: &RevisionName) {
    if !is_followed() {
        return;
    }
    let Some(course) = courses().remove(revision) else { return };
    let micros = |step| course.steps.get(&step).map(micros);
    debug!(
        %revision,
        tier = course.tier,
        told = micros(Step::Told),
        planned = micros(Step::Planned),
        network = micros(Step::Network),
        recorded = micros(Step::Recorded),
        made = micros(Step::Made),
        started = micros(Step::Started),
        ready = micros(Step::Ready),
        answered = self::micros(&course.arrived.elapsed()),
        "woken, in microseconds"
    );
}

/// Whether anybody reads it.
fn is_followed() -> bool {
    enabled!(Level::DEBUG)
}

fn courses() -> MutexGuard<'static, BTreeMap<RevisionName, Course>> {
    COURSES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(time: &Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Course {
    fn note(&mut self, step: Step) {
        let since = self.arrived.elapsed();
        self.steps.entry(step).or_insert(since);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is logged at this level while `work` is done.
    fn logged(level: Level, work: impl FnOnce()) -> String {
        let page = Page::default();
        let log = tracing_subscriber::fmt().with_max_level(level).with_writer(page.clone());
        tracing::subscriber::with_default(log.with_ansi(false).finish(), work);
        let text = page.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    fn wake(revision: &RevisionName) {
        begin(revision);
        told();
        planned(revision, "created");
        over(revision, Step::Started);
        over(revision, Step::Ready);
        // It is ready for whoever comes later too.
        over(revision, Step::Ready);
        answered(revision);
        answered(revision);
    }

    #[test]
    fn one_line_tells_the_course_of_a_wake_and_only_who_asks_for_it_pays() {
        let revision: RevisionName = "followed--0000001".parse().unwrap();
        assert_eq!(logged(Level::INFO, || wake(&revision)), "");
        begin(&revision);
        assert!(!courses().contains_key(&revision), "nobody reads it");
        let text = logged(Level::DEBUG, || wake(&revision));
        assert_eq!(text.lines().count(), 1, "{text}");
        let field = |name: &str| {
            let mark = format!(" {name}=");
            let (_, rest) = text.split_once(&mark)?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        let steps = ["told", "planned", "started", "ready", "answered"].map(field);
        assert!(steps.is_sorted() && steps.iter().all(Option::is_some), "{text}");
        assert_eq!(["network", "recorded", "made"].map(field), [None; 3], "{text}");
        assert!(text.contains(r#"tier="created""#), "{text}");
    }

    #[test]
    fn wakes_that_never_end_are_forgotten() {
        let name = |n: usize| format!("forgotten--{n:07}").parse::<RevisionName>().unwrap();
        logged(Level::DEBUG, || (0..=FOLLOWED_MAX).for_each(|n| begin(&name(n))));
        assert!(courses().len() <= FOLLOWED_MAX);
    }
}
