//! How a run ended: the status for the caller, what there is to say, and the time each stage took.

use std::time::{Duration, Instant};

use guest_init::channel::wire::Exit;
use nix::sys::signal::Signal;

use crate::console::Ending;
use crate::domain::qemu::Emulation;
use crate::run::Plan;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status that the caller should have.
    pub code: u8,
    /// What there is to say of it.
    pub message: Option<String>,
    /// When what was reached.
    pub stages: Stages,
}

/// Stages of a run with the time each took.
#[derive(Debug)]
pub struct Stages {
    begin: Instant,
    reached: Vec<(String, Instant)>,
}

impl Stages {
    pub(super) fn new() -> Self {
        Self {
            begin: Instant::now(),
            reached: Vec::new(),
        }
    }

    pub(super) fn reach(&mut self, name: &str) {
        self.reach_at(name, Instant::now());
    }

    pub(super) fn reach_at(&mut self, name: &str, at: Instant) {
        self.reached.push((name.to_owned(), at));
    }

    /// Each stage with the time from the begin to its end, and its own part of that.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Duration, Duration)> {
        let before = std::iter::once(self.begin).chain(self.reached.iter().map(|(_, at)| *at));
        let reached = self.reached.iter().zip(before);
        reached.map(|((name, at), before)| {
            let own = at.saturating_duration_since(before);
            (name.as_str(), at.saturating_duration_since(self.begin), own)
        })
    }
}

/// Status where the command took longer than it may, as of `timeout(1)`.
const TIMED_OUT: u8 = 124;
/// Status of failures that are not the command's, as of `podman-run(1)`.
pub const OWN_FAILURE: u8 = 125;

/// What a conversation that ended so comes to.
pub(super) fn outcome(ending: Ending, last_words: &str, plan: &Plan, stages: Stages) -> Outcome {
    let with_last_words = |text: &str| match last_words.trim_end() {
        // It has been shown.
        _ if plan.guest.debug => text.to_owned(),
        "" => format!("{text}; try --debug to see how far it comes"),
        words => format!("{text}; the last it said was:\n{words}"),
    };
    let (code, message) = match ending {
        Ending::Exit(exit) => {
            let reason = match &exit {
                Exit::Status { .. } | Exit::Signal { .. } => None,
                Exit::NotRun { reason, .. } | Exit::Failed { reason } => Some(reason.clone()),
            };
            (exit.code(), reason)
        }
        Ending::Lost => (
            OWN_FAILURE,
            Some(with_last_words("the sandbox ended without telling how")),
        ),
        Ending::Escaped => (OWN_FAILURE, None),
        Ending::Interrupted(signal) => return interrupted(signal, stages),
        Ending::Silent => (
            OWN_FAILURE,
            Some(with_last_words(match plan.emulation {
                Some(Emulation::Kvm) => {
                    "the virtual machine did not report in time (--virt-type qemu needs no KVM, and --start-timeout gives it \
                     longer)"
                }
                None | Some(Emulation::Tcg) => {
                    "the sandbox did not report in time (--start-timeout gives it longer)"
                }
            })),
        ),
        Ending::TimedOut => (TIMED_OUT, Some("the command took too long".to_owned())),
    };
    Outcome {
        code,
        message,
        stages,
    }
}

/// What a signal comes to that came before the command.
pub(super) fn interrupted(signal: Signal, stages: Stages) -> Outcome {
    Outcome {
        code: 128_u8.saturating_add(signal as u8),
        message: None,
        stages,
    }
}
