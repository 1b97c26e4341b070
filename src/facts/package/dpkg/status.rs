//! Parsers of dpkg's `status` and `diversions` files.
//!
//! Pure: they read no file and resolve nothing.

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

/// One name in a dependency; all alternatives are in one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::facts::package) struct Dependency {
    pub(in crate::facts::package) name: String,
    /// Required architecture; `None` for `:any` and if unspecified.
    pub(in crate::facts::package) architecture: Option<String>,
}

/// File that one package has diverted from all others (dpkg-divert(1)).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::facts::package) struct Diversion {
    pub(in crate::facts::package) from: PathBuf,
    pub(in crate::facts::package) to: PathBuf,
    /// Package that keeps the original name; `None` for a local diversion, where no package does.
    pub(in crate::facts::package) by: Option<String>,
}

/// Returns the native architecture, which is that of dpkg itself.
pub(in crate::facts::package) fn native_architecture(records: &[Record]) -> String {
    let dpkg = records.iter().find(|record| record.bare_name == "dpkg");
    let any = || records.iter().find(|record| record.architecture != "all");
    dpkg.or_else(any)
        .map(|record| record.architecture.clone())
        .unwrap_or_default()
}

/// Parses the installed packages of a status file.
pub(in crate::facts::package) fn parse_status(status: &str) -> Vec<Record> {
    status.split("\n\n").filter_map(parse_paragraph).collect()
}

fn parse_paragraph(paragraph: &str) -> Option<Record> {
    let fields: BTreeMap<&str, &str> = paragraph
        .lines()
        // Continuation lines start with a blank. All fields read here have one line in a status file.
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(field, value)| (field, value.trim()))
        .collect();
    let field = |name| fields.get(name).copied().unwrap_or_default();
    // A package that awaits a trigger is installed and configured (dpkg(1), package states).
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
        // "Source: name (version)" if the versions differ; no field if the names are equal.
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

/// Parses the names in a relation such as `a (>= 1) | b:any, c` (deb-control(5)).
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

/// Parses the diversions file: three lines for each, with the file, its new place, and the package that keeps the name
/// (":" for none).
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
