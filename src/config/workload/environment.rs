//! Files of environment variables, for `--env-file`.
//!
//! The grammar is what `EnvironmentFile=` of `systemd.exec(5)` and `--env-file` of podman have in common, and
//! quotes: a line is `NAME=VALUE`, empty, or begins with `#` or `;`. Blanks around name and value are
//! dropped. Single quotes keep everything literal; in double quotes a backslash escapes `"`, `\\`, `` ` ``
//! and `$`. Other values are literal. A value has one line.

use std::path::Path;

use crate::error::{Error, Result};

/// Parses a file of variables; `path` is for the message.
///
/// # Errors
/// Names the file, the line and what is wrong there, but shows nothing of the line.
pub fn parse(text: &str, path: &Path) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let variable = variable(line)
            .map_err(|reason| Error::config(path)(format!("line {}: {reason}", index + 1)))?;
        variables.push(variable);
    }
    Ok(variables)
}

fn variable(line: &str) -> std::result::Result<(String, String), &'static str> {
    let (name, value) = line.split_once('=').ok_or("it is not NAME=VALUE")?;
    let name = name.trim_end();
    if !is_name(name) {
        return Err("what is before '=' is not a name of a variable");
    }
    if value.contains(|c: char| c != '\t' && c.is_control()) {
        return Err("the value has a control character");
    }
    Ok((name.to_owned(), unquote(value.trim_start())?))
}

/// Returns whether a text can be the name of a variable in a unit (`systemd.exec(5)`, `Environment=`).
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn unquote(value: &str) -> std::result::Result<String, &'static str> {
    const OPEN: &str = "a quote is not closed, or something follows it";
    if let Some(rest) = value.strip_prefix('\'') {
        let inner = rest.strip_suffix('\'').ok_or(OPEN)?;
        return match inner.contains('\'') {
            true => Err(OPEN),
            false => Ok(inner.to_owned()),
        };
    }
    let Some(rest) = value.strip_prefix('"') else {
        return Ok(value.to_owned());
    };
    let mut characters = rest.chars();
    let mut text = String::new();
    while let Some(c) = characters.next() {
        match c {
            '"' if characters.as_str().is_empty() => return Ok(text),
            '"' => return Err(OPEN),
            '\\' => match characters.next() {
                Some(next) if QUOTED.contains(next) => text.push(next),
                Some(next) => text.extend(['\\', next]),
                None => return Err(OPEN),
            },
            c => text.push(c),
        }
    }
    Err(OPEN)
}

/// Characters that a backslash escapes in double quotes, here and in systemd (`SHELL_NEED_ESCAPE`).
const QUOTED: &str = "\"\\`$";

/// Writes variables in the form of systemd's `EnvironmentFile=`.
#[must_use]
pub fn to_file<'a>(variables: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            if QUOTED.contains(c) {
                text.push('\\');
            }
            text.push(c);
        }
        text.push_str("\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read() {
        let text = "# comment\n; another\n\nA=1\n  B = two words \nC='a \"$b\" # c'\nD=\"q\\\"\\\\\\$\\n\"\nE=\nF=a=b\nG=it's\n";
        let read = parse(text, Path::new("x")).unwrap();
        let read: Vec<(&str, &str)> = (read.iter())
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(
            read,
            [
                ("A", "1"),
                ("B", "two words"),
                ("C", "a \"$b\" # c"),
                ("D", "q\"\\$\\n"),
                ("E", ""),
                ("F", "a=b"),
                ("G", "it's"),
            ]
        );
    }

    #[test]
    fn an_error_names_the_line_and_shows_none_of_it() {
        for line in [
            "hunter2",
            "hunter2-x=1",
            "=hunter2",
            "1A=hunter2",
            "A='hunter2",
            "A=\"hunter2",
            "A=\"a\" hunter2\"",
            "A='a' hunter2'",
            "A=hunter2\u{7}",
        ] {
            let error = parse(&format!("B=1\n{line}\n"), Path::new("/x.env")).unwrap_err();
            let told = error.chain();
            assert!(told.contains("/x.env") && told.contains("line 2"), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(value in "[^\\p{C}]{0,40}") {
            let (name, value) = ("A".to_owned(), value);
            let text = to_file([(&name, &value)].into_iter());
            let read = parse(&text, Path::new("x")).unwrap();
            proptest::prop_assert_eq!(read, [(name, value)]);
        }
    }
}
