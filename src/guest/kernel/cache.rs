//! Cache of files that are made from others. The name of a file tells its sources; unused files are removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::sys::file::{atomic, private};

/// Version of the cached files: it changes when this program makes other files of the same sources.
const FORMAT: &str = "1";

/// Age of files that another start may still be about to open.
const IN_USE: Duration = Duration::from_secs(60 * 60);
/// Age after which an unused file is removed.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60 * 24 * 30);

/// One file of the cache.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    directory: &'a Path,
    /// Name without the sources; a file replaces others of the same slot.
    slot: String,
    /// Hash of the sources.
    key: String,
}

impl<'a> Entry<'a> {
    /// Returns the entry of `slot` in `directory` that is made from the files `sources`. Their contents are not read.
    pub(super) fn new(directory: &'a Path, slot: String, sources: &[&Path]) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        for source in sources {
            let metadata = fs::metadata(source).map_err(Error::io("reading", source))?;
            hash.update(source.as_os_str().as_encoded_bytes());
            hash.update([0]);
            for number in [
                metadata.ino(),
                metadata.size(),
                metadata.mtime().cast_unsigned(),
                metadata.mtime_nsec().cast_unsigned(),
            ] {
                hash.update(number.to_le_bytes());
            }
        }
        let digest = hash.finalize();
        let key = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            directory,
            slot,
            key,
        })
    }

    /// Returns the file, made by `make` if there is none. A file that another user could have put there is made anew: every guest would
    /// boot from it. Files that it replaces are removed.
    ///
    /// # Errors
    /// Where `make` fails, or the cache is another user's or cannot be written; nothing is left then.
    pub(super) fn get(&self, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<PathBuf> {
        let path = self.directory.join(format!("{}-{}", self.slot, self.key));
        if self.directory.exists() {
            self.claim_directory()?;
            if private::has_own_file(&path) {
                note_use(&path);
                return Ok(path);
            }
        }
        let content = make()?;
        self.claim_directory()?;
        atomic::write_unsynced(&path, &content, 0o600)?;
        self.prune(SystemTime::now());
        Ok(path)
    }

    fn claim_directory(&self) -> Result<()> {
        private::directory(self.directory, 0o700)
            .map_err(Error::io("taking the cache", self.directory))
    }

    /// Removes the files that this entry replaces, and old ones. A failure is no reason not to start.
    fn prune(&self, now: SystemTime) {
        let entries = fs::read_dir(self.directory);
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map(|modified| now.duration_since(modified).unwrap_or_default());
            if let (Some(name), Ok(age)) = (name.to_str(), age)
                && self.replaces(name, age)
                && let Err(error) = fs::remove_file(entry.path())
            {
                log::debug!("removing '{}': {error}", entry.path().display());
            }
        }
    }

    /// Returns whether a file of this name, last used `age` ago, can be removed.
    fn replaces(&self, name: &str, age: Duration) -> bool {
        let left_by_a_killed_writer = name.starts_with('.');
        let same_slot = name
            .rsplit_once('-')
            .is_some_and(|(slot, key)| slot == self.slot && key != self.key);
        age > FORGOTTEN || (age > IN_USE && (same_slot || left_by_a_killed_writer))
    }
}

/// Sets the modification time of a file to now, as the time of its last use. If that fails, the file is made anew sooner.
fn note_use(path: &Path) {
    let now = TimeSpec::UTIME_NOW;
    let _ = utimensat(AT_FDCWD, path, &now, &now, UtimensatFlags::NoFollowSymlink);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use nix::unistd::geteuid;

    use super::*;
    use crate::guest::kernel::tests::write;

    struct Place {
        dir: tempfile::TempDir,
        source: PathBuf,
        cache: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        write(&source, b"one");
        Place {
            cache: dir.path().join("a/cache"),
            source,
            dir,
        }
    }

    impl Place {
        fn entry(&self, slot: &str) -> Entry<'_> {
            Entry::new(&self.cache, slot.into(), &[&self.source]).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.cache)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    fn age(path: &Path, age: Duration) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn a_cached_file_is_made_once_and_private() {
        let place = place();
        let path = place
            .entry("kernel-1")
            .get(|| Ok(b"made".to_vec()))
            .unwrap();
        age(&path, IN_USE * 2);
        let again = place
            .entry("kernel-1")
            .get(|| panic!("made again"))
            .unwrap();
        assert_eq!(again, path);
        assert_eq!(fs::read(&path).unwrap(), b"made");
        let used = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(used.elapsed().unwrap_or_default() < IN_USE);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&place.cache), 0o700);
    }

    #[test]
    fn a_cached_file_that_others_can_change_is_made_anew() {
        let place = place();
        let get = |content: &'static [u8]| place.entry("kernel-1").get(|| Ok(content.to_vec()));
        let path = get(b"made").unwrap();
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::write(&path, "changed").unwrap();
        set_mode(&path, 0o660);
        get(b"anew").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"anew");
        let elsewhere = place.dir.path().join("elsewhere");
        write(&elsewhere, b"somebody's");
        fs::remove_file(&path).unwrap();
        symlink(&elsewhere, &path).unwrap();
        get(b"no link").unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"somebody's");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        if geteuid().is_root() {
            // As libvirt gives it to QEMU.
            chown(&path, Some(1), Some(1)).unwrap();
            get(b"ours").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"ours");
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
        }
        set_mode(&place.cache, 0o777);
        let error = anyhow::Error::from(get(b"no").unwrap_err());
        let message = format!("{error:#}");
        assert!(message.contains("others can write to it"), "{message}");
    }

    #[test]
    fn a_changed_source_is_another_entry_and_the_old_one_goes_when_it_is_not_in_use() {
        let place = place();
        let first = place.entry("kernel-1").get(|| Ok(vec![1])).unwrap();
        let other = place.entry("kernel-1-rt").get(|| Ok(vec![1])).unwrap();
        fs::write(&place.source, b"two!").unwrap();
        let second = place.entry("kernel-1").get(|| Ok(vec![2])).unwrap();
        assert_ne!(first, second);
        assert!(first.exists());
        age(&first, IN_USE * 2);
        age(&other, IN_USE * 2);
        fs::write(&place.source, b"three").unwrap();
        let third = place.entry("kernel-1").get(|| Ok(vec![3])).unwrap();
        assert!(!first.exists() && other.exists() && second.exists() && third.exists());
    }

    #[test]
    fn old_and_half_written_files_are_removed() {
        let place = place();
        for (name, old) in [
            ("kernel-0-aa", FORGOTTEN),
            (".virt-sandbox.1.1.tmp", IN_USE),
        ] {
            write(&place.cache.join(name), b"");
            age(&place.cache.join(name), old * 2);
        }
        write(&place.cache.join(".virt-sandbox.2.1.tmp"), b"");
        place.entry("kernel-1").get(|| Ok(vec![1])).unwrap();
        let names = place.names();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0], ".virt-sandbox.2.1.tmp");
    }

    #[test]
    fn a_failure_leaves_nothing_in_the_cache() {
        let place = place();
        let failed = place.entry("kernel-1").get(|| Err(Error::refused("no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert!(!place.cache.exists());
        write(&place.dir.path().join("a"), b"a file");
        let error = place.entry("kernel-1").get(|| Ok(vec![])).unwrap_err();
        assert!(error.to_string().contains("cache"), "{error}");
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        let place = place();
        let missing = place.dir.path().join("missing");
        let error = Entry::new(&place.cache, "kernel-1".into(), &[&missing]).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
