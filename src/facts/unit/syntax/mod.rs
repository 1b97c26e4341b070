//! The text of a unit file: sections, assignments, comments and continued lines.
//!
//! The rules are those of systemd.syntax(7). Bad lines are skipped and reported, as systemd does.
//! The meaning of keys is in [`super::facts`]; specifiers and words have modules of their own.

pub mod specifier;
pub mod words;

use std::fmt;
use std::path::{Path, PathBuf};

/// A line of a unit file that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file, as seen from the root.
    pub path: PathBuf,
    /// Line number, from 1; for a continued line, its last line.
    pub line: usize,
    /// Reason why the line was skipped.
    pub problem: Problem,
}

/// Fault of a line in a unit file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes are not UTF-8.
    #[error("line is not UTF-8")]
    NotUtf8,
    /// `[Section` without its end.
    #[error("invalid section header '{0}'")]
    SectionHeader(String),
    /// A setting before the first section.
    #[error("assignment outside of a section")]
    OutsideSection,
    /// No `=` in the line.
    #[error("missing '='")]
    MissingEquals,
    /// Nothing before the `=`.
    #[error("missing key before '='")]
    MissingKey,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.problem)
    }
}

/// One `key=value` under its section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The section without brackets.
    pub section: String,
    /// The key.
    pub key: String,
    /// Value, with continued lines joined by a space and outer blanks removed, otherwise verbatim.
    pub value: String,
}

/// Settings of a unit in order of appearance; a key may occur more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Iterates over all settings in order.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// Returns the value of a single-valued key: the last assignment counts, and an empty one unsets the key.
    pub fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.all(section, key)
            .pop()
            .filter(|value| !value.is_empty())
    }

    /// Returns the values of a list key: an empty assignment drops the earlier ones.
    pub fn list(&self, section: &str, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for value in self.all(section, key) {
            if value.is_empty() {
                values.clear();
            } else {
                values.push(value);
            }
        }
        values
    }

    /// Returns the value of a boolean key, or `None` if it is unset or not a boolean of systemd.syntax(7).
    pub fn flag(&self, section: &str, key: &str) -> Option<bool> {
        parse_bool(self.last(section, key)?)
    }

    /// Returns every value of a key as written, empty ones included.
    pub fn all(&self, section: &str, key: &str) -> Vec<&str> {
        let same = |setting: &&Setting| setting.section == section && setting.key == key;
        self.0
            .iter()
            .filter(same)
            .map(|setting| setting.value.as_str())
            .collect()
    }

    /// Appends the settings of a later file.
    pub fn append(&mut self, later: Self) {
        self.0.extend(later.0);
    }
}

/// Parses a boolean as defined by systemd.syntax(7).
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Parses the text of a unit file; `path` is only used in warnings.
pub fn parse(path: &Path, text: &[u8]) -> (Settings, Vec<Warning>) {
    let mut parser = Parser {
        path,
        section: None,
        settings: Vec::new(),
        warnings: Vec::new(),
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut continued: Option<String> = None;
    let mut line = 0;
    for bytes in text.split(|byte| matches!(byte, b'\n' | b'\0')) {
        line += 1;
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let Ok(part) = std::str::from_utf8(bytes) else {
            parser.warn(line, Problem::NotUtf8);
            continue;
        };
        let part = part.trim_start_matches(BLANKS);
        // systemd drops a comment between the parts of a continued line; the line goes on after it.
        if part.starts_with(['#', ';']) {
            continue;
        }
        let mut whole = continued.take().unwrap_or_default();
        whole.push_str(part);
        if ends_escaped(&whole) {
            whole.pop();
            whole.push(' ');
            continued = Some(whole);
        } else {
            parser.line(line, &whole);
        }
    }
    if let Some(whole) = continued {
        parser.line(line, &whole);
    }
    (Settings(parser.settings), parser.warnings)
}

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// Returns true if the line ends in an unescaped backslash, so that it continues.
fn ends_escaped(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Section that the parser is in.
enum Section {
    Named(String),
    /// Section with a broken header: its settings are dropped.
    Broken,
}

struct Parser<'a> {
    path: &'a Path,
    section: Option<Section>,
    settings: Vec<Setting>,
    warnings: Vec<Warning>,
}

impl Parser<'_> {
    fn warn(&mut self, line: usize, problem: Problem) {
        self.warnings.push(Warning {
            path: self.path.to_owned(),
            line,
            problem,
        });
    }

    fn line(&mut self, line: usize, text: &str) {
        let text = text.trim_matches(BLANKS);
        if text.is_empty() {
            return;
        }
        if let Some(header) = text.strip_prefix('[') {
            self.section = Some(if let Some(name) = header.strip_suffix(']') {
                Section::Named(name.to_owned())
            } else {
                self.warn(line, Problem::SectionHeader(text.to_owned()));
                Section::Broken
            });
            return;
        }
        let section = match &self.section {
            Some(Section::Named(name)) => name.clone(),
            Some(Section::Broken) => return,
            None => return self.warn(line, Problem::OutsideSection),
        };
        match text.split_once('=') {
            None => self.warn(line, Problem::MissingEquals),
            Some((key, value)) => {
                let (key, value) = (key.trim_matches(BLANKS), value.trim_matches(BLANKS));
                if key.is_empty() {
                    self.warn(line, Problem::MissingKey);
                } else {
                    self.settings.push(Setting {
                        section,
                        key: key.to_owned(),
                        value: value.to_owned(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<(usize, Problem)>) {
        let (settings, warnings) = parse(Path::new("/x"), text.as_bytes());
        let settings = settings
            .iter()
            .map(|s| format!("{}.{}={}", s.section, s.key, s.value))
            .collect();
        (
            settings,
            warnings.into_iter().map(|w| (w.line, w.problem)).collect(),
        )
    }

    #[test]
    fn lines_are_read_as_systemd_does() {
        let cases: [(&str, &[&str]); 8] = [
            ("[A]\nk=v\n k2 = v 2 \n", &["A.k=v", "A.k2=v 2"]),
            (
                "[A]\nk=a \\\n# no\n; no\n  b\\\n c\nl=1",
                &["A.k=a  b c", "A.l=1"],
            ),
            ("[A]\nk=a\\\\\nl=1", &["A.k=a\\\\", "A.l=1"]),
            ("[A]\nk=a\\\n\nl=1", &["A.k=a", "A.l=1"]),
            ("[A]\nk=a=b # c\r\nl=\r\n", &["A.k=a=b # c", "A.l="]),
            (
                "\u{feff}[A]\nk=1\n[B]\nk=2\n[A]\nk=3",
                &["A.k=1", "B.k=2", "A.k=3"],
            ),
            ("[A]\nk=end\\", &["A.k=end"]),
            ("[Å]\nk=ü", &["Å.k=ü"]),
        ];
        for (text, expected) in cases {
            assert_eq!(
                read(text),
                (expected.iter().map(|s| (*s).to_owned()).collect(), vec![]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn bad_lines_are_skipped_with_a_warning() {
        let (settings, warnings) = read("a=1\n[A]\nnothing\n=x\n[B\nlost=1\n[C]\nk=v\n");
        assert_eq!(settings, ["C.k=v"]);
        assert_eq!(
            warnings,
            [
                (1, Problem::OutsideSection),
                (3, Problem::MissingEquals),
                (4, Problem::MissingKey),
                (5, Problem::SectionHeader("[B".into()))
            ]
        );
        let (settings, warnings) = parse(Path::new("/x"), b"[A]\nk=\xff\nl=1\n");
        assert_eq!(settings.last("A", "l"), Some("1"));
        assert_eq!(warnings[0].to_string(), "/x:2: line is not UTF-8");
    }

    #[test]
    fn an_empty_assignment_resets() {
        let (settings, _) = parse(
            Path::new("/x"),
            b"[A]\nk=1\nk=2\nk=\nk=3\nk=4\nl=1\nl=\nb=yes\nc=maybe",
        );
        assert_eq!(settings.list("A", "k"), ["3", "4"]);
        assert_eq!(settings.last("A", "k"), Some("4"));
        assert_eq!(settings.last("A", "l"), None);
        assert_eq!(
            (settings.flag("A", "b"), settings.flag("A", "c")),
            (Some(true), None)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(Path::new("/x"), &bytes);
        }

        #[test]
        fn any_unit_like_text_is_read(text in "([\\[\\]=#;\\\\ \"'a-z%\n-]|\\\\\n){0,200}") {
            parse(Path::new("/x"), text.as_bytes());
        }
    }
}
