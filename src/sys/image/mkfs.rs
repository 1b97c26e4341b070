//! Creation of images and filesystems.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::sys::process::command;

/// Turns the empty file at `path` into an empty image of QEMU's `format` with `size` bytes.
///
/// # Errors
/// If it cannot be written, or the tool is not installed.
pub fn create_image(path: &Path, format: &str, size: u64) -> io::Result<()> {
    if format == "raw" {
        return OpenOptions::new().write(true).open(path)?.set_len(size);
    }
    run(
        "qemu-img",
        &["create", "-q", "-f", format, text(path)?, &size.to_string()],
    )
}

/// Makes a filesystem, `ext4` or `xfs`, with this UUID on a block device.
///
/// # Errors
/// If it cannot be made, or the tool is not installed.
pub fn make_filesystem(device: &Path, kind: &str, uuid: &str) -> io::Result<()> {
    let node = text(device)?;
    match kind {
        // No blocks reserved for root: all files in it are root's.
        "ext4" => run("mkfs.ext4", &["-q", "-m", "0", "-U", uuid, node]),
        "xfs" => run("mkfs.xfs", &["-q", "-m", &format!("uuid={uuid}"), node]),
        _ => Err(io::Error::other(format!(
            "'{kind}' is not a filesystem that is made here"
        ))),
    }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("'{}' is not UTF-8", path.display())))
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let done = command::capture(program, arguments.iter().copied());
    let done = done.map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return io::Error::other(format!("it takes {program}, which is not installed"));
        }
        error
    })?;
    match done.success {
        true => Ok(()),
        false => Err(io::Error::other(format!("{program}: {}", done.stderr))),
    }
}
