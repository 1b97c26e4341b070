//! Mounts of a sandbox.
//!
//! A mount is written `TYPE:TARGET=SOURCE[,OPTION…]` on the command line and in TOML alike; `FromStr` and
//! `Display` are inverse. A backslash escapes a literal `:`, `,`, `=` or `\`.
//!
//! A new type needs, beside its grammar here (the compiler names all places of code but `clone`):
//! * `guest::layout::mount`, which turns each mount into shares and guest mounts; a new kind of guest mount is a variant of
//!   `guest_init::config::Mount` with its arm in guest-init's `root::mounts`;
//! * `guest::nested`: whether a source below a directory that the sandbox can write is resolved inside;
//! * `config::sandbox` (`check_mount`), `service::provision::trust` (does an archive need trust for it?) and
//!   `service::inspect::security` (does it make something of the host writable?), `service::provision::clone` (do two sandboxes
//!   share it?);
//! * the help of `--mount` in `commands::run` and `commands::service::provision::create`, `docs/one-shots.md` and `docs/sandbox.toml.md`;
//! * cases in `tests/run/files.rs` and `tests/escape`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::storage::image::{BackingError, ImageFormat, ParseFormatError};
use crate::config::values::escape::{absolute, escape, split, split_once, unescape};
use crate::config::values::path::{GuestPath, ParsePathError, check_writable};
use crate::config::{Bytes, as_text};

/// Filesystem to place inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// `host-bind:TARGET=[SOURCE][,ro]`: a directory or file of the host, shared live.
    HostBind {
        /// Mount point; `/` replaces the root.
        target: GuestPath,
        /// Path on the host; if absent, a new directory that is removed with the sandbox. May be
        /// relative until [`absolute`](Self::absolute).
        source: Option<PathBuf>,
        /// Whether the sandbox may only read it.
        read_only: bool,
    },
    /// `host-image:TARGET=SOURCE[,format=FORMAT][,partition=N][,backing=yes][,ro]`: the filesystem in a
    /// disk image of the host.
    HostImage {
        /// Mount point; `/` replaces the root.
        target: GuestPath,
        /// Path of the image; may be relative until [`absolute`](Self::absolute).
        source: PathBuf,
        /// Format; derived from the file's name if absent.
        format: Option<ImageFormat>,
        /// Partition that holds the filesystem, 1 to 255; the whole image if absent.
        partition: Option<u32>,
        /// Whether files that the image names are opened as well.
        backing: bool,
        /// Whether the sandbox may only read it.
        read_only: bool,
    },
    /// `guest-bind:TARGET=SOURCE[,ro]`: another path of the sandbox.
    GuestBind {
        /// Mount point.
        target: GuestPath,
        /// Path in the sandbox.
        source: GuestPath,
        /// Whether it is read-only at the mount point.
        read_only: bool,
    },
    /// `ram:TARGET=SIZE`: a new tmpfs.
    Ram {
        /// Mount point.
        target: GuestPath,
        /// Maximum size.
        size: Bytes,
    },
}

/// Error of parsing a mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMountError {
    /// The text is not `TYPE:TARGET=SOURCE`.
    #[error(
        "'{0}' is not a mount: write TYPE:TARGET=SOURCE, with TYPE one of host-bind, host-image, guest-bind, ram"
    )]
    Syntax(String),
    /// The type is unknown.
    #[error("'{0}' is not a type of mount: use host-bind, host-image, guest-bind or ram")]
    Type(String),
    /// An option is unknown.
    #[error("'{1}' is not an option of a {0} mount")]
    Option(String, String),
    /// An option is given twice.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
    /// Target or source is not a valid path.
    #[error(transparent)]
    Path(#[from] ParsePathError),
    /// The target lies in `/dev`, `/proc` or `/sys`, or is `/` where the root cannot be replaced.
    #[error("nothing can be mounted on '{0}'")]
    Target(GuestPath),
    /// `host-image` has no image.
    #[error("the mount on '{0}' has no source")]
    NoSource(GuestPath),
    /// The partition number is invalid.
    #[error("'{0}' is not the number of a partition (1 to {MOST_PARTITIONS})")]
    Partition(String),
    /// The format is unknown.
    #[error(transparent)]
    Format(#[from] ParseFormatError),
    /// `backing=yes` does not apply to the format.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The size of `ram` is invalid.
    #[error(transparent)]
    Size(#[from] crate::config::values::size::ParseBytesError),
}

/// Maximum number of partitions per disk in Linux (`DISK_MAX_PARTS`).
const MOST_PARTITIONS: u32 = 255;

impl Mount {
    /// Returns a read-only bind of `path` on the host at the same path of the sandbox.
    ///
    /// # Errors
    /// If the path is not valid in the sandbox.
    pub fn read_only_view(path: &Path) -> Result<Self, ParseMountError> {
        let target = target(&path.display().to_string())?;
        match target.is_root() {
            true => Err(ParseMountError::Target(target)),
            false => Ok(Self::HostBind {
                target,
                source: Some(path.to_owned()),
                read_only: true,
            }),
        }
    }

    /// Returns the mount point.
    #[must_use]
    pub fn target(&self) -> &GuestPath {
        match self {
            Self::HostBind { target, .. }
            | Self::HostImage { target, .. }
            | Self::GuestBind { target, .. }
            | Self::Ram { target, .. } => target,
        }
    }

    /// Returns whether the mount replaces the sandbox's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.target().is_root()
    }

    /// Returns the path on the host that the mount needs, if any.
    #[must_use]
    pub fn host_source(&self) -> Option<&Path> {
        match self {
            Self::HostBind { source, .. } => source.as_deref(),
            Self::HostImage { source, .. } => Some(source),
            Self::GuestBind { .. } | Self::Ram { .. } => None,
        }
    }

    /// Returns the mount with its source on the host made absolute relative to `cwd`.
    #[must_use]
    pub fn absolute(mut self, cwd: &Path) -> Self {
        match &mut self {
            Self::HostBind {
                source: Some(source),
                ..
            }
            | Self::HostImage { source, .. } => *source = absolute(source, cwd),
            Self::HostBind { source: None, .. } | Self::GuestBind { .. } | Self::Ram { .. } => {}
        }
        self
    }
}

/// Parses a mount point; the kernel's own filesystems are refused.
fn target(text: &str) -> Result<GuestPath, ParseMountError> {
    let target: GuestPath = text.parse()?;
    let is_kernels = ["/dev", "/proc", "/sys"]
        .iter()
        .any(|top| target.as_path().starts_with(top));
    match is_kernels {
        true => Err(ParseMountError::Target(target)),
        false => Ok(target),
    }
}

/// Options after a source.
#[derive(Default)]
struct Options {
    read_only: Option<()>,
    format: Option<ImageFormat>,
    partition: Option<u32>,
    backing: Option<()>,
}

impl Options {
    fn parse(kind: &str, fields: &[String]) -> Result<Self, ParseMountError> {
        let mut options = Self::default();
        for field in fields {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match (key, kind) {
                ("ro", "host-bind" | "host-image" | "guest-bind") if field == "ro" => {
                    once(&mut options.read_only, "ro", ())?;
                }
                ("format", "host-image") => once(&mut options.format, "format", value.parse()?)?,
                ("partition", "host-image") => {
                    once(&mut options.partition, "partition", partition(value)?)?;
                }
                ("backing", "host-image") if value == "yes" => {
                    once(&mut options.backing, "backing", ())?;
                }
                _ => return Err(ParseMountError::Option(kind.to_owned(), field.clone())),
            }
        }
        Ok(options)
    }
}

fn once<T>(slot: &mut Option<T>, option: &'static str, value: T) -> Result<(), ParseMountError> {
    match slot.replace(value) {
        Some(_) => Err(ParseMountError::Twice(option)),
        None => Ok(()),
    }
}

fn partition(text: &str) -> Result<u32, ParseMountError> {
    text.parse()
        .ok()
        .filter(|number| (1..=MOST_PARTITIONS).contains(number))
        .ok_or_else(|| ParseMountError::Partition(text.to_owned()))
}

impl FromStr for Mount {
    type Err = ParseMountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_writable(text)?;
        let syntax = || ParseMountError::Syntax(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(syntax)?;
        if !["host-bind", "host-image", "guest-bind", "ram"].contains(&kind) {
            return Err(ParseMountError::Type(kind.to_owned()));
        }
        let (target, rest) = split_once(rest, '=').ok_or_else(syntax)?;
        let target = self::target(&unescape(&target))?;
        let mut fields = split(&rest, ',');
        let source = unescape(&fields.remove(0));
        let options = Options::parse(kind, &fields)?;
        let read_only = options.read_only.is_some();
        match kind {
            "host-bind" => Ok(Self::HostBind {
                target,
                source: (!source.is_empty()).then(|| source.into()),
                read_only,
            }),
            "host-image" if source.is_empty() => Err(ParseMountError::NoSource(target)),
            "host-image" => {
                let (source, format) = (PathBuf::from(source), options.format);
                if options.backing.is_some() {
                    format
                        .unwrap_or_else(|| ImageFormat::of(&source))
                        .check_backing()?;
                }
                Ok(Self::HostImage {
                    target,
                    source,
                    format,
                    partition: options.partition,
                    backing: options.backing.is_some(),
                    read_only,
                })
            }
            _ if target.is_root() => Err(ParseMountError::Target(target)),
            "guest-bind" => Ok(Self::GuestBind {
                target,
                source: source.parse()?,
                read_only,
            }),
            "ram" => Ok(Self::Ram {
                target,
                size: source.parse()?,
            }),
            _ => Err(ParseMountError::Type(kind.to_owned())),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = escape(self.target().as_path());
        let read_only = match self {
            Self::HostBind {
                source, read_only, ..
            } => {
                let source = source.as_deref().map(escape).unwrap_or_default();
                write!(f, "host-bind:{target}={source}")?;
                *read_only
            }
            Self::HostImage {
                source,
                format,
                partition,
                backing,
                read_only,
                ..
            } => {
                write!(f, "host-image:{target}={}", escape(source))?;
                if let Some(format) = format {
                    write!(f, ",format={format}")?;
                }
                if let Some(partition) = partition {
                    write!(f, ",partition={partition}")?;
                }
                f.write_str(if *backing { ",backing=yes" } else { "" })?;
                *read_only
            }
            Self::GuestBind {
                source, read_only, ..
            } => {
                write!(f, "guest-bind:{target}={}", escape(source.as_path()))?;
                *read_only
            }
            Self::Ram { size, .. } => {
                write!(f, "ram:{target}={size}")?;
                false
            }
        };
        f.write_str(if read_only { ",ro" } else { "" })
    }
}

as_text!(Mount);

#[cfg(test)]
mod tests;
