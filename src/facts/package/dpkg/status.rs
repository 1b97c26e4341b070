//! What dpkg writes in `status` and `diversions`, as data.
//!
//! Owns parsing; it reads no file and resolves nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::facts::package::canonical;

/// A paragraph of the status file.
#[derive(Debug)]
pub(in crate::facts::package) struct Record {
    pub(in crate::facts::package) bare_name: String,
    pub(in crate::facts::package) version: String,
    pub(in crate::facts::package) architecture: String,
    pub(in crate::facts::package) source: String,
    pub(in crate::facts::package) base: bool,
    pub(in crate::facts::package) depends: Vec<Dependency>,
    pub(in crate::facts::package) provides: Vec<String>,
}

/// One wanted name, of alternatives as well; all alternatives of a package stand in one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::facts::package) struct Dependency {
    pub(in crate::facts::package) name: String,
    /// The architecture asked for; none for `:any` and where nothing is said.
    pub(in crate::facts::package) architecture: Option<String>,
}

/// A file that one package has moved out of the way of all others (dpkg-divert(1)).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::facts::package) struct Diversion {
    pub(in crate::facts::package) from: PathBuf,
    pub(in crate::facts::package) to: PathBuf,
    /// Who may keep the original name; `None` is the administrator, so nobody.
    pub(in crate::facts::package) by: Option<String>,
}

/// dpkg itself is always of the native architecture.
pub(in crate::facts::package) fn native_architecture(records: &[Record]) -> String {
    let dpkg = records.iter().find(|record| record.bare_name == "dpkg");
    let any = || records.iter().find(|record| record.architecture != "all");
    dpkg.or_else(any)
        .map(|record| record.architecture.clone())
        .unwrap_or_default()
}

/// The installed packages of a status file.
pub(in crate::facts::package) fn parse_status(status: &str) -> Vec<Record> {
    status.split("\n\n").filter_map(parse_paragraph).collect()
}

fn parse_paragraph(paragraph: &str) -> Option<Record> {
    let fields: BTreeMap<&str, &str> = paragraph
        .lines()
        // Continuation lines start with a blank. The fields read here are all of one line in a status file.
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(field, value)| (field, value.trim()))
        .collect();
    let field = |name| fields.get(name).copied().unwrap_or_default();
    // A package that waits for a trigger is installed and configured (dpkg(1), package states).
    let mut state = field("Status").split_whitespace();
    let is_installed = matches!(state.next(), Some("install" | "hold"))
        && state.next() == Some("ok")
        && matches!(
            state.next(),
            Some("installed" | "triggers-awaited" | "triggers-pending")
        );
    let name = field("Package");
    if !is_installed || name.is_empty() {
        return None;
    }
    Some(Record {
        bare_name: name.into(),
        version: field("Version").into(),
        architecture: field("Architecture").into(),
        // "Source: name (version)" where the versions differ; no field where the names are the same.
        source: field("Source")
            .split_whitespace()
            .next()
            .unwrap_or(name)
            .into(),
        base: field("Essential") == "yes" || matches!(field("Priority"), "required" | "important"),
        depends: ["Pre-Depends", "Depends"]
            .iter()
            .flat_map(|name| parse_relations(field(name)))
            .collect(),
        provides: parse_relations(field("Provides"))
            .into_iter()
            .map(|provided| provided.name)
            .collect(),
    })
}

/// The names in `a (>= 1) | b:any, c` (deb-control(5)).
pub(in crate::facts::package) fn parse_relations(relations: &str) -> Vec<Dependency> {
    relations
        .split([',', '|'])
        .filter_map(|relation| {
            let end = |c: char| c.is_whitespace() || matches!(c, '(' | '[' | '<');
            let relation = relation
                .trim()
                .split(end)
                .next()
                .filter(|name| !name.is_empty())?;
            let (name, architecture) = match relation.split_once(':') {
                Some((name, "any")) => (name, None),
                Some((name, architecture)) => (name, Some(architecture.into())),
                None => (relation, None),
            };
            Some(Dependency {
                name: name.into(),
                architecture,
            })
        })
        .collect()
}

/// The diversions file: three lines each, the file, where it goes, and who keeps the name (":" for nobody).
pub(in crate::facts::package) fn parse_diversions(content: &[u8]) -> Vec<Diversion> {
    let path = |line: &[u8]| canonical(Path::new(OsStr::from_bytes(line)));
    let lines: Vec<_> = content
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .chunks_exact(3)
        .map(|chunk| Diversion {
            from: path(chunk[0]),
            to: path(chunk[1]),
            by: (chunk[2] != b":").then(|| String::from_utf8_lossy(chunk[2]).into_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_names() {
        let found: Vec<_> = parse_relations("a (>= 1:2~), b:any | c:i386 (= 1) [amd64] <!x>,\td, ")
            .into_iter()
            .map(|d| (d.name, d.architecture))
            .collect();
        let name = |name: &str| (name.to_owned(), None);
        assert_eq!(
            found,
            [
                name("a"),
                name("b"),
                ("c".into(), Some("i386".into())),
                name("d")
            ]
        );
    }
}
