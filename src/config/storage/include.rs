//! Includes, files of the host that are copied into a sandbox: `GUEST[=HOST]`, with the escapes of mounts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::as_text;
use crate::config::values::escape::{absolute, escape, split, unescape};
use crate::config::values::path::{GuestPath, ParsePathError, check_writable};
use crate::error::{Error, Result};

/// File or directory of the host that is copied into a mount of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// Path of the copy in the sandbox.
    pub target: GuestPath,
    /// Source of the copy, by default the same path; may be relative until [`absolute`](Self::absolute).
    pub source: PathBuf,
}

/// Error of parsing an include.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIncludeError {
    /// The text is not `GUEST[=HOST]`.
    #[error("'{0}' is not an include: write GUEST or GUEST=HOST")]
    Syntax(String),
    /// The path in the sandbox is invalid.
    #[error(transparent)]
    Path(#[from] ParsePathError),
}

impl Include {
    /// Returns the include with its source made absolute relative to `cwd`.
    #[must_use]
    pub fn absolute(self, cwd: &Path) -> Self {
        Self {
            source: absolute(&self.source, cwd),
            ..self
        }
    }

    /// Parses a list with one include a line; blank lines and lines that begin with `#` are skipped.
    /// `path` is for the message.
    ///
    /// # Errors
    /// Names the file, the line and what is wrong there.
    pub fn parse_list(text: &str, path: &Path) -> Result<Vec<Self>> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
            .map(|(index, line)| {
                line.parse().map_err(|error| Error::Config {
                    path: path.to_owned(),
                    reason: format!("line {}: {error}", index + 1),
                })
            })
            .collect()
    }
}

impl FromStr for Include {
    type Err = ParseIncludeError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        check_writable(text)?;
        let fields: Vec<String> = split(text, '=')
            .iter()
            .map(|field| unescape(field))
            .collect();
        let (target, source) = match fields.as_slice() {
            [path] if !path.is_empty() => (path, path),
            [target, source] if !source.is_empty() => (target, source),
            _ => return Err(ParseIncludeError::Syntax(text.to_owned())),
        };
        Ok(Self {
            target: target.parse()?,
            source: source.into(),
        })
    }
}

impl fmt::Display for Include {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.target.as_path()))?;
        match self.source == self.target.as_path() {
            true => Ok(()),
            false => write!(f, "={}", escape(&self.source)),
        }
    }
}

as_text!(Include);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_inverse() {
        for text in ["/etc/motd", "/tmp/a=b", r"/a\=b=/c\,d"] {
            assert_eq!(text.parse::<Include>().unwrap().to_string(), text);
        }
        let include: Include = "/tmp/a=b".parse().unwrap();
        assert_eq!(include.absolute(Path::new("/x")).source, Path::new("/x/b"));
    }

    #[test]
    fn what_is_no_include_is_refused() {
        for text in ["", "=", "=/a", "/a=", "a", "/a=/b=/c", "/../a", "/a\t"] {
            assert!(text.parse::<Include>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_is_read_and_its_errors_have_a_line() {
        let path = Path::new("/etc/list");
        let list =
            Include::parse_list("# what is needed\n\n/a\r\n  # more\n/b=/c\n", path).unwrap();
        let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["/a", "/b=/c"]);
        let error = Include::parse_list("/a\n\nb\n", path)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "reading '/etc/list': line 3: 'b' is not an absolute path"
        );
    }
    proptest::proptest! {
        #[test]
        fn any_path_is_read_back(source in "[^\\p{Cc}\u{fffe}\u{ffff}]{1,12}") {
            let include = Include {
                target: "/a".parse().unwrap(),
                source: source.into(),
            };
            proptest::prop_assert_eq!(include.to_string().parse(), Ok(include));
        }
    }
}
