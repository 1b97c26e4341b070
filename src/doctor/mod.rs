//! Examination of the host: what it can run, what it cannot, and how to mend it.
//!
//! Each check reads one fact and judges it. None changes anything, and none stops the others: a fact that cannot be read is a
//! problem with its reason.

mod containers;
mod host;
mod libvirt;
mod machines;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::host::OsRelease;
use crate::service::Sandboxes;

/// Judgement of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Works.
    Ok,
    /// Sandboxes run, with less than they could have.
    Limited,
    /// Sandboxes of that kind do not run.
    Missing,
}

impl Level {
    /// Returns the word for users.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// Kind of sandboxes that a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Containers and virtual machines.
    Host,
    /// Containers.
    Containers,
    /// Virtual machines.
    Machines,
}

impl Subject {
    /// Returns the word for users.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Containers => "containers",
            Self::Machines => "machines",
        }
    }
}

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Kind of sandboxes that it is about.
    pub subject: Subject,
    /// Name.
    pub name: &'static str,
    /// Judgement.
    pub level: Level,
    /// State that was found.
    pub state: String,
    /// Step that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// State of one fact, before it is told which check it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    level: Level,
    state: String,
    advice: Option<String>,
}

impl Fact {
    fn ok(state: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            state: state.into(),
            advice: None,
        }
    }

    fn limited(state: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Limited,
            state: state.into(),
            advice: Some(advice.into()),
        }
    }

    fn missing(state: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Missing,
            ..Self::limited(state, advice)
        }
    }

    /// Returns a fact that could not be read, with the judgement that this means.
    fn unknown(level: Level, error: &Error) -> Self {
        Self {
            level,
            state: error.chain(),
            advice: None,
        }
    }

    fn check(self, subject: Subject, name: &'static str) -> Check {
        Check {
            subject,
            name,
            level: self.level,
            state: self.state,
            advice: self.advice,
        }
    }
}

/// Report about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Distribution and release.
    pub distribution: OsRelease,
    /// Release of the running kernel.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// Results of all checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Adds the outcome of a command that ran in a sandbox of this kind, or the reason why it did not.
    pub fn add_trial(&mut self, subject: Subject, outcome: std::result::Result<(), String>) {
        let fact = match outcome {
            Ok(()) => Fact::ok("a command ran"),
            Err(reason) => Fact {
                level: Level::Missing,
                state: reason,
                advice: None,
            },
        };
        self.checks.push(fact.check(subject, "trial"));
    }

    /// Returns whether sandboxes of this kind can run.
    #[must_use]
    pub fn can_run(&self, subject: Subject) -> bool {
        !self.checks.iter().any(|check| {
            [Subject::Host, subject].contains(&check.subject) && check.level == Level::Missing
        })
    }
}

/// Examines this host, for the sandboxes that it has or shall have.
///
/// # Errors
/// The kernel does not tell its release.
pub fn examine(sandboxes: &Sandboxes) -> Result<Report> {
    let root = sandboxes.root.as_path();
    let names = nix::sys::utsname::uname().map_err(Error::step("asking for the kernel"))?;
    let mut checks = host::checks(root, sandboxes);
    checks.extend(containers::checks(root, sandboxes));
    checks.extend(machines::checks(root, sandboxes));
    Ok(Report {
        distribution: OsRelease::read(root),
        kernel: names.release().to_string_lossy().into_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        checks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(facts: &[(Subject, Fact)]) -> Report {
        let checks = facts.iter().cloned();
        Report {
            distribution: OsRelease::default(),
            kernel: "6.1".to_owned(),
            arch: "x86_64".to_owned(),
            checks: checks
                .map(|(subject, fact)| fact.check(subject, "fact"))
                .collect(),
        }
    }

    #[test]
    fn a_kind_runs_unless_something_that_it_needs_is_missing() {
        let missing = || Fact::missing("none", "install it");
        let report_of_machines = report(&[
            (Subject::Host, Fact::limited("some", "more")),
            (Subject::Machines, missing()),
        ]);
        assert!(report_of_machines.can_run(Subject::Containers));
        assert!(!report_of_machines.can_run(Subject::Machines));
        let report_of_host = report(&[(Subject::Host, missing())]);
        assert!(!report_of_host.can_run(Subject::Containers));
        assert!(!report_of_host.can_run(Subject::Machines));
    }
}
