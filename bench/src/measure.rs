//! Measurements of our program and of a peer, taken alternately.

use anyhow::Result;
use serde::Serialize;

/// Takes one figure.
pub type Sample = Box<dyn FnMut() -> Result<f64>>;

/// Unit of a figure.
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
    /// Returns the unit as printed after a figure.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Mebibytes => "MiB",
        }
    }
}

/// A comparison of our program with a peer.
pub struct Row {
    /// Name of the measurement.
    pub what: String,
    /// Name of the peer.
    pub peer: &'static str,
    /// Target for the ratio of our figure to the peer's; may be empty.
    pub wanted: &'static str,
    /// Number of figures of each side.
    pub repeats: usize,
    /// Unit of the figures.
    pub unit: Unit,
    /// Our sample, or the reason why it cannot run.
    pub ours: Result<Sample>,
    /// The peer's sample, or the reason why it cannot run.
    pub theirs: Result<Sample>,
}

/// The figures of one side of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// All figures, sorted.
    Figures(Vec<f64>),
    /// Reason why there are none.
    Missing(String),
}

impl Side {
    /// Returns the median.
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

    /// Returns the smallest figure.
    pub fn least(&self) -> Option<f64> {
        match self {
            Self::Figures(figures) => figures.first().copied(),
            Self::Missing(_) => None,
        }
    }
}

/// A measured row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    pub what: String,
    pub peer: &'static str,
    pub unit: Unit,
    /// Our figures.
    pub ours: Side,
    /// The peer's figures.
    pub theirs: Side,
    /// Ratio of our median to the peer's.
    pub ratio: Option<f64>,
    pub wanted: &'static str,
}

/// Measures both sides alternately, so that other load affects both. The first figure of
/// each warms the caches and is dropped.
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
    fn the_first_figure_is_dropped() {
        let outcome = row(Ok(counting(0.0)));
        assert_eq!(outcome.ours, Side::Figures(vec![2.0, 3.0]));
        assert_eq!(outcome.ours.median(), Some(2.5));
        assert_eq!(outcome.ratio, Some(2.5 / 6.5));
    }

    #[test]
    fn a_side_that_cannot_run_has_a_reason_and_the_other_is_measured() {
        let outcome = row(Err(anyhow::anyhow!("not there")));
        assert_eq!(outcome.ours, Side::Missing("not there".into()));
        assert_eq!(outcome.theirs.least(), Some(6.0));
        assert_eq!(outcome.ratio, None);
    }
}
