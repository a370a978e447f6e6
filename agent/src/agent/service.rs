//! What the service manager is told: that the agent is ready, that its loop goes on, what there is to say, and the end.
//!
//! The watchdog is fed by rounds and not by a timer. While nothing changes there are none for a minute, so twice in each
//! of its periods the loop is asked for one, on the way that documents take; what follows is fed. A loop that hangs has
//! no answer, whatever else of the process goes on, and is dead to the service manager one period after its last round.
//!
//! ```text
//!   half a period ─▶ inbox ─▶ loop ─▶ round completed ─▶ WATCHDOG=1
//! ```

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time;
use tracing::{info, warn};

use crate::inbox::{Inbox, Request};
use crate::manager::ServiceManager;
use crate::published::DeviceState;
use crate::report::Chain;
use crate::trial::Trial;

/// Sockets of the run before are kept so long for those that want them: an environment's come when its bridge is there.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// A status is one line of a terminal.
const LONGEST_STATUS: usize = 200;

/// Says what the service manager wants to hear, where there is one.
#[derive(Debug)]
pub(super) struct Service {
    manager: ServiceManager,
    trial: Trial,
    device: watch::Receiver<Arc<DeviceState>>,
    inbox: Inbox,
    /// What was said last.
    status: String,
}

impl Service {
    pub(super) fn new(
        manager: ServiceManager,
        trial: Trial,
        device: watch::Receiver<Arc<DeviceState>>,
        inbox: Inbox,
    ) -> Self {
        Self { manager, trial, device, inbox, status: String::new() }
    }

    /// Says that the agent is ready once a round is complete, be containerd there or not, and feeds the watchdog from
    /// then on. Has no end: where the loop ends, others see to it.
    pub(super) async fn attend(mut self) {
        self.first_round().await;
        info!("the first round is complete");
        match self.trial.pass() {
            Ok(true) => info!("this agent was on trial, and stays"),
            Ok(false) => (),
            Err(error) => warn!(error = %Chain(&error), "the end of a trial cannot be recorded"),
        }
        self.tell("READY=1");
        let manager = self.manager.clone();
        let forget = async {
            time::sleep(KEPT_FOR).await;
            manager.forget_rest("");
        };
        tokio::join!(forget, self.feed());
    }

    /// Feeds the watchdog, where there is one.
    async fn feed(&mut self) {
        let Some(period) = self.manager.watchdog() else { return pending().await };
        loop {
            time::sleep(period / 2).await;
            self.rounds_go_on().await;
            self.tell("WATCHDOG=1");
        }
    }

    /// Asks for a round, and waits until it is complete.
    async fn rounds_go_on(&mut self) {
        let (reply, answer) = oneshot::channel();
        let asked = self.inbox.send(Request::Round { reply }).await;
        if asked.is_err() || answer.await.is_err() {
            pending::<()>().await;
        }
    }

    async fn first_round(&mut self) {
        // What `wait_for` gives is a lock, which the loop could not write past for as long as it is held.
        if self.device.wait_for(|device| 1 <= device.rounds).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Says `state`, and the status where it is another than before.
    fn tell(&mut self, state: &str) {
        let status = status(&self.device.borrow());
        if status == self.status {
            self.manager.tell(state);
        } else {
            self.manager.tell(&format!("{state}\nSTATUS={status}\n"));
        }
        self.status = status;
    }
}

/// The line that `systemctl status` shows.
fn status(device: &DeviceState) -> String {
    let apps = match device.apps.len() {
        1 => "1 app".to_owned(),
        count => format!("{count} apps"),
    };
    let Some(first) = device.troubles.first() else { return apps };
    let line = format!("{apps}; {}: {}", first.reason.word(), first.details);
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use domain::reason::Reason;
    use domain::replica::Trouble;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn the_status_is_one_line_and_names_the_first_trouble() {
        let mut device = DeviceState::default();
        assert_eq!(status(&device), "0 apps");
        let details = format!("no answer\nfrom it{}", ".".repeat(300));
        device.troubles = vec![Trouble { reason: Reason::ContainerdUnavailable, details }];
        let line = status(&device);
        assert!(line.starts_with("0 apps; ContainerdUnavailable: no answer from it..."), "{line}");
        assert_eq!(line.len(), LONGEST_STATUS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_counts_when_it_is_complete_and_not_when_it_is_asked_for() {
        let (_device, seen) = watch::channel(Arc::default());
        let (inbox, mut requests) = mpsc::channel(1);
        let trial = Trial::new(Path::new("/nowhere"), Path::new("/nowhere/skerry"));
        let mut service = Service::new(ServiceManager::default(), trial, seen, inbox);
        let asked = service.rounds_go_on();
        tokio::pin!(asked);
        let long = Duration::from_mins(1);
        assert!(time::timeout(long, &mut asked).await.is_err(), "asking counted as a round");
        let Some(Request::Round { reply }) = requests.recv().await else { panic!("not asked") };
        assert!(time::timeout(long, &mut asked).await.is_err(), "a round that hangs counted");
        reply.send(()).unwrap();
        asked.await;
    }
}
