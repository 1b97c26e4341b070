//! Output of the zoo, and its record of earlier runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::animal::Outcome;
use super::table::Row;

/// Verdict on a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Failed,
    /// Failed for a reason that the table names.
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

/// Column names of [`line`].
pub const HEADER: &str = "SERVICE            RESULT  CREATE s  ACTIVE s  TRIES  MEMORY MB  UNIT                               NOTE";

/// Returns the cells of one row.
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

/// Returns one row of the table.
pub fn line(row: &Row, outcome: &Outcome) -> String {
    let [name, result, created, active, tries, memory, unit, note] = cells(row, outcome);
    let line = format!(
        "{name:<18} {result:<6}  {created:>8}  {active:>8}  {tries:>5}  {memory:>9}  {unit:<33}  {note}"
    );
    line.trim_end().to_owned()
}

/// Kind of sandbox that a table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First table of a file.
    Containers,
    /// Second table of a file.
    Machines,
}

/// Result of each service in the last run that included it: Markdown tables in a text, which is kept.
#[derive(Debug)]
pub struct Record {
    /// Text above the first table.
    text: String,
    tables: Vec<Table>,
}

/// A table, and the text that follows it.
#[derive(Debug)]
struct Table {
    lines: BTreeMap<String, String>,
    below: String,
}

const COLUMNS: &str = "| service | result | create s | active s | tries | memory MB | unit | note |\n\
                       |---|---|--:|--:|--:|--:|---|---|\n";

impl Record {
    /// Parses an earlier record.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(COLUMNS);
        let text = parts.next().unwrap_or_default().to_owned();
        Self {
            text,
            tables: parts.map(Table::parse).collect(),
        }
    }

    /// Replaces a service's result.
    ///
    /// # Errors
    /// The text has no such table.
    pub fn add(&mut self, kind: Kind, row: &Row, outcome: &Outcome) -> Result<()> {
        let table = self.tables.get_mut(kind as usize);
        let table = table.with_context(|| format!("no table of {kind:?} in it; add its head"))?;
        let cells = cells(row, outcome).map(|cell| cell.replace('|', "/"));
        let line = format!("| {} |", cells.join(" | "));
        table.lines.insert(row.name.clone(), line);
        Ok(())
    }

    /// Returns the text with services in the order of `rows`, without services that have no row.
    pub fn write(&self, rows: &[Row]) -> String {
        let mut text = self.text.clone();
        for table in &self.tables {
            text.push_str(COLUMNS);
            let lines = rows.iter().filter_map(|row| table.lines.get(&row.name));
            lines.for_each(|line| text.extend([line, "\n"]));
            text.push_str(&table.below);
        }
        text
    }
}

impl Table {
    /// Parses the lines of a table and the text that follows.
    fn parse(text: &str) -> Self {
        let end = |line: &&str| line.starts_with("| ");
        let lines: Vec<&str> = text.split_inclusive('\n').take_while(end).collect();
        let length = lines.iter().map(|line| line.len()).sum();
        let lines = lines.into_iter().filter_map(|line| {
            let name = line.strip_prefix("| ")?.split(" |").next()?;
            Some((name.to_owned(), line.trim_end().to_owned()))
        });
        Self {
            lines: lines.collect(),
            below: text[length..].to_owned(),
        }
    }
}

/// Number of rows with each verdict.
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

    /// Returns whether at least one row ran and all passed, except known failures.
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
    fn totals_are_one_line() {
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
    fn a_record_has_the_last_result_of_each_service() {
        let rows = [
            row("b\tp\tb.service\thost\ttrue\t-\t-\t-\twants the moon\n"),
            row("a\tp\ta.service\thost\ttrue\t-\t-\t-\n"),
        ];
        let (containers, machines) = (Kind::Containers, Kind::Machines);
        let empty = format!("# Zoo\n\n{COLUMNS}\n## Machines\n\n{COLUMNS}");
        let mut record = Record::parse(&empty);
        assert_eq!(record.write(&rows), empty);
        for (kind, row, why) in [
            (containers, &rows[1], "x | y"),
            (containers, &rows[0], "no moon"),
            (machines, &rows[1], "late"),
        ] {
            record.add(kind, row, &Outcome::failed(why.into())).unwrap();
        }
        let mut again = Record::parse(&record.write(&rows));
        again
            .add(containers, &rows[1], &Outcome::default())
            .unwrap();
        let text = again.write(&rows);
        let first = "| b | known | - | - | - | - | b.service | wants the moon |\n\
                     | a | ok | - | - | - | - | a.service |  |\n";
        let second = "| a | FAILED | - | - | - | - | a.service | late |\n";
        let expected = format!("# Zoo\n\n{COLUMNS}{first}\n## Machines\n\n{COLUMNS}{second}");
        assert_eq!(text, expected);
        let mut without = Record::parse("# Zoo\n");
        assert!(
            without
                .add(machines, &rows[1], &Outcome::default())
                .is_err()
        );
    }
}
