//! Recorded state of a private tree, with which a later merge tells changes of the
//! host from changes of the sandbox.
//!
//! A manifest is a text file with one sorted line per object, which people can read and
//! compare:
//!
//! ```text
//! # virt-sandbox manifest 1
//! /etc/hosts      file     0644  0  0  220  9f86d0…
//! /etc/ssl        dir      0755  0  0
//! /etc/mtab       symlink  0777  0  0  ../proc/self/mounts
//! ```
//!
//! Columns are separated by one tab: path inside the root, kind, permission bits, uid, gid, and then
//! size and SHA-256, or the target. Bytes that are control characters, not UTF-8, or a backslash are
//! written `\xHH`. Times, ACLs and other extended attributes are not recorded. Upgrades merge two of them.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::sys::root::{Object, Root, RootError};

const HEADER: &str = "# virt-sandbox manifest 1";

/// Objects of a tree, by absolute path inside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: BTreeMap<PathBuf, Entry>,
}

/// Record of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The permission bits, with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Kind and content.
    pub kind: Kind,
}

/// Kind of a recorded object, with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Size in bytes, holes included.
        size: u64,
        /// Hash of the content, or of its first GiB if it is longer.
        sha256: [u8; 32],
    },
    /// A directory; its content has its own entries.
    Directory,
    /// A symlink.
    Symlink {
        /// Target, as written in the link.
        target: PathBuf,
    },
    /// A fifo.
    Fifo,
}

/// Difference of one path between two manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the newer one has it.
    Added(PathBuf),
    /// Only the older one has it.
    Removed(PathBuf),
    /// Kind, content or target differ; mode and owner may too.
    Content(PathBuf),
    /// Only mode or owner differ.
    Attributes(PathBuf),
}

impl Change {
    /// The path inside the root.
    pub fn path(&self) -> &Path {
        match self {
            Self::Added(path)
            | Self::Removed(path)
            | Self::Content(path)
            | Self::Attributes(path) => path,
        }
    }
}

/// Error while a tree is scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("hashing '{path}'")]
    Hash {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Error in the text of a manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    #[error("parsing a manifest: the first line is not '{HEADER}'")]
    Header,
    #[error("parsing a manifest: line {line}: {what}")]
    Line { line: usize, what: &'static str },
}

impl Manifest {
    /// Records all objects at and below the paths `below` inside `root`. Symbolic links are not followed;
    /// sockets, devices and objects that vanish meanwhile are not recorded.
    pub fn scan(root: &Path, below: &[&Path]) -> Result<Manifest, ScanError> {
        let root = Root::new(root)?;
        let mut manifest = Manifest::default();
        for found in below.iter().flat_map(|top| root.walk(top, |_| false)) {
            let found = found?;
            match Entry::read(&found.object, &found.path) {
                Ok(entry) => manifest
                    .entries
                    .extend(entry.map(|entry| (found.path, entry))),
                Err(ScanError::Root(error)) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(manifest)
    }

    /// Returns the entry of a path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Records or replaces an entry. `path` is absolute, as seen from inside.
    pub fn insert(&mut self, path: PathBuf, entry: Entry) {
        self.entries.insert(path, entry);
    }

    /// Removes an entry.
    pub fn remove(&mut self, path: &Path) -> Option<Entry> {
        self.entries.remove(path)
    }

    /// Iterates over all entries; parents come before their content.
    pub fn iter(&self) -> btree_map::Iter<'_, PathBuf, Entry> {
        self.entries.iter()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the changes from `self` to `newer`, sorted by path.
    pub fn diff(&self, newer: &Manifest) -> Vec<Change> {
        let mut changes = BTreeMap::new();
        for (path, old) in &self.entries {
            let change = match newer.get(path) {
                None => Change::Removed(path.clone()),
                Some(new) if new.kind != old.kind => Change::Content(path.clone()),
                Some(new) if new != old => Change::Attributes(path.clone()),
                Some(_) => continue,
            };
            changes.insert(path, change);
        }
        for path in newer.entries.keys() {
            if !self.entries.contains_key(path) {
                changes.insert(path, Change::Added(path.clone()));
            }
        }
        changes.into_values().collect()
    }
}

impl<'a> IntoIterator for &'a Manifest {
    type Item = (&'a PathBuf, &'a Entry);
    type IntoIter = btree_map::Iter<'a, PathBuf, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Entry {
    /// Reads the entry of an object; returns `None` for a kind that is not recorded. `path` is used in messages.
    pub fn read(object: &Object, path: &Path) -> Result<Option<Entry>, ScanError> {
        let metadata = object.metadata()?;
        let is = metadata.file_type();
        let kind = if is.is_file() {
            let mut file = object.open()?;
            let failed = |source| ScanError::Hash {
                path: path.to_owned(),
                source,
            };
            let (mut size, sha256) = hash(&mut (&mut file).take(HASHED)).map_err(failed)?;
            if size == HASHED {
                size = file.metadata().map_err(failed)?.len();
            }
            Kind::File { size, sha256 }
        } else if is.is_dir() {
            Kind::Directory
        } else if is.is_symlink() {
            Kind::Symlink {
                target: object.read_link()?,
            }
        } else if is.is_fifo() {
            Kind::Fifo
        } else {
            return Ok(None);
        };
        Ok(Some(Entry {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            kind,
        }))
    }

    /// Returns the record of the same file with another content.
    ///
    /// # Errors
    /// None in practice: a text in memory can be read.
    pub fn with_content(&self, mut content: &[u8]) -> io::Result<Self> {
        let (size, sha256) = hash(&mut content)?;
        Ok(Self {
            kind: Kind::File { size, sha256 },
            ..self.clone()
        })
    }
}

/// Maximum number of bytes that are hashed: with a sparse file, a sandbox could keep the host busy for ever.
const HASHED: u64 = 1 << 30;

/// Returns size and hash of the same content, by reading it once.
fn hash(from: &mut impl Read) -> io::Result<(u64, [u8; 32])> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((size, hasher.finalize().into())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        for (path, entry) in &self.entries {
            escape(f, path)?;
            let Entry {
                mode,
                uid,
                gid,
                kind,
            } = entry;
            write!(f, "\t{}\t{mode:04o}\t{uid}\t{gid}", kind.name())?;
            match kind {
                Kind::File { size, sha256 } => {
                    write!(f, "\t{size}\t")?;
                    for byte in sha256 {
                        write!(f, "{byte:02x}")?;
                    }
                }
                Kind::Symlink { target } => {
                    f.write_char('\t')?;
                    escape(f, target)?;
                }
                Kind::Directory | Kind::Fifo => {}
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Directory => "dir",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
        }
    }
}

impl FromStr for Manifest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Manifest, ParseError> {
        // `lines()` would hide a truncated last line.
        let mut lines = text.split_inclusive('\n').zip(1..);
        if lines.next().map(|(line, _)| line.trim_end_matches('\n')) != Some(HEADER) {
            return Err(ParseError::Header);
        }
        let mut manifest = Manifest::default();
        for (text, line) in lines {
            let fail = |what| ParseError::Line { line, what };
            let text = text.strip_suffix('\n').ok_or(fail("it is cut off"))?;
            let (path, entry) = parse_line(text).map_err(fail)?;
            if manifest.entries.insert(path, entry).is_some() {
                return Err(fail("the path is there twice"));
            }
        }
        Ok(manifest)
    }
}

fn parse_line(text: &str) -> Result<(PathBuf, Entry), &'static str> {
    let columns: Vec<&str> = text.split('\t').collect();
    let [path, kind, mode, uid, gid, content @ ..] = columns.as_slice() else {
        return Err("columns are missing");
    };
    let path = unescape(path).filter(|path| path.is_absolute());
    let kind = match (*kind, content) {
        ("file", [size, sha256]) => Kind::File {
            size: size.parse().map_err(|_| "the size is no number")?,
            sha256: parse_hash(sha256).ok_or("the hash is not 64 hex digits")?,
        },
        ("symlink", [target]) => Kind::Symlink {
            target: unescape(target).ok_or("the target has a bad escape")?,
        },
        ("dir", []) => Kind::Directory,
        ("fifo", []) => Kind::Fifo,
        _ => return Err("the kind is unknown or its columns are wrong"),
    };
    let mode = u32::from_str_radix(mode, 8).ok().filter(|&m| m <= 0o7777);
    let entry = Entry {
        mode: mode.ok_or("the mode is not an octal number up to 7777")?,
        uid: uid.parse().map_err(|_| "the uid is no number")?,
        gid: gid.parse().map_err(|_| "the gid is no number")?,
        kind,
    };
    Ok((
        path.ok_or("the path is not absolute or has a bad escape")?,
        entry,
    ))
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let pairs = text.as_bytes().chunks_exact(2);
    let bytes: Option<Vec<u8>> = pairs.map(hex_byte).collect();
    bytes?.try_into().ok().filter(|_| text.len() == 64)
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    // from_str_radix alone would accept a sign.
    let digits = std::str::from_utf8(digits).ok()?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| plain)
}

fn escape(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\\' || char.is_control() {
                let mut buffer = [0; 4];
                escape_bytes(f, char.encode_utf8(&mut buffer).as_bytes())?;
            } else {
                f.write_char(char)?;
            }
        }
        escape_bytes(f, chunk.invalid())?;
    }
    Ok(())
}

fn escape_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

fn unescape(text: &str) -> Option<PathBuf> {
    let mut pieces = text.split('\\');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let code = piece.strip_prefix('x')?.as_bytes();
        bytes.push(hex_byte(code.get(..2)?)?);
        bytes.extend(&code[2..]);
    }
    Some(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests;
