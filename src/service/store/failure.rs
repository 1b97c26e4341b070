//! The note of why a sandbox has failed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::Store;
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::sys::file::atomic;

impl Store {
    /// Notes why a sandbox has failed, until it is started again or gets another name.
    pub fn note_failure(&self, name: &SandboxName, text: &str) {
        let path = self.failure(name);
        match atomic::write(&path, text.as_bytes(), 0o600) {
            Err(error) if self.config(name).exists() => {
                log::warn!("noting that '{name}' has failed: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Returns why a sandbox has failed that does not run. Others may have started it since, by libvirt: its init has said something then.
    pub(in crate::service) fn noted_failure(&self, name: &SandboxName) -> Option<String> {
        let path = self.failure(name);
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        if changed(&self.init_log(name)) > changed(&path) {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    /// Removes the note of a failure: the sandbox is about to start, or has another name.
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
