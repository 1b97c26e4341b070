//! Outcome of a run: the status for the caller, a message, and the time that each stage took.

use std::time::{Duration, Instant};

use guest_init::channel::wire::Exit;
use nix::sys::signal::Signal;

use crate::console::SessionEnd;
use crate::domain::qemu::Emulation;
use crate::run::Plan;

/// Outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status for the caller.
    pub code: u8,
    /// Message for the user.
    pub message: Option<String>,
    /// Time that each stage took.
    pub stages: Timeline,
}

/// Stages of a run, with the time that each took.
#[derive(Debug)]
pub struct Timeline {
    begin: Instant,
    reached: Vec<(String, Instant)>,
}

impl Timeline {
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

    /// Yields each stage with the time from the begin to its end, and its own part of that.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Duration, Duration)> {
        let before = std::iter::once(self.begin).chain(self.reached.iter().map(|(_, at)| *at));
        let reached = self.reached.iter().zip(before);
        reached.map(|((name, at), before)| {
            let own = at.saturating_duration_since(before);
            (name.as_str(), at.saturating_duration_since(self.begin), own)
        })
    }
}

/// Exit status of a command that took longer than it may, as of `timeout(1)`.
const TIMED_OUT: u8 = 124;
/// Exit status of failures that are not the command's, as of `podman-run(1)`.
pub const OWN_FAILURE: u8 = 125;

/// Returns the outcome of a session with this end.
pub(super) fn outcome(
    end: SessionEnd,
    guest_output: &str,
    plan: &Plan,
    stages: Timeline,
) -> Outcome {
    let with_output = |text: &str| match guest_output.trim_end() {
        // It has been shown.
        _ if plan.boot.guest.debug => text.to_owned(),
        "" => format!("{text}; try --debug to see how far it comes"),
        words => format!("{text}; the last it said was:\n{words}"),
    };
    let (code, message) = match end {
        SessionEnd::Exit(exit) => {
            let reason = match &exit {
                Exit::Status { .. } | Exit::Signal { .. } => None,
                Exit::NotRun { reason, .. } | Exit::Failed { reason } => Some(reason.clone()),
            };
            (exit.code(), reason)
        }
        SessionEnd::Lost => (
            OWN_FAILURE,
            Some(with_output("the sandbox ended without telling how")),
        ),
        SessionEnd::Escaped => (
            OWN_FAILURE,
            Some("the escape key was pressed, which ends the sandbox".to_owned()),
        ),
        SessionEnd::Interrupted(signal) => return interrupted(signal, stages),
        SessionEnd::Silent => (
            OWN_FAILURE,
            Some(with_output(match plan.emulation() {
                Some(Emulation::Kvm) => {
                    "the virtual machine did not report in time (--virt-type qemu needs no KVM, and --start-timeout gives it \
                     longer)"
                }
                None | Some(Emulation::Tcg) => {
                    "the sandbox did not report in time (--start-timeout gives it longer)"
                }
            })),
        ),
        SessionEnd::TimedOut => (TIMED_OUT, Some("the command took too long".to_owned())),
    };
    Outcome {
        code,
        message,
        stages,
    }
}

/// Returns the outcome of a signal before the command has started.
pub(super) fn interrupted(signal: Signal, stages: Timeline) -> Outcome {
    Outcome {
        code: 128_u8.saturating_add(signal as u8),
        message: None,
        stages,
    }
}
