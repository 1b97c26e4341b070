//! One figure of ours against one of a peer's, taken in turns.

use anyhow::Result;
use serde::Serialize;

/// Takes one figure.
pub type Sample = Box<dyn FnMut() -> Result<f64>>;

/// What a figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Less is better.
    Milliseconds,
    /// More is better.
    MebibytesPerSecond,
    /// Less is better.
    Mebibytes,
}

impl Unit {
    /// As it is printed behind a figure.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Mebibytes => "MiB",
        }
    }
}

/// Two things to compare.
pub struct Row {
    /// What is measured.
    pub what: String,
    /// Whom ours is compared with.
    pub peer: &'static str,
    /// The ratio of ours to the peer's that is wanted, if there is one.
    pub wanted: &'static str,
    /// How often.
    pub repeats: usize,
    /// What the figures are of.
    pub unit: Unit,
    /// Ours, or why it cannot run.
    pub ours: Result<Sample>,
    /// The peer's, or why it cannot run.
    pub theirs: Result<Sample>,
}

/// The figures of one side of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// All of them, sorted.
    Figures(Vec<f64>),
    /// Why there are none.
    Missing(String),
}

impl Side {
    /// The one in the middle.
    pub fn median(&self) -> Option<f64> {
        let Self::Figures(figures) = self else {
            return None;
        };
        let middle = figures.len() / 2;
        let upper = *figures.get(middle)?;
        Some(if figures.len() % 2 == 1 {
            upper
        } else {
            f64::midpoint(figures[middle - 1], upper)
        })
    }

    /// The least.
    pub fn least(&self) -> Option<f64> {
        match self {
            Self::Figures(figures) => figures.first().copied(),
            Self::Missing(_) => None,
        }
    }
}

/// A row that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// As in the row.
    pub what: String,
    /// As in the row.
    pub peer: &'static str,
    /// As in the row.
    pub unit: Unit,
    /// Ours.
    pub ours: Side,
    /// The peer's.
    pub theirs: Side,
    /// Ours to the peer's, of the medians.
    pub ratio: Option<f64>,
    /// As in the row.
    pub wanted: &'static str,
}

/// Measures both sides in turns, so that what else the machine does hits both; the first figure of
/// each warms the caches and does not count.
pub fn measure(row: Row) -> Outcome {
    let mut sides = [row.ours, row.theirs].map(|sample| match sample {
        Ok(sample) => (Some(sample), Side::Figures(Vec::new())),
        Err(error) => (None, Side::Missing(format!("{error:#}"))),
    });
    for round in 0..=row.repeats {
        for (sample, side) in &mut sides {
            let Some(take) = sample else { continue };
            match (take(), &mut *side) {
                (Ok(figure), Side::Figures(figures)) if round > 0 => figures.push(figure),
                (Ok(_), _) => {}
                (Err(error), _) => {
                    *side = Side::Missing(format!("{error:#}"));
                    *sample = None;
                }
            }
        }
    }
    let [ours, theirs] = sides.map(|(_, mut side)| {
        if let Side::Figures(figures) = &mut side {
            figures.sort_by(f64::total_cmp);
        }
        side
    });
    let ratio = ours
        .median()
        .zip(theirs.median())
        .map(|(ours, theirs)| ours / theirs);
    Outcome {
        what: row.what,
        peer: row.peer,
        unit: row.unit,
        ours,
        theirs,
        ratio,
        wanted: row.wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(from: f64) -> Sample {
        let mut next = from;
        Box::new(move || {
            next += 1.0;
            Ok(next)
        })
    }

    fn row(ours: Result<Sample>) -> Outcome {
        measure(Row {
            what: "x".into(),
            peer: "y",
            wanted: "",
            repeats: 2,
            unit: Unit::Milliseconds,
            ours,
            theirs: Ok(counting(4.0)),
        })
    }

    #[test]
    fn the_first_figure_does_not_count() {
        let outcome = row(Ok(counting(0.0)));
        assert_eq!(outcome.ours, Side::Figures(vec![2.0, 3.0]));
        assert_eq!(outcome.ours.median(), Some(2.5));
        assert_eq!(outcome.ratio, Some(2.5 / 6.5));
    }

    #[test]
    fn what_cannot_run_says_why_and_the_other_is_measured() {
        let outcome = row(Err(anyhow::anyhow!("not there")));
        assert_eq!(outcome.ours, Side::Missing("not there".into()));
        assert_eq!(outcome.theirs.least(), Some(6.0));
        assert_eq!(outcome.ratio, None);
    }
}
