//! Absolute paths that occur in arguments and variables, as hints of what a service uses.
//!
//! Such a text need not be a path: callers check whether it exists.

use crate::sys::path::normalize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Adds every absolute path in `text` to `paths`.
///
/// A path begins at the start, after a separator (`--conf=/etc/x`, `-Dhome=/opt/x`, `a:/b`) or
/// after a single-letter option (`-c/etc/x`), and also in `unix:///run/x`, but not in `http://x`.
/// For a path with a variable or a pattern in it, the directory above counts.
pub fn paths_in(text: &str, paths: &mut BTreeSet<PathBuf>) {
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let before = &rest[..at];
        let path = &rest[at..];
        let end = path.find(ends_path).unwrap_or(path.len());
        if starts_path(before) {
            if let Some(url) = path.strip_prefix("//").filter(|_| before.ends_with(':')) {
                if url.starts_with('/') {
                    // A URL with an empty host is a file.
                    rest = url;
                    paths.extend(clean(&url[..url.find(ends_path).unwrap_or(url.len())]));
                    rest = &rest[rest.find(ends_path).unwrap_or(rest.len())..];
                    continue;
                }
            } else {
                paths.extend(clean(&path[..end]));
            }
        }
        rest = &path[end..];
    }
}

fn ends_path(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'`,;:=(){}[]<>|&#!".contains(c)
}

fn starts_path(before: &str) -> bool {
    let Some(last) = before.chars().next_back() else {
        return true;
    };
    let word = before.rsplit(ends_path).next().unwrap_or_default();
    let option = word.len() == 2 && word.starts_with('-') && last.is_ascii_alphabetic();
    option || ends_path(last) || matches!(last, '@')
}

fn clean(path: &str) -> Option<PathBuf> {
    let known = match path.find(['$', '*', '?', '%']) {
        // Cut after the last complete component; a single component is too general.
        Some(at) => path[..at]
            .rsplit_once('/')
            .map(|(dir, _)| dir)
            .filter(|dir| dir.matches('/').count() > 1)?,
        None => path,
    };
    let path = normalize(known.as_ref());
    (path.parent().is_some()).then_some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_found() {
        let cases: [(&str, &[&str]); 13] = [
            ("/etc/x.conf", &["/etc/x.conf"]),
            ("--conf=/etc/x.conf", &["/etc/x.conf"]),
            ("-c/etc/x", &["/etc/x"]),
            ("-Djava.home=/opt/j:/opt/k", &["/opt/j", "/opt/k"]),
            ("unix:///run/x.sock", &["/run/x.sock"]),
            ("http://example.org/a/b", &[]),
            ("fd://", &[]),
            (
                "test -d /run/a || mkdir -p \"/run/b\";chown u /run/c",
                &["/run/a", "/run/b", "/run/c"],
            ),
            ("/etc/x/${NAME}.conf", &["/etc/x"]),
            ("/etc/$NAME", &[]),
            ("/var/lib/x/*.db", &["/var/lib/x"]),
            ("a/b s/x/y/ /", &[]),
            ("/a//b/./c/", &["/a/b/c"]),
        ];
        for (text, expected) in cases {
            let mut paths = BTreeSet::new();
            paths_in(text, &mut paths);
            assert_eq!(
                paths,
                expected.iter().map(PathBuf::from).collect(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_searched(text in "[/:=a-z$\"ä -]{0,60}") {
            paths_in(&text, &mut BTreeSet::new());
        }
    }
}
