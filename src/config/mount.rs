//! Mounts a sandbox may ask for.
//!
//! A mount is written `TYPE:TARGET=SOURCE[,ro]` on the command line and in TOML alike; `FromStr` and
//! `Display` are inverse. A backslash makes the character after it an ordinary one, for paths
//! with `:`, `,`, `=` or `\`. What a mount *becomes* is decided by `domain` and by the guest.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::config::{Bytes, as_text};

/// A filesystem to place inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// `host-bind:TARGET=SOURCE[,ro]`: a directory or file of the host, seen live by the sandbox.
    HostBind {
        /// Where it appears.
        target: GuestPath,
        /// What appears: an absolute path of the host.
        source: PathBuf,
        /// Whether the sandbox may only read it.
        read_only: bool,
    },
    /// `guest-bind:TARGET=SOURCE[,ro]`: what is at one place of the sandbox, at another.
    GuestBind {
        /// Where it appears.
        target: GuestPath,
        /// What appears.
        source: GuestPath,
        /// Whether it may only be read there.
        read_only: bool,
    },
    /// `ram:TARGET=SIZE`: a fresh tmpfs.
    Ram {
        /// Where it appears.
        target: GuestPath,
        /// Most it can hold.
        size: Bytes,
    },
}

/// Why a text is no mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMountError {
    /// Not `TYPE:TARGET=SOURCE`.
    #[error(
        "'{0}' is not a mount: write TYPE:TARGET=SOURCE, with TYPE one of host-bind, guest-bind, ram"
    )]
    Syntax(String),
    /// A type there is not.
    #[error("'{0}' is not a type of mount: use host-bind, guest-bind or ram")]
    Type(String),
    /// An option there is not.
    #[error("'{1}' is not an option of a {0} mount")]
    Option(String, String),
    /// Target or source is no usable path.
    #[error(transparent)]
    Path(#[from] ParsePathError),
    /// The target is `/`, or lies in `/dev`, `/proc` or `/sys`.
    #[error("nothing can be mounted on '{0}'")]
    Target(GuestPath),
    /// The source of `host-bind` is not absolute.
    #[error("the source '{0}' is not an absolute path")]
    Source(String),
    /// The size of `ram` is none.
    #[error(transparent)]
    Size(#[from] crate::config::size::ParseBytesError),
}

impl Mount {
    /// What is at `path` on the host, read-only at the same place of the sandbox.
    ///
    /// # Errors
    /// Where the path cannot be one of the sandbox.
    pub fn read_only_view(path: &Path) -> Result<Self, ParseMountError> {
        Ok(Self::HostBind {
            target: target(&path.display().to_string())?,
            source: path.to_owned(),
            read_only: true,
        })
    }

    /// Where the mount appears in the sandbox.
    #[must_use]
    pub fn target(&self) -> &GuestPath {
        match self {
            Self::HostBind { target, .. }
            | Self::GuestBind { target, .. }
            | Self::Ram { target, .. } => target,
        }
    }
}

/// A place where something can be mounted: not the root, and not what the kernel shows of itself.
fn target(text: &str) -> Result<GuestPath, ParseMountError> {
    let target: GuestPath = text.parse()?;
    let is_kernels = ["/dev", "/proc", "/sys"]
        .iter()
        .any(|top| target.0.starts_with(top));
    if is_kernels || target.0 == Path::new("/") {
        return Err(ParseMountError::Target(target));
    }
    Ok(target)
}

impl FromStr for Mount {
    type Err = ParseMountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().any(char::is_control) {
            return Err(ParsePathError::Control(text.to_owned()).into());
        }
        let syntax = || ParseMountError::Syntax(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(syntax)?;
        let (target, rest) = split_once_unescaped(rest, '=').ok_or_else(syntax)?;
        let mut fields = split_unescaped(&rest, ',');
        let source = fields.remove(0);
        let mut read_only = false;
        for option in fields {
            match option.as_str() {
                "ro" if kind != "ram" => read_only = true,
                _ => return Err(ParseMountError::Option(kind.to_owned(), option)),
            }
        }
        let target = self::target(&unescape(&target))?;
        match kind {
            "host-bind" => {
                let source = PathBuf::from(unescape(&source));
                if !source.is_absolute() {
                    return Err(ParseMountError::Source(source.display().to_string()));
                }
                Ok(Self::HostBind {
                    target,
                    source,
                    read_only,
                })
            }
            "guest-bind" => Ok(Self::GuestBind {
                target,
                source: unescape(&source).parse()?,
                read_only,
            }),
            "ram" => Ok(Self::Ram {
                target,
                size: source.parse()?,
            }),
            other => Err(ParseMountError::Type(other.to_owned())),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, source, read_only) = match self {
            Self::HostBind {
                source, read_only, ..
            } => ("host-bind", escape(source), *read_only),
            Self::GuestBind {
                source, read_only, ..
            } => ("guest-bind", escape(source.as_path()), *read_only),
            Self::Ram { size, .. } => ("ram", size.to_string(), false),
        };
        write!(f, "{kind}:{}={source}", escape(self.target().as_path()))?;
        if read_only {
            f.write_str(",ro")
        } else {
            Ok(())
        }
    }
}

as_text!(Mount);

/// An absolute, normalised path in the sandbox without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(PathBuf);

/// Why a text is no path in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePathError {
    /// It does not begin with `/`.
    #[error("'{0}' is not an absolute path")]
    Relative(String),
    /// It has `..` in it.
    #[error("'{0}' has '..' in it")]
    Parent(String),
    /// It has a control character in it, which XML and unit files cannot carry.
    #[error("{0:?} has a control character in it")]
    Control(String),
}

impl GuestPath {
    /// The path itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for GuestPath {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().any(char::is_control) {
            return Err(ParsePathError::Control(text.to_owned()));
        }
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(ParsePathError::Relative(text.to_owned()));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(ParsePathError::Parent(text.to_owned()));
        }
        // Collecting components drops `.`, `//` and a slash at the end.
        Ok(Self(path.components().collect()))
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

as_text!(GuestPath);

const SPECIAL: [char; 4] = ['\\', ':', ',', '='];

fn escape(path: &Path) -> String {
    path.display()
        .to_string()
        .chars()
        .flat_map(|c| SPECIAL.contains(&c).then_some('\\').into_iter().chain([c]))
        .collect()
}

fn unescape(text: &str) -> String {
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

fn split_unescaped(text: &str, separator: char) -> Vec<String> {
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

fn split_once_unescaped(text: &str, separator: char) -> Option<(String, String)> {
    let mut fields = split_unescaped(text, separator).into_iter();
    let first = fields.next()?;
    let rest: Vec<String> = fields.collect();
    (!rest.is_empty()).then(|| (first, rest.join(&separator.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_inverse() {
        for text in [
            "host-bind:/data=/srv/data",
            "host-bind:/data=/srv/data,ro",
            r"host-bind:/a\=b=/c\:d\,e\\f",
            "guest-bind:/tmp=/var/tmp",
            "ram:/tmp=100M",
        ] {
            let mount: Mount = text.parse().unwrap();
            assert_eq!(mount.to_string(), text);
        }
        let mount: Mount = r"host-bind:/a\=b=/c\:d\,e\\f".parse().unwrap();
        let Mount::HostBind { target, source, .. } = mount else {
            panic!()
        };
        assert_eq!(
            (target.as_path(), source.as_path()),
            (Path::new("/a=b"), Path::new(r"/c:d,e\f"))
        );
    }

    #[test]
    fn what_is_no_mount_is_named() {
        for text in [
            "",
            "host-bind",
            "host-bind:",
            "host-bind:/a",
            "host-:/a=/b",
            ":/a=/b",
            "h:/a=/b",
            "host-bind:a=/b",
            "host-bind:/a=b",
            "host-bind:/a=/b,rw",
            "host-bind:/../a=/b",
            "ram:/tmp=10MB",
            "ram:/tmp=1M,ro",
            "ram:/tmp=",
            "host-bind:/a\n=/b",
            "ram:/=1M",
            "host-bind:/dev/x=/dev/x",
            "ram:/proc/x=1M",
        ] {
            assert!(text.parse::<Mount>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_normalised() {
        assert_eq!(
            "//a/./b/".parse::<GuestPath>().unwrap().as_path(),
            Path::new("/a/b")
        );
    }
}
