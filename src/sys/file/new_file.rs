//! New files that appear under their name once they are complete, and never replace another file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;
use tempfile::NamedTempFile;

use crate::sys::path::proc_path;

/// New file that is still being written. Dropping it without [`commit`](Self::commit) removes it. On
/// filesystems with `O_TMPFILE` it also disappears if the process is killed.
#[derive(Debug)]
pub struct NewFile {
    file: Kind,
    path: PathBuf,
}

#[derive(Debug)]
enum Kind {
    Unnamed(File),
    Named(NamedTempFile),
}

impl NewFile {
    /// Begins a file, readable by its owner only, that will appear at `path`.
    ///
    /// # Errors
    /// If something exists at `path`, or its directory cannot be written to.
    pub fn new(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let unnamed = OpenOptions::new()
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(directory);
        // Not every filesystem supports this (open(2), O_TMPFILE).
        let file = match unnamed {
            Ok(file) => Kind::Unnamed(file),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                return Err(error);
            }
            Err(_) => Kind::Named(NamedTempFile::new_in(directory)?),
        };
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Returns the file to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        match &self.file {
            Kind::Unnamed(file) => file,
            Kind::Named(file) => file.as_file(),
        }
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// If something exists under that name by now, or the file cannot be written to disk.
    pub fn commit(self) -> io::Result<()> {
        self.file().sync_all()?;
        match self.file {
            Kind::Unnamed(file) => {
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                Ok(linkat(
                    AT_FDCWD,
                    &proc_path(&file),
                    AT_FDCWD,
                    &self.path,
                    follow,
                )?)
            }
            Kind::Named(file) => match file.persist_noclobber(&self.path) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_there_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let is_empty = || fs::read_dir(dir.path()).unwrap().next().is_none();
        let begun = NewFile::new(&path).unwrap();
        begun.file().write_all(b"half").unwrap();
        drop(begun);
        assert!(is_empty());
        let begun = NewFile::new(&path).unwrap();
        begun.file().write_all(b"whole").unwrap();
        begun.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(NewFile::new(&path).is_err());
        // The message does not mention the temporary name.
        let error = NewFile::new(&dir.path().join("none/a")).unwrap_err();
        assert!(!error.to_string().contains("tmp"), "{error}");
    }
}
