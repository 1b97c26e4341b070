//! Disks of a sandbox: `file:TAG=SOURCE[,format=FORMAT][,backing=yes][,ro]` and `block:TAG=SOURCE[,ro]`, with
//! the escapes of mounts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::as_text;
use crate::config::storage::image::{BackingError, ImageFormat, ParseFormatError};
use crate::config::values::escape::{absolute, escape, split, split_once, unescape};
use crate::config::values::path::{ParsePathError, check_writable};

/// Disk, which appears in the sandbox as `/dev/disk/by-tag/TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// Image file of the host.
    File {
        /// Name in the sandbox.
        tag: Tag,
        /// Path of the image; may be relative until [`absolute`](Self::absolute).
        source: PathBuf,
        /// Format; derived from the file's name if absent.
        format: Option<ImageFormat>,
        /// Whether files that the image names are opened as well.
        backing: bool,
        /// Whether the sandbox may only read it.
        read_only: bool,
    },
    /// Block device of the host.
    Block {
        /// Name in the sandbox.
        tag: Tag,
        /// Path of the device; may be relative until [`absolute`](Self::absolute).
        source: PathBuf,
        /// Whether the sandbox may only read it.
        read_only: bool,
    },
}

/// Name of a disk in the sandbox: 1 to 64 letters, digits, `_`, `.` and `-`, but not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// Maximum length of a tag in bytes.
const LONGEST: usize = 64;

/// Error of parsing a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDiskError {
    /// The text is not `TYPE:TAG=SOURCE`.
    #[error("'{0}' is not a disk: write file:TAG=SOURCE or block:TAG=SOURCE")]
    Syntax(String),
    /// The type is unknown.
    #[error("'{0}' is not a type of disk: use file or block")]
    Type(String),
    /// The tag is not a valid file name.
    #[error(
        "'{0}' is not the tag of a disk: it has 1 to 64 letters, digits, '_', '.' and '-', and is not '.' or '..'"
    )]
    Tag(String),
    /// An option is unknown.
    #[error("'{1}' is not an option of a {0} disk")]
    Option(String, String),
    /// An option is given twice.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
    /// There is no source.
    #[error("the disk '{0}' has no source")]
    NoSource(Tag),
    /// The path has a character that XML cannot carry.
    #[error(transparent)]
    Path(#[from] ParsePathError),
    /// The format is unknown.
    #[error(transparent)]
    Format(#[from] ParseFormatError),
    /// `backing=yes` does not apply to the format.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

impl Disk {
    /// Returns the name in the sandbox.
    #[must_use]
    pub fn tag(&self) -> &Tag {
        match self {
            Self::File { tag, .. } | Self::Block { tag, .. } => tag,
        }
    }

    /// Returns the path on the host.
    #[must_use]
    pub fn source(&self) -> &Path {
        match self {
            Self::File { source, .. } | Self::Block { source, .. } => source,
        }
    }

    /// Returns whether the sandbox may only read the disk.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::File { read_only, .. } | Self::Block { read_only, .. } => *read_only,
        }
    }

    /// Returns the format: the given one, otherwise the one that the file's name implies; a block device
    /// is raw.
    #[must_use]
    pub fn format(&self) -> ImageFormat {
        match self {
            Self::File { source, format, .. } => format.unwrap_or_else(|| ImageFormat::of(source)),
            Self::Block { .. } => ImageFormat::Raw,
        }
    }

    /// Returns whether files that the image names are opened as well.
    #[must_use]
    pub fn has_backing(&self) -> bool {
        matches!(self, Self::File { backing: true, .. })
    }

    /// Returns the disk with its source made absolute relative to `cwd`.
    #[must_use]
    pub fn absolute(mut self, cwd: &Path) -> Self {
        match &mut self {
            Self::File { source, .. } | Self::Block { source, .. } => {
                *source = absolute(source, cwd);
            }
        }
        self
    }
}

impl FromStr for Disk {
    type Err = ParseDiskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_writable(text)?;
        let syntax = || ParseDiskError::Syntax(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(syntax)?;
        if !["file", "block"].contains(&kind) {
            return Err(ParseDiskError::Type(kind.to_owned()));
        }
        let (tag, rest) = split_once(rest, '=').ok_or_else(syntax)?;
        let tag: Tag = unescape(&tag).parse()?;
        let mut fields = split(&rest, ',').into_iter();
        let source = PathBuf::from(unescape(&fields.next().unwrap_or_default()));
        if source.as_os_str().is_empty() {
            return Err(ParseDiskError::NoSource(tag));
        }
        let (mut format, mut backing, mut read_only) = (None, false, false);
        for field in fields {
            match (field.as_str(), field.strip_prefix("format=")) {
                ("ro", _) if read_only => return Err(ParseDiskError::Twice("ro")),
                ("ro", _) => read_only = true,
                ("backing=yes", _) if backing => return Err(ParseDiskError::Twice("backing")),
                ("backing=yes", _) if kind == "file" => backing = true,
                (_, Some(name)) if kind == "file" => {
                    if format.replace(name.parse()?).is_some() {
                        return Err(ParseDiskError::Twice("format"));
                    }
                }
                _ => return Err(ParseDiskError::Option(kind.to_owned(), field)),
            }
        }
        if kind == "block" {
            return Ok(Self::Block {
                tag,
                source,
                read_only,
            });
        }
        if backing {
            format
                .unwrap_or_else(|| ImageFormat::of(&source))
                .check_backing()?;
        }
        Ok(Self::File {
            tag,
            source,
            format,
            backing,
            read_only,
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, format) = match self {
            Self::File { format, .. } => ("file", *format),
            Self::Block { .. } => ("block", None),
        };
        write!(f, "{kind}:{}={}", self.tag(), escape(self.source()))?;
        if let Some(format) = format {
            write!(f, ",format={format}")?;
        }
        f.write_str(if self.has_backing() {
            ",backing=yes"
        } else {
            ""
        })?;
        f.write_str(if self.is_read_only() { ",ro" } else { "" })
    }
}

as_text!(Disk);

impl Tag {
    /// Returns the tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ParseDiskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_tag = (1..=LONGEST).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            && ![".", ".."].contains(&text);
        match is_tag {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseDiskError::Tag(text.to_owned())),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_inverse() {
        for text in [
            "file:data=/srv/data.qcow2",
            "file:data=disk.img,format=qcow2,ro",
            "file:data=disk.img,format=vmdk,backing=yes,ro",
            "file:data=disk.qcow2,backing=yes",
            r"file:a_b.c-d=/a\=b\,c\:d",
            "block:data=/dev/sdb",
            "block:data=/dev/sdb,ro",
        ] {
            assert_eq!(text.parse::<Disk>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_format_is_what_is_said_or_what_the_name_tells() {
        for (text, format) in [
            ("file:a=/a.qcow2", ImageFormat::Qcow2),
            ("file:a=/a.qcow2,format=raw", ImageFormat::Raw),
            ("file:a=/a", ImageFormat::Raw),
            ("block:a=/dev/a.qcow2", ImageFormat::Raw),
        ] {
            assert_eq!(text.parse::<Disk>().unwrap().format(), format, "{text}");
        }
    }

    #[test]
    fn relative_sources_are_resolved() {
        let disk: Disk = "file:a=./x/../d.img".parse().unwrap();
        let disk = disk.absolute(Path::new("/home/me"));
        assert_eq!(disk.source(), Path::new("/home/me/x/../d.img"));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        for text in [
            "",
            "file",
            "file:",
            "file:a",
            "file:a=",
            "file:a=,ro",
            "file:=/a",
            "file:..=/a",
            "file:a/b=/a",
            "file:a=/a,rw",
            "file:a=/a,format=",
            "file:a=/a,format=wat",
            "file:a=/a,format=raw,format=raw",
            "file:a=/a,ro,ro",
            "file:a=/a,backing=yes",
            "file:a=/a.vdi,backing=yes",
            "file:a=/a.qcow2,format=raw,backing=yes",
            "file:a=/a.qcow2,backing=yes,backing=yes",
            "file:a=/a.qcow2,backing=no",
            "file:a=/a.qcow2,backing",
            "block:a=/a.qcow2,backing=yes",
            "file:a=/a\n",
            "block:a=/dev/a,format=raw",
            "f:a=/a",
            ":a=/a",
        ] {
            assert!(text.parse::<Disk>().is_err(), "{text}");
        }
        assert!(
            format!("file:{}=/a", "x".repeat(64))
                .parse::<Disk>()
                .is_ok()
        );
        assert!(
            format!("file:{}=/a", "x".repeat(65))
                .parse::<Disk>()
                .is_err()
        );
        for text in ["dir:a=/a", "network:a=/a"] {
            let error = text.parse::<Disk>().unwrap_err().to_string();
            assert!(error.ends_with("use file or block"), "{error}");
        }
    }
    proptest::proptest! {
        #[test]
        fn any_path_is_read_back(source in "[^\\p{Cc}\u{fffe}\u{ffff}]{1,12}") {
            let disk = Disk::File {
                tag: "a".parse().unwrap(),
                source: source.into(),
                format: Some(ImageFormat::Vmdk),
                backing: true,
                read_only: true,
            };
            proptest::prop_assert_eq!(disk.to_string().parse(), Ok(disk));
        }
    }
}
