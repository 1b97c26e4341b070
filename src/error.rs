//! What can go wrong, said once: what was being done, to which thing, why it failed, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this library's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any failure of this library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the host.
    #[error("{doing} '{}'", shown(path))]
    Io {
        /// A gerund: "reading".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A configuration file that is not right.
    #[error("reading '{}': {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// A request of libvirt's that failed.
    #[error("{doing}: {reason}")]
    Libvirt {
        /// What was being done.
        doing: String,
        /// What libvirt said.
        reason: String,
    },
    /// The host or the request is not as it must be; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The sandbox runs, but its units do not; the text names them.
    #[error("{0}")]
    NotReady(String),
    /// The user, or the host's systemd, has asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A failure of a part that says all by itself.
    #[error(transparent)]
    Leaf(Box<dyn std::error::Error + Send + Sync>),
    /// A step with the failure of a part inside.
    #[error("{doing}")]
    Step {
        /// What was being done.
        doing: String,
        /// The part's failure.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A path as an error says it: a path that a sandbox has made can be longer than all that is worth reading, so of one that long the
/// two ends are said.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let length = text.chars().count();
    if length <= 2 * SHOWN + 1 {
        return text.into_owned();
    }
    let first: String = text.chars().take(SHOWN).collect();
    let last: String = text.chars().skip(length - SHOWN).collect();
    format!("{first}…{last}")
}

/// How many characters are said of each end of a path that is too long.
const SHOWN: usize = 200;

/// Makes errors of leaves ours without a word of their own.
macro_rules! from_leaf {
    ($($leaf:ty),* $(,)?) => {$(
        impl From<$leaf> for crate::error::Error {
            fn from(error: $leaf) -> Self {
                Self::Leaf(Box::new(error))
            }
        }
    )*};
}
pub(crate) use from_leaf;

impl Error {
    /// For `map_err` on a system call: `fs::read(path).map_err(Error::io("reading", path))`.
    pub fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// All that it says, with what is inside of it.
    #[must_use]
    pub fn told(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        text
    }

    /// Something the user has to change.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }

    /// Wraps the failure of a part.
    pub fn step<E>(doing: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let doing = doing.into();
        move |source| Self::Step {
            doing,
            source: Box::new(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_path_without_end_both_ends_are_said() {
        let long = format!("/top/{}/é", "d/".repeat(3000));
        let said = shown(Path::new(&long));
        assert!(said.starts_with("/top/d/d/") && said.ends_with("/d//é"));
        assert!(said.contains('…') && said.len() < 500, "{said}");
        let usual = format!("/{}", "x".repeat(255));
        assert_eq!(shown(Path::new(&usual)), usual);
    }
}
