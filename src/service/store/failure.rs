//! Note with the reason why a sandbox has failed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::Store;
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::sys::file::atomic;

impl Store {
    /// Notes why a sandbox has failed; the note is removed by its next start or rename.
    pub fn note_failure(&self, name: &SandboxName, text: &str) {
        let path = self.failure(name);
        match atomic::write(&path, text.as_bytes(), 0o600) {
            Err(error) if self.config(name).exists() => {
                log::warn!("noting that '{name}' has failed: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Returns why a stopped sandbox has failed. libvirt may have started it since: then guest-init's log is newer than the note.
    pub(in crate::service) fn noted_failure(&self, name: &SandboxName) -> Option<String> {
        let path = self.failure(name);
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        if changed(&self.init_log(name)) > changed(&path) {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    /// Removes the note of a failure, before a start or after a rename.
    pub(in crate::service) fn forget_failure(&self, name: &SandboxName) -> Result<()> {
        let path = self.failure(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io("removing", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
