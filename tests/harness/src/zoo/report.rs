//! What the zoo prints, and what it remembers of earlier runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::animal::Outcome;
use super::table::Row;

/// How a service did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Failed,
    /// It failed, and the table says why it has to.
    Known,
}

impl Verdict {
    fn of(row: &Row, outcome: &Outcome) -> Self {
        match (outcome.passed(), &row.hopeless) {
            (true, _) => Self::Ok,
            (false, None) => Self::Failed,
            (false, Some(_)) => Self::Known,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Known => "known",
        })
    }
}

/// The names of the columns of [`line`].
pub const HEADER: &str = "SERVICE            RESULT  CREATE s  ACTIVE s  TRIES  MEMORY MB  UNIT                               NOTE";

/// The cells of one row, as text.
fn cells(row: &Row, outcome: &Outcome) -> [String; 8] {
    let number = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let seconds =
        |time: Option<Duration>| number(time.map(|time| format!("{:.1}", time.as_secs_f64())));
    let memory = outcome.memory.map(|bytes| bytes as f64 / 1e6);
    let verdict = Verdict::of(row, outcome);
    let note = match (verdict, &row.hopeless) {
        (Verdict::Known, Some(reason)) => reason.clone(),
        (Verdict::Ok | Verdict::Failed | Verdict::Known, _) => outcome.trouble.join("; "),
    };
    [
        row.name.clone(),
        verdict.to_string(),
        seconds(outcome.created),
        seconds(outcome.active),
        number(outcome.tries.map(|tries| tries.to_string())),
        number(memory.map(|megabytes| format!("{megabytes:.0}"))),
        row.unit.clone(),
        note,
    ]
}

/// One row of the table.
pub fn line(row: &Row, outcome: &Outcome) -> String {
    let [name, result, created, active, tries, memory, unit, note] = cells(row, outcome);
    let line = format!(
        "{name:<18} {result:<6}  {created:>8}  {active:>8}  {tries:>5}  {memory:>9}  {unit:<33}  {note}"
    );
    line.trim_end().to_owned()
}

/// What is known of each service from the last run that it was in: a table of Markdown below a text that stays.
#[derive(Debug)]
pub struct Record {
    text: String,
    lines: BTreeMap<String, String>,
}

const COLUMNS: &str = "| service | result | create s | active s | tries | memory MB | unit | note |\n\
                       |---|---|--:|--:|--:|--:|---|---|\n";

impl Record {
    /// Reads what was written before.
    pub fn parse(text: &str) -> Self {
        let (text, table) = text.split_once(COLUMNS).unwrap_or((text, ""));
        let lines = table.lines().filter_map(|line| {
            let name = line.strip_prefix("| ")?.split(" |").next()?;
            Some((name.to_owned(), line.to_owned()))
        });
        Self {
            lines: lines.collect(),
            text: text.to_owned(),
        }
    }

    /// Puts a service's last result in the place of that of before.
    pub fn add(&mut self, row: &Row, outcome: &Outcome) {
        let cells = cells(row, outcome).map(|cell| cell.replace('|', "/"));
        let line = format!("| {} |", cells.join(" | "));
        self.lines.insert(row.name.clone(), line);
    }

    /// The text again, with services in the order of `rows`; those of no row are gone.
    pub fn write(&self, rows: &[Row]) -> String {
        let lines = rows.iter().filter_map(|row| self.lines.get(&row.name));
        let table: String = lines.map(|line| format!("{line}\n")).collect();
        format!("{}{COLUMNS}{table}", self.text)
    }
}

/// How many rows did what.
#[derive(Debug, Default)]
pub struct Sum {
    passed: usize,
    failed: usize,
    known: usize,
}

impl Sum {
    pub fn add(&mut self, row: &Row, outcome: &Outcome) {
        match Verdict::of(row, outcome) {
            Verdict::Ok => self.passed += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Known => self.known += 1,
        }
    }

    /// Something ran and all of it passed, but for what cannot.
    pub fn clean(&self) -> bool {
        self.failed == 0 && self.passed + self.known > 0
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zoo: {} passed, {} failed", self.passed, self.failed)?;
        match self.known {
            0 => Ok(()),
            known => write!(f, ", {known} known not to work"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::parse;
    use super::*;

    fn row(text: &str) -> Row {
        parse(text).unwrap().remove(0)
    }

    #[test]
    fn the_sum_is_one_plain_line() {
        let good = row("a\tp\ta.service\thost\ttrue\t-\t-\t-\n");
        let hopeless = row("b\tp\tb.service\thost\ttrue\t-\t-\t-\twants the moon\n");
        let mut sum = Sum::default();
        assert!(!sum.clean(), "nothing ran");
        sum.add(&good, &Outcome::default());
        sum.add(&hopeless, &Outcome::failed("no moon".into()));
        assert!(sum.clean());
        sum.add(&good, &Outcome::failed("no".into()));
        assert_eq!(
            sum.to_string(),
            "zoo: 1 passed, 1 failed, 1 known not to work"
        );
        assert!(!sum.clean());
    }

    #[test]
    fn a_record_has_the_last_result_of_each() {
        let rows = [
            row("b\tp\tb.service\thost\ttrue\t-\t-\t-\twants the moon\n"),
            row("a\tp\ta.service\thost\ttrue\t-\t-\t-\n"),
        ];
        let mut record = Record::parse("# Zoo\n\n");
        record.add(&rows[1], &Outcome::failed("x | y".into()));
        record.add(&rows[0], &Outcome::failed("no moon".into()));
        let mut again = Record::parse(&record.write(&rows));
        again.add(&rows[1], &Outcome::default());
        let text = again.write(&rows);
        let expected = "| b | known | - | - | - | - | b.service | wants the moon |\n\
                        | a | ok | - | - | - | - | a.service |  |\n";
        assert_eq!(text, format!("# Zoo\n\n{COLUMNS}{expected}"));
    }
}
