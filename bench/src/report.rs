//! Output of the results as a table.

use crate::measure::{Outcome, Side, Unit};

/// Prints the results in aligned columns, and below them the failed measurements with their reasons.
pub fn print(outcomes: &[Outcome]) {
    let head = [
        "what",
        "ours median (min)",
        "peer",
        "peer median (min)",
        "ratio",
        "wanted",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for outcome in outcomes {
        lines.push([
            outcome.what.clone(),
            figure(&outcome.ours, outcome.unit),
            outcome.peer.to_owned(),
            figure(&outcome.theirs, outcome.unit),
            outcome
                .ratio
                .map_or("-".into(), |ratio| format!("{ratio:.2}")),
            outcome.wanted.to_owned(),
        ]);
    }
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let cells = line.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
    let mut reasons: Vec<String> = outcomes.iter().flat_map(missing).collect();
    reasons.dedup();
    for reason in reasons {
        println!("not measured: {reason}");
    }
}

fn figure(side: &Side, unit: Unit) -> String {
    match side.median().zip(side.least()) {
        Some((median, least)) => format!("{median:.1} ({least:.1}) {}", unit.name()),
        None => "-".into(),
    }
}

fn missing(outcome: &Outcome) -> Vec<String> {
    [("ours", &outcome.ours), (outcome.peer, &outcome.theirs)]
        .into_iter()
        .filter_map(|(who, side)| match side {
            Side::Missing(reason) => Some(format!("{who}: {reason}")),
            Side::Figures(_) => None,
        })
        .collect()
}
