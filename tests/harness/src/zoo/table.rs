//! Parser of the zoo's tables.

use anyhow::{Result, bail};

/// Place where a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On the host, with the sandbox's address in `$IP`.
    Host,
    /// In the sandbox, through `execute`.
    Inside,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub packages: Vec<String>,
    pub unit: String,
    pub place: Where,
    /// Shell command that exits with 0 if the service answers.
    pub probe: String,
    /// Packages that must not be installed at the same time.
    pub conflicts: Vec<String>,
    /// Shell command that configures the service on the host.
    pub setup: Option<String>,
    /// Packages that the probe needs.
    pub clients: Vec<String>,
    /// Reason why the service cannot work, if known.
    pub hopeless: Option<String>,
}

impl Row {
    /// Returns all packages of the row.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        self.packages
            .iter()
            .chain(&self.clients)
            .map(String::as_str)
    }
}

/// Parses a table: tab-separated, `-` for an empty cell, `#` for a comment, column names first. A ninth column says why a
/// service cannot work.
pub fn parse(text: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') || line.starts_with("name\t") {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let [
            name,
            packages,
            unit,
            place,
            probe,
            conflicts,
            setup,
            clients,
            ref rest @ ..,
        ] = columns[..]
        else {
            bail!(
                "line {} of the zoo has {} columns, not 8 or 9",
                number + 1,
                columns.len()
            );
        };
        if rest.len() > 1 {
            bail!("line {} of the zoo has more than 9 columns", number + 1);
        }
        let place = match place {
            "host" => Where::Host,
            "inside" => Where::Inside,
            other => bail!(
                "line {} of the zoo: a probe runs on 'host' or 'inside', not '{other}'",
                number + 1
            ),
        };
        rows.push(Row {
            name: name.into(),
            packages: words(packages),
            unit: unit.into(),
            place,
            probe: probe.into(),
            conflicts: words(conflicts),
            setup: (setup != "-").then(|| setup.into()),
            clients: words(clients),
            hopeless: rest.first().map(|reason| (*reason).to_owned()),
        });
    }
    Ok(rows)
}

fn words(column: &str) -> Vec<String> {
    column
        .split_whitespace()
        .filter(|word| *word != "-")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_eight_columns() {
        let rows =
            parse("# zoo\nname\tx\na\tp q\ta.service\tinside\ttrue | true\t-\t-\tc\n").unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].needs().collect::<Vec<_>>(), ["p", "q", "c"]);
        assert_eq!(
            (rows[0].place, rows[0].setup.as_deref()),
            (Where::Inside, None)
        );
        let known = parse("a\tp\ta.service\thost\ttrue\t-\t-\t-\tno kernel for it\n").unwrap();
        assert_eq!(known[0].hopeless.as_deref(), Some("no kernel for it"));
        for wrong in [
            "a\tb\n",
            "a\tp\tu\thost\tx\t-\t-\t-\ty\tz\n",
            "a\tp\tu\tnowhere\tx\t-\t-\t-\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tables_parse() {
        let mut rows = parse(include_str!("../../../zoo/zoo.tsv")).unwrap();
        rows.extend(parse(include_str!("../../../zoo/more.tsv")).unwrap());
        assert!(rows.len() > 100);
        let mut names: Vec<_> = rows.iter().map(|row| &row.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows.len());
    }
}
