//! Escaping of arbitrary text in unit names: systemd-escape(1).
//!
//! [`super`] checks whether a result is a valid name.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns true for a character that needs no escape.
pub(in crate::facts::unit) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '.')
}

/// Decodes the output of systemd-escape(1): `-` stands for `/`, `\xNN` for a byte. Returns `None` for a malformed
/// escape or a result that is not UTF-8.
pub fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'-' => out.push(b'/'),
            b'\\' => {
                if rest.next()? != b'x' {
                    return None;
                }
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                out.push(u8::try_from(value).ok()?);
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Decodes the output of `systemd-escape --path`: `a-b` stands for `/a/b`. Returns `None` if the text is not an
/// escaped normal path.
pub fn unescape_path(text: &str) -> Option<String> {
    if text == "-" {
        return Some("/".to_owned());
    }
    let path = unescape(text)?;
    let normal = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    normal.then(|| format!("/{path}"))
}

/// Encodes an absolute normal path as `systemd-escape --path` does; with a suffix it is the name of a mount unit.
pub fn escape_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let parts: Vec<&[u8]> = bytes
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        return "-".to_owned();
    }
    let escaped = |(index, byte): (usize, &u8)| match char::from(*byte) {
        '/' => "-".to_owned(),
        '.' if index == 0 => r"\x2e".to_owned(),
        plain if is_plain(plain) => plain.to_string(),
        other => format!(r"\x{:02x}", u32::from(other)),
    };
    parts.join(&b'/').iter().enumerate().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_match_those_of_systemd_escape() {
        for (text, escaped) in [
            ("a/b-c", r"a-b\x2dc"),
            (".a.b", r"\x2ea.b"),
            ("ä \\", r"\xc3\xa4\x20\x5c"),
            ("15-main", r"15\x2dmain"),
        ] {
            assert_eq!(unescape(escaped).as_deref(), Some(text));
        }
        for (path, escaped) in [
            ("/", "-"),
            ("/a/b", "a-b"),
            ("/var/lib/x-y", r"var-lib-x\x2dy"),
        ] {
            assert_eq!(unescape_path(escaped).as_deref(), Some(path));
            assert_eq!(escape_path(Path::new(path)), escaped);
        }
        for (path, escaped) in [("//a//b/", "a-b"), ("/.a/.b ä", r"\x2ea-.b\x20\xc3\xa4")] {
            assert_eq!(escape_path(Path::new(path)), escaped);
        }
        for bad in [r"a\", r"a\y20", r"a\x2", r"\xff"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
        assert_eq!(unescape_path("a--b"), None);
    }

    proptest! {
        #[test]
        fn unescaping_never_panics(text in any::<String>()) {
            let _ = (unescape(&text), unescape_path(&text));
        }
    }
}
