//! The programs under test, where every user of the host can run them and every sandbox sees them.
//!
//! A checkout may be below a directory that only its owner can enter, or below one that a sandbox hides. So
//! `test-harness with-libvirtd` makes a directory in `/var/lib`, and each test copies what it runs there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Variable with the directory of the copies.
pub const DIRECTORY_VARIABLE: &str = "VIRT_SANDBOX_TEST_PROGRAMS";
/// Variable with the guest-init of programs that are not installed.
pub const GUEST_INIT_VARIABLE: &str = "VIRT_SANDBOX_GUEST_INIT";

/// The directory of the copies; removed on drop.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// Makes the directory. Not in `/run`, where many hosts let nothing be executed.
    ///
    /// # Errors
    /// There is no space, or the caller is not root.
    pub fn make() -> Result<Self> {
        tempfile::Builder::new()
            .prefix("virt-sandbox-test.")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in("/var/lib")
            .map(Self)
            .context("creating a directory in '/var/lib'")
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the environment that leads tests to the directory, and programs to a copy of the guest-init that the
    /// caller's environment names.
    ///
    /// # Errors
    /// The guest-init cannot be copied.
    pub fn environment(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let mut variables = vec![(DIRECTORY_VARIABLE, self.0.path().to_owned())];
        if let Some(init) = std::env::var_os(GUEST_INIT_VARIABLE) {
            let copy = stage_in(self.0.path(), Path::new(&init))?;
            variables.push((GUEST_INIT_VARIABLE, copy));
        }
        Ok(variables)
    }
}

/// Programs that the ones under test expect beside themselves.
const COMPANIONS: [&str; 2] = ["virt-sandbox-virtiofsd", "virt-sandbox-virtiofsd-file"];

/// Copies the program `built`, with what it expects beside itself, and returns the path of the copy; returns `built` itself
/// outside of `test-harness with-libvirtd`.
///
/// # Errors
/// The program is not built, or there is no space for a copy.
pub fn stage(built: &Path) -> Result<PathBuf> {
    match std::env::var_os(DIRECTORY_VARIABLE) {
        Some(directory) => {
            let beside = COMPANIONS.map(|name| built.with_file_name(name));
            for companion in beside.iter().filter(|path| path.exists()) {
                stage_in(Path::new(&directory), companion)?;
            }
            stage_in(Path::new(&directory), built)
        }
        None => Ok(built.to_owned()),
    }
}

/// Copies `built` into `directory` unless the copy there is as new.
fn stage_in(directory: &Path, built: &Path) -> Result<PathBuf> {
    let name = built.file_name().context("a program has a name")?;
    let copy = directory.join(name);
    let original = fs::metadata(built).with_context(|| format!("finding '{}'", built.display()))?;
    let is_current = fs::metadata(&copy).is_ok_and(|copy| {
        copy.len() == original.len() && copy.modified().ok() >= original.modified().ok()
    });
    if !is_current {
        // Beside and renamed: a copy that runs cannot be written to.
        let fresh = directory.join(format!(".{}", std::process::id()));
        fs::copy(built, &fresh)
            .and_then(|_| fs::set_permissions(&fresh, Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&fresh, &copy))
            .with_context(|| format!("copying '{}'", built.display()))?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_executable_for_all_and_follows_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("program");
        let copies = dir.path().join("copies");
        fs::create_dir(&copies).unwrap();
        for text in ["one", "longer"] {
            fs::write(&built, text).unwrap();
            fs::set_permissions(&built, Permissions::from_mode(0o700)).unwrap();
            let copy = stage_in(&copies, &built).unwrap();
            assert_eq!(fs::read_to_string(&copy).unwrap(), text);
            assert_eq!(
                fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
                0o755
            );
        }
        assert!(stage_in(&copies, &dir.path().join("missing")).is_err());
    }
}
