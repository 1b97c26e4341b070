//! `NAME.d` directories of systemd's tools: search path, masking and words of a line.
//!
//! The rules are those of tmpfiles.d(5) and sysusers.d(5), "CONFIGURATION DIRECTORIES AND PRECEDENCE".
//! Callers interpret the words.

use crate::sys::path::{below, normalize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Search path; a name in an earlier directory hides the same name in a later one.
const PREFIXES: &[&str] = &["/etc", "/run", "/usr/local/lib", "/usr/lib"];

/// Maximum number of links, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Error for a file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading '{path}'")]
pub struct ReadError {
    /// File, with the root's prefix.
    pub path: PathBuf,
    /// Error of the system call.
    pub source: io::Error,
}

/// Error for a line that violates the syntax of its manual page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parsing '{line}': {problem}")]
pub struct LineError {
    /// The line.
    pub line: String,
    /// Reason.
    pub problem: &'static str,
}

/// File with its parsed lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File<T> {
    /// Path as seen from the root.
    pub path: PathBuf,
    /// Lines in order, without empty ones and comments.
    pub lines: Vec<T>,
}

/// Loads and parses the effective files of `directory`. Invalid lines are logged and skipped.
pub(crate) fn load<T>(
    root: &Path,
    directory: &str,
    parse: fn(&str) -> Result<T, LineError>,
) -> Result<Vec<File<T>>, ReadError> {
    let files = read(root, directory)?.into_iter();
    Ok(files
        .map(|(path, content)| File {
            lines: parse_lines(&path, &content, parse),
            path,
        })
        .collect())
}

/// Reads the effective files of `directory` (such as "tmpfiles.d") in the order of their names: path as seen from the root, and
/// content. A link to /dev/null masks its name.
pub(crate) fn read(root: &Path, directory: &str) -> Result<Vec<(PathBuf, String)>, ReadError> {
    let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for prefix in PREFIXES {
        let seen = Path::new(prefix).join(directory);
        let there = below(root, &seen);
        let entries = match fs::read_dir(&there) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(ReadError {
                    path: there,
                    source,
                });
            }
        };
        for entry in entries {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(source) => {
                    return Err(ReadError {
                        path: there,
                        source,
                    });
                }
            };
            if Path::new(&name).extension().is_some_and(|e| e == "conf") {
                let path = seen.join(&name);
                by_name.entry(name).or_insert(path);
            }
        }
    }
    let mut files = Vec::new();
    for path in by_name.into_values() {
        if let Some(content) = read_file(root, &path)? {
            files.push((path, content));
        }
    }
    Ok(files)
}

/// Reads a file; returns `None` if it is masked or a dangling link.
fn read_file(root: &Path, path: &Path) -> Result<Option<String>, ReadError> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        if path == Path::new("/dev/null") {
            return Ok(None);
        }
        let there = below(root, &path);
        // An absolute target is relative to the root.
        match fs::read_link(&there) {
            Ok(target) => path = normalize(&path.parent().unwrap_or(Path::new("/")).join(target)),
            Err(_) => {
                return match fs::read(&there) {
                    Ok(content) => Ok(Some(String::from_utf8_lossy(&content).into_owned())),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ReadError {
                        path: there,
                        source,
                    }),
                };
            }
        }
    }
    Err(ReadError {
        path: below(root, &path),
        source: nix::errno::Errno::ELOOP.into(),
    })
}

/// Parses each line but comments and empty ones; logs and skips invalid lines, as systemd's tools do.
fn parse_lines<T>(
    file: &Path,
    content: &str,
    parse: impl Fn(&str) -> Result<T, LineError>,
) -> Vec<T> {
    let lines = content
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.filter_map(|line| match parse(line) {
        Ok(parsed) => Some(parsed),
        Err(e) => {
            log::warn!("skipping a line of '{}': {e}", file.display());
            None
        }
    });
    parsed.collect()
}

/// Splits off the first `count` words of a line; returns them with the verbatim rest. Words may be quoted and contain backslash escapes.
/// Returns `None` for an unclosed quote.
pub(crate) fn split(line: &str, count: usize) -> Option<(Vec<String>, &str)> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while words.len() < count && !rest.is_empty() {
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    Some((words, rest.trim_end()))
}

fn word(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            ('\\', _) => match chars.next()?.1 {
                'n' => word.push('\n'),
                't' => word.push('\t'),
                's' => word.push(' '),
                'x' => {
                    let digits: String = chars.by_ref().take(2).map(|(_, digit)| digit).collect();
                    word.push(u8::from_str_radix(&digits, 16).ok()?.into());
                }
                other => word.push(other),
            },
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => return Some((word, &text[at..])),
            (c, None) => word.push(c),
        }
    }
    quote.is_none().then_some((word, ""))
}

/// Returns the value of a field, or `None` for `-` and for an empty field.
pub(crate) fn non_empty(field: Option<&String>) -> Option<&str> {
    field
        .map(String::as_str)
        .filter(|field| !matches!(*field, "" | "-"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_earlier_directory_hides_and_dev_null_masks() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        file("usr/lib/x.d/a.conf", "usr a");
        file("usr/lib/x.d/b.conf", "usr b");
        file("usr/lib/x.d/c.conf", "usr c");
        file("usr/lib/x.d/README", "not a conf");
        file("run/x.d/c.conf", "run c");
        file("etc/x.d/a.conf", "etc a");
        file("etc/real", "linked");
        symlink("/dev/null", root.path().join("etc/x.d/b.conf")).unwrap();
        symlink("/etc/real", root.path().join("etc/x.d/d.conf")).unwrap();
        symlink("../real", root.path().join("etc/x.d/e.conf")).unwrap();
        symlink("/etc/none", root.path().join("etc/x.d/f.conf")).unwrap();
        let files: Vec<_> = read(root.path(), "x.d")
            .unwrap()
            .into_iter()
            .map(|(path, content)| format!("{} {content}", path.display()))
            .collect();
        let expected = [
            "/etc/x.d/a.conf etc a",
            "/run/x.d/c.conf run c",
            "/etc/x.d/d.conf linked",
            "/etc/x.d/e.conf linked",
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn a_link_in_a_circle_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/x.d")).unwrap();
        symlink("a.conf", root.path().join("etc/x.d/a.conf")).unwrap();
        assert!(read(root.path(), "x.d").is_err());
    }

    #[test]
    fn words_are_split_as_systemd_does() {
        type Words<'a> = (&'a [&'a str], &'a str);
        let cases: &[(&str, Option<Words>)] = &[
            ("a b  c d e", Some((&["a", "b", "c"], "d e"))),
            ("a", Some((&["a"], ""))),
            (r#"a "b c" 'd "e' f"#, Some((&["a", "b c", "d \"e"], "f"))),
            (r"a b\x20c\td e", Some((&["a", "b c\td", "e"], ""))),
            (r#"a "b"#, None),
            (r"a \", None),
        ];
        for (line, expected) in cases {
            let found = split(line, 3);
            let found = found
                .as_ref()
                .map(|(words, rest)| (words.iter().map(String::as_str).collect::<Vec<_>>(), *rest));
            assert_eq!(
                found,
                expected.map(|(words, rest)| (words.to_vec(), rest)),
                "{line}"
            );
        }
    }

    #[test]
    fn comments_and_wrong_lines_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("usr/lib/x.d");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("a.conf"), "# comment\n\n 1\nnonsense\n2\n").unwrap();
        let number = |line: &str| {
            line.parse::<u32>().map_err(|_| LineError {
                line: line.into(),
                problem: "not a number",
            })
        };
        let expected = File {
            path: "/usr/lib/x.d/a.conf".into(),
            lines: vec![1, 2],
        };
        assert_eq!(load(root.path(), "x.d", number).unwrap(), [expected]);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_an_entry_or_an_error(line in r#"[ufdmrLz]?[-+!~:]{0,2} ?([ -~é"'\\]){0,40}"#) {
            let _ = crate::facts::tmpfiles::parse_rule(&line);
            let _ = crate::facts::sysusers::parse_entry(&line);
        }
    }
}
