//! Errors of the library: each says what failed, on what, why, and what to do, and has a [kind](ErrorKind) that programs can match.

#![warn(missing_docs)]

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Result of this library's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any failure of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a file or directory of the host failed.
    #[error("{doing} '{}'", abbreviate(path))]
    Io {
        /// A gerund: "reading".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A configuration file is wrong.
    #[error("reading '{}': {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Place in the file, and the reason.
        reason: String,
    },
    /// libvirt failed, or does not answer.
    #[error("{doing}: {reason}")]
    Libvirt {
        /// A gerund: "starting domain 'web1'".
        doing: String,
        /// libvirt's message.
        reason: String,
    },
    /// A failure that is fully told by its message.
    #[error("{message}")]
    Failed {
        /// Selects the exit status of the commands.
        kind: ErrorKind,
        /// Whole sentence for the user, with the remedy.
        message: String,
    },
    /// Several failures of one operation, such as one and those of its roll-back.
    #[error("{}{}", first.chain(), following(others))]
    Several {
        /// The first failure, which tells the kind.
        first: Box<Error>,
        /// Failures that followed.
        others: Vec<Error>,
    },
    /// The user or the host's systemd asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A failure of a lower layer, with a message of its own.
    #[error(transparent)]
    Lower(Box<dyn std::error::Error + Send + Sync>),
    /// A step that failed because of what is inside.
    #[error("{doing}")]
    Step {
        /// A gerund: "listening for signals".
        doing: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Class of an [`Error`], for programs: messages may change, kinds stay.
///
/// The commands turn a kind into their exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such sandbox, snapshot, unit, package, network, kernel, account or program.
    NotFound,
    /// There is something of that name already.
    Exists,
    /// The sandbox runs, and has to be stopped first.
    Running,
    /// The sandbox does not run, or has ended meanwhile.
    NotRunning,
    /// Somebody else uses it at the moment; try again later.
    Busy,
    /// The caller may not do this.
    Permission,
    /// The request cannot be granted as it is.
    Refused,
    /// The host lacks something that this takes.
    Unsupported,
    /// A configuration file is wrong.
    Config,
    /// libvirt failed, or does not answer.
    Libvirt,
    /// The sandbox does not answer, or its units did not come up.
    NotReady,
    /// The user or the host's systemd asked to stop.
    Interrupted,
    /// A system call failed.
    Io,
    /// None of the others.
    Other,
}

/// An error of a lower layer, which `?` turns into an [`Error`].
pub trait LowerError: std::error::Error + Send + Sync + Sized + 'static {
    /// Returns the kind, if that is not [`ErrorKind::Io`]. An error with another kind has no source.
    fn kind(&self) -> ErrorKind {
        ErrorKind::Io
    }
}

impl<E: LowerError> From<E> for Error {
    fn from(error: E) -> Self {
        let kind = error.kind();
        if kind == ErrorKind::Io {
            Self::Lower(Box::new(error))
        } else if kind == ErrorKind::Interrupted {
            Self::Interrupted
        } else {
            Self::new(kind, error.to_string())
        }
    }
}

impl Error {
    /// Makes an error of a kind; `message` says what failed, on what, why, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Failed {
            kind,
            message: message.into(),
        }
    }

    /// Makes an [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Makes an [`ErrorKind::Exists`].
    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exists, message)
    }

    /// Makes an [`ErrorKind::Running`].
    pub fn running(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Running, message)
    }

    /// Makes an [`ErrorKind::NotRunning`].
    pub fn not_running(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotRunning, message)
    }

    /// Makes an [`ErrorKind::NotReady`].
    pub fn not_ready(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotReady, message)
    }

    /// Makes an [`ErrorKind::Busy`].
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// Makes an [`ErrorKind::Refused`].
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// Makes an [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// For `map_err` on a system call: `fs::read(path).map_err(Error::io("reading", path))`.
    pub fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err` on a parser: `parse(&text).map_err(Error::config(path))`.
    pub fn config<R: ToString>(path: &Path) -> impl Fn(R) -> Self + use<'_, R> {
        move |reason| Self::Config {
            path: path.to_owned(),
            reason: reason.to_string().trim_end().to_owned(),
        }
    }

    /// For `map_err` on anything else: `doing` is a gerund, with what it is done to.
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

    /// Adds the failure of a roll-back, if that failed too.
    #[must_use]
    pub fn followed_by(self, next: Result<()>) -> Self {
        match (self, next) {
            (error, Ok(())) => error,
            (Self::Several { first, mut others }, Err(next)) => {
                others.push(next);
                Self::Several { first, others }
            }
            (first, Err(next)) => Self::Several {
                first: Box::new(first),
                others: vec![next],
            },
        }
    }

    /// Turns the failures of independent steps, all of which were tried, into one.
    ///
    /// # Errors
    /// A step has failed.
    pub fn of_all(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
        let failures = results.into_iter().filter_map(Result::err);
        let all = failures.reduce(|first, next| first.followed_by(Err(next)));
        all.map_or(Ok(()), Err)
    }

    /// Returns what a program can act on. A step has the kind of its cause.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Failed { kind, .. } => *kind,
            Self::Config { .. } => ErrorKind::Config,
            Self::Libvirt { .. } => ErrorKind::Libvirt,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Several { first, .. } => first.kind(),
            Self::Io { .. } | Self::Lower(_) => ErrorKind::Io,
            Self::Step { source, .. } => match source.downcast_ref::<Self>() {
                Some(cause) => cause.kind(),
                None if source.is::<io::Error>() || source.is::<Errno>() => ErrorKind::Io,
                None => ErrorKind::Other,
            },
        }
    }

    /// Returns the message with those of all causes, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        text
    }
}

fn following(others: &[Error]) -> String {
    let others = others.iter().map(Error::chain);
    others.map(|other| format!("; then {other}")).collect()
}

/// Characters that [`abbreviate`] keeps of each end of a long path.
const KEPT: usize = 200;

/// Shortens a path for a message: one made in a sandbox can be too long to read, so only its two ends are kept.
pub(crate) fn abbreviate(path: &Path) -> String {
    let text = path.to_string_lossy();
    let length = text.chars().count();
    if length <= 2 * KEPT + 1 {
        return text.into_owned();
    }
    let first: String = text.chars().take(KEPT).collect();
    let last: String = text.chars().skip(length - KEPT).collect();
    format!("{first}…{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_the_kind_of_its_cause() {
        let missing = Error::new(ErrorKind::NotFound, "there is no sandbox 'web1'");
        let step = Error::step("stopping 'web1'")(Error::step("looking for it")(missing));
        assert_eq!(step.kind(), ErrorKind::NotFound);
        assert_eq!(
            step.chain(),
            "stopping 'web1': looking for it: there is no sandbox 'web1'"
        );
        let failed = Error::step("listening")(Errno::EMFILE);
        assert_eq!(failed.kind(), ErrorKind::Io);
    }

    #[test]
    fn no_failure_of_a_tear_down_is_hidden() {
        let failed = |message: &str| Err(Error::busy(message));
        assert!(Error::of_all([Ok(()), Ok(())]).is_ok());
        let one = Error::of_all([Ok(()), failed("a")]).unwrap_err();
        assert_eq!(one.to_string(), "a");
        let several = Error::of_all([failed("a"), Ok(()), failed("b"), failed("c")]);
        let several = several.unwrap_err();
        assert_eq!(several.chain(), "a; then b; then c");
        assert_eq!(several.kind(), ErrorKind::Busy);
    }

    #[test]
    fn errors_of_lower_layers_keep_their_kind_and_causes() {
        #[derive(Debug, thiserror::Error)]
        enum Lower {
            #[error("interrupted")]
            Interrupted,
            #[error("'/x' exists already")]
            Exists,
            #[error("writing '/x'")]
            Write(#[source] io::Error),
        }
        impl LowerError for Lower {
            fn kind(&self) -> ErrorKind {
                match self {
                    Self::Interrupted => ErrorKind::Interrupted,
                    Self::Exists => ErrorKind::Exists,
                    Self::Write(_) => ErrorKind::Io,
                }
            }
        }
        assert!(matches!(
            Error::from(Lower::Interrupted),
            Error::Interrupted
        ));
        assert_eq!(Error::from(Lower::Exists).kind(), ErrorKind::Exists);
        let full = Error::from(Lower::Write(Errno::ENOSPC.into()));
        assert_eq!(full.kind(), ErrorKind::Io);
        assert!(full.chain().starts_with("writing '/x': No space left"));
    }

    #[test]
    fn a_long_path_is_shortened_in_the_middle() {
        let long = format!("/top/{}/é", "d/".repeat(3000));
        let shortened = abbreviate(Path::new(&long));
        assert!(shortened.starts_with("/top/d/d/") && shortened.ends_with("/d//é"));
        assert!(
            shortened.contains('…') && shortened.len() < 500,
            "{shortened}"
        );
        let usual = format!("/{}", "x".repeat(255));
        assert_eq!(abbreviate(Path::new(&usual)), usual);
    }
}
