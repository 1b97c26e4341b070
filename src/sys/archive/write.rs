//! Writes an archive.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::{ArchiveError, BLOCK, Left, Result, XATTR, padding, pax, sparse};
use crate::sys::copy::Omission;
use crate::sys::copy::attributes::Attributes;
use crate::sys::copy::data::{extents, state};
use crate::sys::root::{Object, Root, WalkEntry};

/// Bytes of a name that fit into a header; a longer one needs a record.
const NAME: usize = 100;
/// Smallest number that does not fit into the octal digits of a header.
const LARGE: u64 = 1 << 33;
const LARGE_ID: u64 = 1 << 21;
/// Bytes that are copied between two interruption checks.
const CHUNK: u64 = 1 << 22;

/// Archive that is being written.
pub struct Writer<'w> {
    to: &'w mut dyn Write,
    interrupted: &'w dyn Fn() -> bool,
    /// First name of a file with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

impl<'w> Writer<'w> {
    /// Writes an archive to a stream; fails if `interrupted` returns true.
    pub fn new(to: &'w mut dyn Write, interrupted: &'w dyn Fn() -> bool) -> Self {
        Self {
            to,
            interrupted,
            links: HashMap::new(),
        }
    }

    /// Adds a file that is not from a tree.
    pub fn document(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let header = plain(EntryType::Regular);
        let size = content.len() as u64;
        self.head(header, Path::new(name), size, &[])?;
        self.bytes(content)?;
        self.fill(size)
    }

    /// Adds an object that a walk through `root` has found (of a directory, none of its entries) under
    /// `name`.
    ///
    /// # Errors
    /// If the object cannot be read, is written to meanwhile, or the archive cannot be written.
    pub fn object(&mut self, root: &Root, found: &WalkEntry, name: &Path) -> Result<Left> {
        let WalkEntry {
            path,
            object,
            metadata,
        } = found;
        let failed = |source| ArchiveError::Archive {
            path: root.host_path(path),
            source,
        };
        let kind = metadata.file_type();
        let is_linked = !kind.is_dir() && metadata.nlink() > 1;
        let identity = (metadata.dev(), metadata.ino());
        let first = self.links.get(&identity).filter(|_| is_linked).cloned();
        let attributes = Attributes::read(object, metadata).map_err(failed)?;
        let mut header = header(metadata);
        let mut records = records(&attributes);
        if let Some(first) = first {
            header.set_entry_type(EntryType::Link);
            link_to(&mut header, &mut records, first.as_os_str());
            self.head(header, name, 0, &records)?;
            return Ok(None);
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            self.file(object, header, records, name, &failed)?
                .map_err(|()| ArchiveError::Changed {
                    path: root.host_path(path),
                })?;
        } else if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.head(header, &name.join(""), 0, &records)?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            link_to(&mut header, &mut records, object.read_link()?.as_os_str());
            self.head(header, name, 0, &records)?;
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            self.head(header, name, 0, &records)?;
        } else if kind.is_socket() {
            return Ok(Some(Omission::Socket));
        } else if kind.is_block_device() {
            return Ok(Some(Omission::BlockDevice));
        } else {
            return Ok(Some(Omission::CharDevice));
        }
        if is_linked {
            self.links.insert(identity, name.to_owned());
        }
        Ok(None)
    }

    /// Writes the end of the archive.
    pub fn finish(self) -> Result<()> {
        self.to
            .write_all(&[0; 2 * BLOCK as usize])
            .and_then(|()| self.to.flush())
            .map_err(ArchiveError::Write)
    }

    /// Adds a file; the inner error says that it was written to meanwhile.
    fn file(
        &mut self,
        object: &Object,
        header: Header,
        mut records: Vec<u8>,
        name: &Path,
        failed: &dyn Fn(io::Error) -> ArchiveError,
    ) -> Result<std::result::Result<(), ()>> {
        let file = object.open()?;
        let before = file.metadata().map_err(failed)?;
        let size = before.len();
        let extents = extents(&file, size).map_err(failed)?;
        let data: u64 = extents.iter().map(|extent| extent.end - extent.start).sum();
        let map = if data == size {
            vec![]
        } else {
            let mut push =
                |key: &str, value: &[u8]| pax::push(&mut records, OsStr::new(key), value);
            push("GNU.sparse.major", b"1");
            push("GNU.sparse.minor", b"0");
            push("GNU.sparse.name", name.as_os_str().as_bytes());
            push("GNU.sparse.realsize", size.to_string().as_bytes());
            sparse::map(&extents, size)
        };
        let length = map.len() as u64 + data;
        self.head(header, name, length, &records)?;
        self.bytes(&map)?;
        for extent in extents {
            if !self.extent(&file, extent, failed)? {
                return Ok(Err(()));
            }
        }
        self.fill(length)?;
        let after = file.metadata().map_err(failed)?;
        Ok(if state(&after) == state(&before) {
            Ok(())
        } else {
            Err(())
        })
    }

    /// Adds a range of a file; `false` if the file became shorter.
    fn extent(
        &mut self,
        mut file: &File,
        extent: Range<u64>,
        failed: &dyn Fn(io::Error) -> ArchiveError,
    ) -> Result<bool> {
        file.seek(SeekFrom::Start(extent.start)).map_err(failed)?;
        let mut left = extent.end - extent.start;
        while left > 0 {
            if (self.interrupted)() {
                return Err(ArchiveError::Interrupted);
            }
            let some = left.min(CHUNK);
            let copied = io::copy(&mut Read::take(file, some), self.to);
            if copied.map_err(ArchiveError::Write)? < some {
                return Ok(false);
            }
            left -= some;
        }
        Ok(true)
    }

    /// Writes the headers of a member.
    fn head(&mut self, header: Header, name: &Path, size: u64, records: &[u8]) -> Result<()> {
        let mut records = records.to_vec();
        let bytes = name.as_os_str().as_bytes();
        if bytes.len() > NAME {
            pax::push(&mut records, OsStr::new("path"), bytes);
        }
        if size >= LARGE {
            pax::push(
                &mut records,
                OsStr::new("size"),
                size.to_string().as_bytes(),
            );
        }
        if !records.is_empty() {
            let extension = plain(EntryType::XHeader);
            let length = records.len() as u64;
            self.header(extension, b"virt-sandbox/pax", length)?;
            self.bytes(&records)?;
            self.fill(length)?;
        }
        self.header(header, &bytes[..bytes.len().min(NAME)], size)
    }

    fn header(&mut self, mut header: Header, name: &[u8], size: u64) -> Result<()> {
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(size);
        header.set_cksum();
        self.bytes(header.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(ArchiveError::Write)
    }

    fn fill(&mut self, size: u64) -> Result<()> {
        let zeros = [0; BLOCK as usize];
        self.bytes(&zeros[..padding(size) as usize])
    }
}

/// Returns a header for a file that is not from a tree.
fn plain(kind: EntryType) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(metadata.mtime().try_into().unwrap_or(0));
    header
}

/// Returns the records for attributes that do not fit into a header.
fn records(attributes: &Attributes) -> Vec<u8> {
    let mut records = Vec::new();
    for (key, id) in [
        ("uid", attributes.uid.as_raw()),
        ("gid", attributes.gid.as_raw()),
    ] {
        if u64::from(id) >= LARGE_ID {
            pax::push(&mut records, OsStr::new(key), id.to_string().as_bytes());
        }
    }
    let modified = attributes.modified;
    if modified.tv_nsec() != 0 || modified.tv_sec() < 0 {
        let text = pax::time_text(modified.tv_sec(), modified.tv_nsec());
        pax::push(&mut records, OsStr::new("mtime"), text.as_bytes());
    }
    for (name, value) in &attributes.extended {
        let mut key = OsString::from(XATTR);
        key.push(name);
        pax::push(&mut records, &key, value);
    }
    records
}

fn link_to(header: &mut Header, records: &mut Vec<u8>, target: &OsStr) {
    let bytes = target.as_bytes();
    if bytes.len() > NAME {
        pax::push(records, OsStr::new("linkpath"), bytes);
    }
    let short = &bytes[..bytes.len().min(NAME)];
    header.as_old_mut().linkname[..short.len()].copy_from_slice(short);
}
