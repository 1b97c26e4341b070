//! Files that a disk image names beside itself.
//!
//! QEMU opens what an image names with its own rights, so an untrusted image could read and write any file of
//! the host. This module reads a few bounded pieces of the header and never opens anything: a name is only
//! shown. An image whose header is not understood counts as one that names files.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// File that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    role: &'static str,
    /// Name as the image has it; empty if it was not found.
    name: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => f.write_str(self.role),
            name => write!(f, "{} '{name}'", self.role),
        }
    }
}

/// Longest name that QEMU accepts (`PATH_MAX` of its `bdrv_open()`; 1023 bytes in qcow2).
const LONGEST_NAME: usize = 4096;

/// Bytes in which the extensions of a qcow2 header have to end: the first cluster, usually 64 KiB. No name is
/// searched beyond.
const EXTENSIONS: usize = 1 << 16;

/// Offset and length of the descriptor that QEMU reads in a binary VMDK (`vmdk_parent_open()` of its
/// block/vmdk.c).
const DESCRIPTOR: (u64, usize) = (0x200, 20 * 512);

/// Opens the image at `path`.
///
/// # Errors
/// If it is not a regular file, or cannot be opened.
pub fn open(path: &Path, read_only: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        // Opening a fifo or device must not block.
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Finds the first file that an image of QEMU's `format` names.
///
/// # Errors
/// If the image cannot be read, or the format is unknown.
pub fn find(image: &File, format: &str) -> io::Result<Option<Reference>> {
    find_in(&|offset, length| read(image, offset, length), format)
}

/// Reads up to `length` bytes from an offset; fewer at the end.
type Read<'a> = dyn Fn(u64, usize) -> io::Result<Vec<u8>> + 'a;

fn read(image: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match image.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn find_in(read: &Read<'_>, format: &str) -> io::Result<Option<Reference>> {
    match format {
        "qcow" | "qcow2" => qcow(read),
        "qed" => qed(read),
        "vmdk" => vmdk(read),
        // QEMU's drivers for these open nothing but the image. A VHD may name a parent, which QEMU
        // ignores.
        "raw" | "vdi" | "vpc" | "bochs" | "cloop" | "dmg" | "parallels" => Ok(None),
        _ => Err(io::Error::other(format!(
            "what images of the format '{format}' name is not known"
        ))),
    }
}

/// Parses qcow and qcow2, which begin alike (QEMU's docs/interop/qcow2.txt, block/qcow.c).
fn qcow(read: &Read<'_>) -> io::Result<Option<Reference>> {
    const DATA_FILE: u64 = 1 << 2;
    const DATA_FILE_NAME: u32 = 0x4441_5441;
    let header = read(0, EXTENSIONS)?;
    let Some(offset) = big64(&header, 8) else {
        return Ok(None);
    };
    if offset != 0 {
        let length = big32(&header, 16).unwrap_or(0);
        return named("its backing file", read, offset, length).map(Some);
    }
    // Version 2 has extensions at the offset of the features.
    let has_features = big32(&header, 4).is_some_and(|version| version >= 3);
    let features = big64(&header, 72).unwrap_or(0);
    if !has_features || features & DATA_FILE == 0 {
        return Ok(None);
    }
    let mut at = big32(&header, 100).unwrap_or(0) as usize;
    let mut name = String::new();
    while let (Some(kind @ 1..), Some(length)) = (big32(&header, at), big32(&header, at + 4)) {
        let (begin, length) = (at + 8, length as usize);
        if kind == DATA_FILE_NAME {
            let end = begin.saturating_add(length.min(LONGEST_NAME));
            name = text(header.get(begin..end).unwrap_or_default());
            break;
        }
        at = begin.saturating_add(length.next_multiple_of(8));
    }
    let role = "its data file";
    Ok(Some(Reference { role, name }))
}

/// Parses QED (QEMU's docs/interop/qed_spec.txt).
fn qed(read: &Read<'_>) -> io::Result<Option<Reference>> {
    const BACKING_FILE: u64 = 1;
    let header = read(0, 64)?;
    let features = little64(&header, 16).unwrap_or(0);
    if features & BACKING_FILE == 0 {
        return Ok(None);
    }
    let offset = little32(&header, 56).unwrap_or(0);
    let length = little32(&header, 60).unwrap_or(0);
    named("its backing file", read, u64::from(offset), length).map(Some)
}

/// Parses VMDK: one file, or a descriptor, which is a text with the names of the files of the disk.
fn vmdk(read: &Read<'_>) -> io::Result<Option<Reference>> {
    let header = read(0, 512)?;
    let is_sparse = header.starts_with(b"KDMV");
    // Without a capacity it is a descriptor as well, behind a binary header.
    let is_described = is_sparse
        && little64(&header, 12).unwrap_or(0) == 0
        && little64(&header, 28).unwrap_or(0) != 0;
    let (begin, length) = DESCRIPTOR;
    if (!is_sparse && !header.starts_with(b"COWD")) || is_described {
        let begin = if is_described { begin } else { 0 };
        let descriptor = read(begin, length)?;
        let role = "the file of an extent";
        let name = extent(&descriptor);
        return Ok(Some(Reference { role, name }));
    }
    let descriptor = read(begin, length)?;
    let key = b"parentFileNameHint";
    let Some(at) = descriptor.windows(key.len()).position(|word| word == key) else {
        return Ok(None);
    };
    let name = quoted(&descriptor[at..]);
    let role = "its parent";
    Ok(Some(Reference { role, name }))
}

/// Returns the first name in a line like `RW 2048 FLAT "name" 0`.
fn extent(descriptor: &[u8]) -> String {
    let lines = descriptor.split(|byte| *byte == b'\n');
    let mut extents = lines.filter(|line| line.starts_with(b"RW "));
    extents.next().map(quoted).unwrap_or_default()
}

fn quoted(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == b'"').nth(1);
    text(name.unwrap_or_default())
}

fn named(role: &'static str, read: &Read<'_>, offset: u64, length: u32) -> io::Result<Reference> {
    let name = read(offset, LONGEST_NAME.min(length as usize))?;
    let name = text(&name);
    Ok(Reference { role, name })
}

fn text(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).escape_debug().to_string()
}

fn bytes<const N: usize>(header: &[u8], at: usize) -> Option<[u8; N]> {
    header.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn big32(header: &[u8], at: usize) -> Option<u32> {
    bytes(header, at).map(u32::from_be_bytes)
}

fn big64(header: &[u8], at: usize) -> Option<u64> {
    bytes(header, at).map(u64::from_be_bytes)
}

fn little32(header: &[u8], at: usize) -> Option<u32> {
    bytes(header, at).map(u32::from_le_bytes)
}

fn little64(header: &[u8], at: usize) -> Option<u64> {
    bytes(header, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
