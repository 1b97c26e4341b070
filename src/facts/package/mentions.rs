//! Scanner for paths in scripts and configuration files.
//!
//! The scanner knows where a path starts and ends in shell, unit files and configuration languages. It does not
//! expand variables or check whether a path exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::canonical;

/// Top-level directories with files of services.
const TOPS: &[&str] = &["/etc", "/var", "/srv", "/home", "/opt", "/run"];

/// Treatment of lines that start with `#`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comments {
    /// Read comments: in configuration files they often show the defaults.
    Read,
    /// Skip comments, as the shell does.
    Skip,
}

/// Returns the absolute paths below /etc, /var, /srv, /home, /opt and /run in a text, normalised.
///
/// A path ends at a blank, a quote or punctuation of the language. If an expansion follows (`$x`, `%i`,
/// `*`, `{a,b}`), the incomplete last component is dropped: `/etc/a/$b` yields `/etc/a`. The prefix
/// `$DPKG_ROOT`, which is empty on a running system (dpkg(1)), is ignored; after any other variable or
/// host name a path is not absolute and is skipped.
pub fn mentioned_paths(text: &str, comments: Comments) -> BTreeSet<PathBuf> {
    text.lines()
        .filter(|line| comments == Comments::Read || !line.trim_start().starts_with('#'))
        .flat_map(paths_of_line)
        .collect()
}

fn paths_of_line(line: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut rest = 0;
    while let Some(at) = line[rest..].find('/').map(|found| rest + found) {
        let (written, end) = path_at(line, at);
        if starts_path(&line[..at], &line[at..]) {
            paths.extend(written.below_tops());
        }
        // Skip all of a word such as "a/etc/b".
        rest = end.max(at + 1);
    }
    paths
}

/// Path as written in the text.
struct Written {
    text: String,
    /// True if an expansion follows without a slash, so that the last component is incomplete.
    is_cut: bool,
}

/// Reads the path at `start`; returns it with the offset of its end.
fn path_at(line: &str, start: usize) -> (Written, usize) {
    let mut text = String::new();
    let mut chars = line[start..].char_indices().peekable();
    // If slashes are escaped, a bare one is a delimiter: `s/\/etc\/a/x/`.
    let escapes = line[..start].ends_with('\\');
    let is_escape = |next: char| matches!(next, '.' | '-') || (next == '/' && escapes);
    while let Some((offset, c)) = chars.next() {
        match c {
            // `\.` and `\/` of regular expressions, `\-` of manual pages.
            '\\' => match chars.next_if(|(_, next)| is_escape(*next)) {
                Some((_, next)) => text.push(next),
                None => return (Written { text, is_cut: true }, start + offset),
            },
            '$' | '%' | '*' | '?' | '[' | '{' => {
                return (Written { text, is_cut: true }, start + offset);
            }
            '/' if escapes && offset > 0 => {
                return (
                    Written {
                        text,
                        is_cut: false,
                    },
                    start + offset,
                );
            }
            '/' | '.' | '-' | '_' | '+' | '~' | '@' => text.push(c),
            c if c.is_alphanumeric() => text.push(c),
            // Anything else belongs to the surrounding language.
            _ => {
                return (
                    Written {
                        text,
                        is_cut: false,
                    },
                    start + offset,
                );
            }
        }
    }
    (
        Written {
            text,
            is_cut: false,
        },
        line.len(),
    )
}

impl Written {
    fn below_tops(&self) -> Option<PathBuf> {
        let text = if self.is_cut {
            self.text.rsplit_once('/').map_or("", |(whole, _)| whole)
        } else {
            // A full stop ends a sentence.
            self.text.trim_end_matches('.')
        };
        let path = canonical(Path::new(text));
        let top = TOPS.iter().find(|top| path.starts_with(top))?;
        let depth = path.strip_prefix(top).ok()?.components().count();
        // The rest of "/var/lib/$name" is a directory common to all services.
        let least = if self.is_cut && *top == "/var" { 2 } else { 1 };
        (depth >= least).then_some(path)
    }
}

/// Returns true if an absolute path may start between `before` and `from`.
fn starts_path(before: &str, from: &str) -> bool {
    for prefix in ["$DPKG_ROOT", "${DPKG_ROOT}", "${DPKG_ROOT:-}"] {
        if before.ends_with(prefix) {
            return true;
        }
    }
    let mut backwards = before.chars().rev();
    match backwards.next() {
        None => true,
        // "scheme://host/path", but "file:///path" and "unix:/path".
        Some(':') => !from.starts_with("//") || from.starts_with("///"),
        Some(c) if is_option_letter(c, &mut backwards) => true,
        Some(c) => {
            !c.is_alphanumeric()
                && !matches!(
                    c,
                    '/' | '.' | '-' | '_' | '+' | '~' | '@' | '}' | ')' | ']' | '*' | '%' | '$'
                )
        }
    }
}

/// Returns true if `c` is an option letter whose value follows without a blank: `-c/etc/x`.
fn is_option_letter(c: char, before: &mut dyn Iterator<Item = char>) -> bool {
    c.is_ascii_alphabetic()
        && before.next() == Some('-')
        && before
            .next()
            .is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | '='))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mentioned(text: &str) -> Vec<String> {
        mentioned_paths(text, Comments::Skip)
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn paths_are_found_in_many_languages() {
        let cases: &[(&str, &[&str])] = &[
            (
                "chown a:b /var/lib/a /var/log/a",
                &["/var/lib/a", "/var/log/a"],
            ),
            (r#"cp "/etc/a b" '/srv/c'"#, &["/etc/a", "/srv/c"]),
            (
                "PIDFILE=/run/a.pid; . /etc/default/a",
                &["/etc/default/a", "/run/a.pid"],
            ),
            ("a:/home/a:/bin/sh", &["/home/a"]),
            ("Include /etc/a/, then /etc/b.", &["/etc/a", "/etc/b"]),
            ("x=$(cat /etc/a/b)", &["/etc/a/b"]),
            ("`cat /etc/a`", &["/etc/a"]),
            (
                "sed -i 's,/etc/a,/etc/b,' /opt//x/./y/../z",
                &["/etc/a", "/etc/b", "/opt/x/z"],
            ),
            (r"s/\/etc\/a\.conf/x/", &["/etc/a.conf"]),
            (
                "ExecStart=/usr/bin/a -c/etc/a.conf --dir=/var/cache/a -I=/srv/i",
                &["/etc/a.conf", "/srv/i", "/var/cache/a"],
            ),
            (
                "[ -e /var/run/a ] && >/var/lock/b",
                &["/run/a", "/run/lock/b"],
            ),
            (
                "unix:/run/a.sock fastcgi://unix:/run/b file:///etc/c",
                &["/etc/c", "/run/a.sock", "/run/b"],
            ),
            (
                "$DPKG_ROOT/etc/a \"${DPKG_ROOT}/etc/b\" ${DPKG_ROOT:-}/etc/c",
                &["/etc/a", "/etc/b", "/etc/c"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(mentioned(text), *expected, "{text}");
        }
    }

    #[test]
    fn relative_and_foreign_paths_are_skipped() {
        for text in [
            "http://example.org/etc/a",
            "https://etc/a",
            "$HOME/etc/a ${X}/var/lib/a ../etc/a ~/etc/a",
            "/usr/local/etc/a /usr/share/a",
            "/etc /var/ /etc/.. /etc/../usr/a",
            "/etcetera/x /variable/y",
            "# see /etc/a",
            "/etc/$x /var/lib/$x /etc/a* /var/$x/y",
        ] {
            assert_eq!(mentioned(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_expansion_ends_the_path_before_it() {
        for (text, expected) in [
            ("/etc/a/$VERSION/b", "/etc/a"),
            ("/etc/a/b-$VERSION", "/etc/a"),
            ("/var/lib/a/%i", "/var/lib/a"),
            ("/etc/a/*.conf", "/etc/a"),
            ("/etc/a/{b,c}", "/etc/a"),
            (r"/etc/a/b\w", "/etc/a"),
        ] {
            assert_eq!(mentioned(text), [expected], "{text}");
        }
    }

    #[test]
    fn comments_are_read_when_asked() {
        let read = mentioned_paths("  # see /etc/a\n", Comments::Read);
        assert_eq!(read, BTreeSet::from([PathBuf::from("/etc/a")]));
    }

    proptest! {
        #[test]
        fn any_text_gives_normal_paths_below_the_tops(text in r#"([ -~é$/."'\\]|/etc/|/var/|\.\./){0,60}"#) {
            for path in mentioned_paths(&text, Comments::Read) {
                prop_assert_eq!(&canonical(&path), &path);
                prop_assert!(TOPS.iter().any(|top| path.starts_with(top) && path != Path::new(top)));
            }
        }

        #[test]
        fn a_path_between_blanks_is_found(path in "/(etc|srv|opt)(/[a-z0-9_+@][a-z0-9_+@.-]{0,8}[a-z0-9]){1,4}") {
            let text = format!("x {path} y");
            prop_assert_eq!(mentioned_paths(&text, Comments::Skip), BTreeSet::from([PathBuf::from(path)]));
        }
    }
}
