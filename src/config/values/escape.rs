//! Escapes in the written forms of paths: fields are separated by `:`, `,` and `=`; a backslash makes the
//! next character a literal one.

use std::path::{Path, PathBuf};

const SPECIAL: [char; 4] = ['\\', ':', ',', '='];

/// Returns whether XML, and so libvirt, cannot carry the character. Control characters also break unit files
/// and terminals.
pub(crate) fn is_unwritable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Escapes the separators in a path with backslashes.
pub(in crate::config) fn escape(path: &Path) -> String {
    path.display()
        .to_string()
        .chars()
        .flat_map(|c| SPECIAL.contains(&c).then_some('\\').into_iter().chain([c]))
        .collect()
}

/// Undoes [`escape`]. A trailing backslash stands for itself.
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

/// Splits at separators that are not escaped. The fields stay escaped; there is at least one.
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

/// Splits at the first separator that is not escaped. Both parts stay escaped.
pub(in crate::config) fn split_once(text: &str, separator: char) -> Option<(String, String)> {
    let mut fields = split(text, separator).into_iter();
    let first = fields.next()?;
    let rest: Vec<String> = fields.collect();
    (!rest.is_empty()).then(|| (first, rest.join(&separator.to_string())))
}

/// Makes `path` absolute relative to `cwd`. A `..` stays, because the component before it may be a symlink.
pub(in crate::config) fn absolute(path: &Path, cwd: &Path) -> PathBuf {
    if path.is_absolute() {
        path.to_owned()
    } else {
        cwd.join(path).components().collect()
    }
}
