//! Readiness of units, from the output of `systemctl show` inside. Pure.
//!
//! "active" alone is not enough: a crashing daemon is active between two attempts, a unit with an unmet condition
//! stays inactive silently, and a wrapper is active while the instances behind it fail.

use std::collections::BTreeMap;

use crate::config::workload::COMMAND_UNIT;

/// Properties to query.
pub const PROPERTIES: &str = "Id,Names,LoadState,ActiveState,SubState,Result,ConditionResult,ConditionTimestampMonotonic,NRestarts,InvocationID,Type,\
                              RemainAfterExit,ExecMainCode,ExecMainStatus,ExecMainExitTimestampMonotonic,Requires,Wants,BindsTo,Job";

/// Unit as shown by systemd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState(BTreeMap<String, String>);

impl UnitState {
    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Returns the unit's name.
    #[must_use]
    pub fn id(&self) -> &str {
        self.get("Id")
    }

    /// Returns `ActiveState (SubState)`.
    #[must_use]
    pub fn state(&self) -> String {
        format!("{} ({})", self.get("ActiveState"), self.get("SubState"))
    }

    /// Returns the reason of a failure: systemd's result, and the status of its main process.
    #[must_use]
    pub fn result(&self) -> String {
        match (self.get("Result"), self.get("ExecMainStatus")) {
            (result, "" | "0") => result.to_owned(),
            (result, status) => format!("{result}, status {status}"),
        }
    }

    /// Returns a text that differs between two runs of the unit.
    fn run(&self) -> (&str, &str) {
        (self.get("InvocationID"), self.get("NRestarts"))
    }

    /// Returns the services that it pulls in itself.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        ["Requires", "Wants", "BindsTo"]
            .into_iter()
            .flat_map(|key| self.get(key).split_whitespace())
            .filter(|unit| unit.ends_with(".service") && !unit.starts_with("systemd-"))
    }

    /// Returns true if the unit itself has reported that it is active (systemd.service(5), `Type=`).
    fn has_told(&self) -> bool {
        !matches!(self.get("Type"), "simple" | "exec" | "idle") || self.has_done_its_work()
    }

    /// Returns true for a one-shot unit that has ended successfully.
    fn has_done_its_work(&self) -> bool {
        let has_ended = !matches!(self.get("ExecMainExitTimestampMonotonic"), "" | "0");
        let is_done = has_ended && self.get("Result") == "success";
        let ends = self.get("Type") == "oneshot" || self.id() == COMMAND_UNIT;
        self.get("ActiveState") == "inactive" && is_done && ends
    }

    fn judge(&self) -> Verdict {
        let restarts: u32 = self.get("NRestarts").parse().unwrap_or(0);
        match self.get("ActiveState") {
            "active" => Verdict::Ready,
            "failed" => Verdict::Failed,
            _ if matches!(
                self.get("LoadState"),
                "not-found" | "bad-setting" | "error" | "masked"
            ) =>
            {
                Verdict::Failed
            }
            // A queued job will change the state.
            "inactive" if !matches!(self.get("Job"), "" | "0") => Verdict::Waiting,
            "inactive" if self.get("ConditionResult") == "no" && has_condition_failed(self) => {
                Verdict::Skipped
            }
            "inactive" if self.has_done_its_work() => Verdict::Ready,
            "activating" if self.get("SubState") == "auto-restart" && restarts >= RESTARTS => {
                Verdict::Failed
            }
            _ => Verdict::Waiting,
        }
    }
}

/// Returns true if a condition was evaluated and not met: before that, the result is "no" without a time.
fn has_condition_failed(unit: &UnitState) -> bool {
    !matches!(unit.get("ConditionTimestampMonotonic"), "0")
}

/// Number of restarts after which a unit counts as failed.
const RESTARTS: u32 = 5;

/// Verdict about a unit; the gravest one counts for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ready,
    Waiting,
    Skipped,
    Failed,
}

/// Readiness of all units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// All units are active.
    Ready {
        /// Text that stays equal between two checks unless a unit was restarted.
        run: String,
        /// True if all units have reported readiness themselves. A `Type=simple` unit is active before it has done anything.
        told: bool,
    },
    /// Units that are not active yet.
    Waiting(Vec<UnitState>),
    /// Units that have failed.
    Failed(Vec<UnitState>),
}

/// Parses the output of `systemctl show`: blocks of `KEY=VALUE` separated by empty lines.
#[must_use]
pub fn parse(text: &str) -> Vec<UnitState> {
    text.split("\n\n")
        .map(|block| {
            let pairs = block.lines().filter_map(|line| line.split_once('='));
            UnitState(
                pairs
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            )
        })
        .filter(|unit| !unit.id().is_empty())
        .collect()
}

/// Judges the requested units and, behind them, those that they pull in: the latter need not be
/// active, but must neither have failed nor be activating.
#[must_use]
pub fn judge(asked: &[UnitState], behind: &[UnitState]) -> Readiness {
    let is_bad = |unit: &&UnitState| matches!(unit.judge(), Verdict::Failed | Verdict::Skipped);
    let failed: Vec<UnitState> =
        asked
            .iter()
            .filter(is_bad)
            .chain(behind.iter().filter(|unit| {
                unit.judge() == Verdict::Failed && unit.get("LoadState") == "loaded"
            }))
            .cloned()
            .collect();
    if !failed.is_empty() {
        return Readiness::Failed(failed);
    }
    let is_coming = |unit: &&UnitState| {
        unit.judge() == Verdict::Waiting
            && (unit.get("ActiveState") != "inactive" || !matches!(unit.get("Job"), "" | "0"))
    };
    let waiting: Vec<UnitState> = asked
        .iter()
        .filter(|unit| unit.judge() == Verdict::Waiting)
        .chain(behind.iter().filter(is_coming))
        .cloned()
        .collect();
    if waiting.is_empty() {
        let runs = asked
            .iter()
            .chain(behind)
            .map(|unit| format!("{:?}", unit.run()));
        return Readiness::Ready {
            run: runs.collect(),
            told: asked.iter().chain(behind).all(UnitState::has_told),
        };
    }
    Readiness::Waiting(waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> UnitState {
        parse(&format!(
            "Id=web.service\nLoadState=loaded\nJob=\nConditionResult=yes\n{}",
            text.replace(' ', "\n")
        ))
        .remove(0)
    }

    #[test]
    fn units_are_judged() {
        for (text, expected) in [
            ("ActiveState=active SubState=running", Verdict::Ready),
            ("ActiveState=activating SubState=start", Verdict::Waiting),
            (
                "ActiveState=activating SubState=auto-restart NRestarts=2",
                Verdict::Waiting,
            ),
            (
                "ActiveState=activating SubState=auto-restart NRestarts=5",
                Verdict::Failed,
            ),
            ("ActiveState=failed Result=exit-code", Verdict::Failed),
            ("ActiveState=inactive LoadState=not-found", Verdict::Failed),
            ("ActiveState=inactive ConditionResult=no", Verdict::Skipped),
            (
                "ActiveState=inactive ConditionResult=no Job=7",
                Verdict::Waiting,
            ),
            (
                "ActiveState=inactive Type=oneshot Result=success ExecMainExitTimestampMonotonic=9",
                Verdict::Ready,
            ),
            (
                "ActiveState=inactive Type=simple Result=success ExecMainExitTimestampMonotonic=9",
                Verdict::Waiting,
            ),
        ] {
            assert_eq!(unit(text).judge(), expected, "{text}");
        }
    }

    #[test]
    fn a_wrapper_is_ready_when_what_is_behind_it_is() {
        let wrapper = unit("ActiveState=active SubState=exited Wants=web@1.service");
        assert_eq!(wrapper.services().collect::<Vec<_>>(), ["web@1.service"]);
        let failed = unit("ActiveState=failed");
        let starting = unit("ActiveState=activating");
        let unused = unit("ActiveState=inactive ConditionResult=no");
        let asked = [wrapper];
        assert!(matches!(judge(&asked, &[failed]), Readiness::Failed(_)));
        assert!(matches!(judge(&asked, &[starting]), Readiness::Waiting(_)));
        assert!(matches!(judge(&asked, &[unused]), Readiness::Ready { .. }));
    }

    #[test]
    fn a_restart_shows() {
        let ready = |text| match judge(&[unit(text)], &[]) {
            Readiness::Ready { run, .. } => run,
            other @ (Readiness::Waiting(_) | Readiness::Failed(_)) => panic!("{other:?}"),
        };
        let before = ready("ActiveState=active NRestarts=0 InvocationID=a");
        assert_ne!(
            before,
            ready("ActiveState=active NRestarts=1 InvocationID=b")
        );
        assert_eq!(
            before,
            ready("ActiveState=active NRestarts=0 InvocationID=a")
        );
    }
}
