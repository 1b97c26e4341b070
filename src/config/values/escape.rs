//! What the written forms of paths share: fields between `:`, `,` and `=`, and a backslash that makes the character
//! after it an ordinary one.

use std::path::{Path, PathBuf};

const SPECIAL: [char; 4] = ['\\', ':', ',', '='];

/// Whether XML, and so libvirt, cannot carry the character; control characters also break unit files and terminals.
pub(crate) fn is_unwritable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// The path with a backslash before each separator.
pub(in crate::config) fn escape(path: &Path) -> String {
    path.display()
        .to_string()
        .chars()
        .flat_map(|c| SPECIAL.contains(&c).then_some('\\').into_iter().chain([c]))
        .collect()
}

/// Undoes [`escape`]. A backslash at the end is itself.
pub(in crate::config) fn unescape(text: &str) -> String {
    let mut characters = text.chars();
    let mut result = String::new();
    while let Some(c) = characters.next() {
        result.push(if c == '\\' {
            characters.next().unwrap_or(c)
        } else {
            c
        });
    }
    result
}

/// The fields between separators that have no backslash before them, still escaped. Never empty.
pub(in crate::config) fn split(text: &str, separator: char) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == separator && !escaped {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            field.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    fields
}

/// What is before and after the first separator without a backslash before it, still escaped.
pub(in crate::config) fn split_once(text: &str, separator: char) -> Option<(String, String)> {
    let mut fields = split(text, separator).into_iter();
    let first = fields.next()?;
    let rest: Vec<String> = fields.collect();
    (!rest.is_empty()).then(|| (first, rest.join(&separator.to_string())))
}

/// `path` as seen from `cwd`. An absolute one stays as it is; `..` stays, since a link may be before it.
pub(in crate::config) fn absolute(path: &Path, cwd: &Path) -> PathBuf {
    if path.is_absolute() {
        path.to_owned()
    } else {
        cwd.join(path).components().collect()
    }
}
