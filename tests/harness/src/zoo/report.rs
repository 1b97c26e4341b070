//! What the zoo prints.

use std::fmt;

use super::animal::Outcome;
use super::table::Row;

/// The names of the columns of [`line`].
pub const HEADER: &str =
    "SERVICE          RESULT  ACTIVE s  TRIES  MEMORY MB  UNIT                               NOTE";

/// One row of the table.
pub fn line(row: &Row, outcome: &Outcome) -> String {
    let number = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let line = format!(
        "{:<16} {:<6}  {:>8}  {:>5}  {:>9}  {:<33}  {}",
        row.name,
        if outcome.passed() { "ok" } else { "FAILED" },
        number(
            outcome
                .active
                .map(|time| format!("{:.1}", time.as_secs_f64()))
        ),
        number(outcome.tries.map(|tries| tries.to_string())),
        number(
            outcome
                .memory
                .map(|bytes| format!("{:.0}", bytes as f64 / 1e6))
        ),
        row.unit,
        outcome.trouble.join("; "),
    );
    line.trim_end().to_owned()
}

/// How many rows did what.
#[derive(Debug, Default)]
pub struct Sum {
    passed: usize,
    failed: usize,
}

impl Sum {
    pub fn add(&mut self, outcome: &Outcome) {
        if outcome.passed() {
            self.passed += 1
        } else {
            self.failed += 1
        }
    }

    /// Something ran and all of it passed.
    pub fn clean(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zoo: {} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_one_plain_line() {
        let mut sum = Sum::default();
        assert!(!sum.clean(), "nothing ran");
        sum.add(&Outcome::default());
        assert!(sum.clean());
        sum.add(&Outcome::failed("no".into()));
        assert_eq!(sum.to_string(), "zoo: 1 passed, 1 failed");
        assert!(!sum.clean());
    }
}
