//! Reads an archive member by member.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use tar::{EntryType, Header};

use super::pax::List;
use super::{ArchiveError, Result, XATTR, padding, pax};
use crate::sys::copy::attributes::Attributes;

/// Maximum length of a header of records, and of a name.
const LONGEST: u64 = 1 << 20;

/// Extended attributes that are accepted from an archive: those with a meaning to the kernel or to their
/// writer.
const ACCEPTED_XATTRS: [&str; 4] = [
    "user.",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
];

/// Archive that is being read.
pub struct Reader<'r> {
    pub(super) from: Box<dyn Read + 'r>,
    /// Unread bytes of the last member, including its padding.
    pub(super) left: u64,
    padding: u64,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// Description of one object in an archive.
#[derive(Debug)]
pub struct Member {
    /// Relative name without `..`.
    pub name: PathBuf,
    /// Kind of the object.
    pub kind: Kind,
    pub(super) attributes: Attributes,
}

/// Kinds of objects that are unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File {
        /// Size of a file with holes.
        sparse: Option<u64>,
    },
    /// Directory.
    Directory,
    /// Symlink with its target.
    Symlink(PathBuf),
    /// Hard link to an earlier member.
    Link(PathBuf),
    /// Fifo.
    Fifo,
}

/// Headers that precede a member and describe it.
#[derive(Debug, Default)]
struct PendingHeaders {
    path: Option<OsString>,
    link: Option<OsString>,
    text: Vec<u8>,
}

impl<'r> Reader<'r> {
    /// Reads an archive from a stream.
    pub fn new(from: impl Read + 'r) -> Self {
        Self {
            from: Box::new(from),
            left: 0,
            padding: 0,
        }
    }

    /// Returns the next member and skips unread content of the last one; `None` at the end.
    ///
    /// # Errors
    /// If the archive cannot be read, is damaged, or has a member that is never unpacked: a device, or a
    /// name that leads out.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        let mut records = PendingHeaders::default();
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.entry_size();
            self.expect(size.map_err(|_| ArchiveError::Damaged("a size"))?)?;
            // The crate may add kinds; they are refused.
            #[allow(clippy::wildcard_enum_match_arm)]
            match header.entry_type() {
                EntryType::XHeader => records.text = self.content(LONGEST)?,
                EntryType::GNULongName => records.path = Some(self.long_name()?),
                EntryType::GNULongLink => records.link = Some(self.long_name()?),
                // Applies to all members, but has nothing of interest here.
                EntryType::XGlobalHeader => {}
                kind => return self.member(&header, kind, &records).map(Some),
            }
        }
    }

    /// Returns the content of the member that was read last.
    ///
    /// # Errors
    /// If it is longer than `most`, or the archive cannot be read.
    pub fn content(&mut self, most: u64) -> Result<Vec<u8>> {
        if self.left > most {
            return Err(ArchiveError::Damaged("something short is long"));
        }
        let mut content = Vec::new();
        let length = (&mut self.from)
            .take(self.left)
            .read_to_end(&mut content)
            .map_err(reading)?;
        if (length as u64) < self.left {
            return Err(ArchiveError::Truncated);
        }
        self.left = 0;
        Ok(content)
    }

    fn long_name(&mut self) -> Result<OsString> {
        let mut name = self.content(LONGEST)?;
        name.truncate(
            name.iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len()),
        );
        Ok(OsString::from_vec(name))
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        i64::try_from(size).map_err(|_| ArchiveError::Damaged("a size"))?;
        self.left = size;
        self.padding = padding(size);
        Ok(())
    }

    fn pass_over(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        let passed =
            io::copy(&mut (&mut self.from).take(rest), &mut io::sink()).map_err(reading)?;
        self.expect(0)?;
        if passed < rest {
            return Err(ArchiveError::Truncated);
        }
        Ok(())
    }

    /// Returns the next header; `None` at a block of zeros or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        match self.from.read(&mut block[..1]).map_err(reading)? {
            0 => return Ok(None),
            _ => self.from.read_exact(&mut block[1..]).map_err(reading)?,
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        // The checksum field itself counts as spaces.
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(ArchiveError::Damaged("a checksum"));
        }
        Ok(Some(header))
    }

    fn member(
        &mut self,
        header: &Header,
        kind: EntryType,
        records: &PendingHeaders,
    ) -> Result<Member> {
        let damaged = ArchiveError::Damaged;
        let list = List::parse(&records.text).ok_or(damaged("a record"))?;
        let number = |key: &str| list.number(key).ok_or(damaged("a number"));
        let text = |key: &str| {
            list.get(key)
                .map(|value| OsStr::from_bytes(value).to_owned())
        };
        let long = |own: &Option<OsString>, key: &str| text(key).or_else(|| own.clone());
        let path = text("GNU.sparse.name").or_else(|| long(&records.path, "path"));
        let path = path.unwrap_or_else(|| OsString::from_vec(header.path_bytes().into_owned()));
        let link = long(&records.link, "linkpath").or_else(|| {
            header
                .link_name_bytes()
                .map(|bytes| OsString::from_vec(bytes.into_owned()))
        });
        let shown = PathBuf::from(&path);
        let refused = |reason| ArchiveError::Refused {
            name: shown.clone(),
            reason,
        };
        let name = relative(Path::new(&path)).ok_or_else(|| refused("leads out of the tree"))?;
        if let Some(size) = number("size")? {
            self.expect(size)?;
        }
        let link = || link.clone().map(PathBuf::from).ok_or(damaged("a link"));
        // See above.
        #[allow(clippy::wildcard_enum_match_arm)]
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => Kind::File {
                sparse: sparse_size(&list, &refused)?,
            },
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()?),
            EntryType::Link => Kind::Link(
                relative(&link()?).ok_or_else(|| refused("links to what is out of the tree"))?,
            ),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Block | EntryType::Char => return Err(refused("is a device")),
            EntryType::GNUSparse => {
                return Err(refused(
                    "is sparse in an old format; make the archive with 'tar --format=posix'",
                ));
            }
            _ => return Err(refused("is of an unknown kind")),
        };
        let attributes = attributes(header, &list)?;
        Ok(Member {
            name,
            kind,
            attributes,
        })
    }
}

/// Returns the attributes of a member; records take precedence over its header.
fn attributes(header: &Header, list: &List<'_>) -> Result<Attributes> {
    let damaged = ArchiveError::Damaged;
    let id = |key: &str, own: io::Result<u64>| -> Result<u32> {
        let id = match list.number(key).ok_or(damaged("a number"))? {
            Some(id) => id,
            None => own.map_err(|_| damaged("an owner"))?,
        };
        // The greatest id means "no change" to chown(2).
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or(damaged("an owner"))
    };
    let modified = match list.get("mtime") {
        Some(text) => pax::time(text),
        None => header
            .mtime()
            .ok()
            .and_then(|time| Some((time.try_into().ok()?, 0))),
    };
    let (seconds, nanoseconds) = modified.ok_or(damaged("a time"))?;
    let modified = TimeSpec::new(seconds, nanoseconds);
    let mode = header.mode().map_err(|_| damaged("a mode"))?;
    Ok(Attributes {
        uid: Uid::from_raw(id("uid", header.uid())?),
        gid: Gid::from_raw(id("gid", header.gid())?),
        mode: Mode::from_bits_truncate(mode & 0o7777),
        accessed: modified,
        modified,
        extended: extended(list),
    })
}

/// Returns the size of a file with holes.
fn sparse_size(
    list: &List<'_>,
    refused: &dyn Fn(&'static str) -> ArchiveError,
) -> Result<Option<u64>> {
    if list.below("GNU.sparse.").next().is_none() {
        return Ok(None);
    }
    if list.get("GNU.sparse.major") != Some(b"1") {
        return Err(refused(
            "is sparse in an old format; make the archive with 'tar --sparse-version=1.0'",
        ));
    }
    let size = list.number("GNU.sparse.realsize").flatten();
    let size = size.filter(|size| i64::try_from(*size).is_ok());
    size.map(Some).ok_or(ArchiveError::Damaged("a size"))
}

fn extended(list: &List<'_>) -> Vec<(OsString, Vec<u8>)> {
    let is_taken = |name: &OsStr| {
        ACCEPTED_XATTRS
            .iter()
            .any(|taken| match taken.ends_with('.') {
                true => name.as_bytes().starts_with(taken.as_bytes()),
                false => name == *taken,
            })
    };
    list.below(XATTR)
        .filter(|(name, _)| is_taken(name))
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

/// Normalizes a name; `None` if it is absolute, empty, or has `..` in it.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let is_name = !names.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0);
    is_name.then_some(names)
}

pub(super) fn reading(error: io::Error) -> ArchiveError {
    if error.kind() == ErrorKind::UnexpectedEof {
        return ArchiveError::Truncated;
    }
    ArchiveError::Read(error)
}
