//! An ordinary user, with a libvirtd of their own at `qemu:///session`.
//!
//! The user is `games`: every Debian has this account, it owns nothing, and it may use neither the system's
//! libvirtd nor `/dev/kvm`. Its home and its runtime directory are below the private daemon's directory.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::User;

/// Name of the account.
pub const NAME: &str = "games";
/// Variable with the directory that contains the user's `home` and `run`.
pub const DIRECTORY_VARIABLE: &str = "VIRT_SANDBOX_TEST_USER";

/// Directories of the user, private to the test run.
#[derive(Debug, Clone)]
pub struct UserDirectory(PathBuf);

impl UserDirectory {
    /// Returns the directories that the environment names.
    ///
    /// # Errors
    ///
    /// The environment names none: the caller is not below `test-harness with-libvirtd`.
    pub fn from_environment() -> Result<Self> {
        let dir = std::env::var_os(DIRECTORY_VARIABLE)
            .with_context(|| format!("{DIRECTORY_VARIABLE} is not set"))?;
        Ok(Self(dir.into()))
    }

    /// Returns the directories for the private daemon whose directory is `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        Self(dir.join("user"))
    }

    /// Makes the directories, as a login would, with a copy of libvirt's cache of QEMU's capabilities.
    pub(crate) fn create(&self) -> Result<()> {
        let user = User::from_name(NAME)
            .context("reading the accounts")?
            .with_context(|| format!("there is no user '{NAME}'"))?;
        let known = self.home().join(".cache/libvirt/qemu/capabilities");
        fs::create_dir_all(&known).context("creating the user's home")?;
        fs::create_dir_all(self.runtime()).context("creating the user's runtime directory")?;
        // The cache is absent on a host where libvirt has not run yet.
        for entry in fs::read_dir("/var/cache/libvirt/qemu/capabilities")
            .into_iter()
            .flatten()
            .flatten()
        {
            fs::copy(entry.path(), known.join(entry.file_name()))
                .context("copying what is known of QEMU")?;
        }
        // A virtlogd would keep running for a while after the last guest.
        let configuration = self.home().join(".config/libvirt");
        fs::create_dir_all(&configuration)
            .and_then(|()| {
                fs::write(
                    configuration.join("qemu.conf"),
                    "stdio_handler = \"file\"\n",
                )
            })
            .context("writing the user's qemu.conf")?;
        own(&self.0, user.uid.as_raw(), user.gid.as_raw())?;
        for dir in [self.home(), self.runtime()] {
            fs::set_permissions(&dir, Permissions::from_mode(0o700))
                .with_context(|| format!("closing '{}'", dir.display()))?;
        }
        Ok(())
    }

    /// `$HOME`.
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// `$XDG_RUNTIME_DIR`.
    pub fn runtime(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Directory that contains both.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the URI of the user's daemon for use by root, whose `qemu:///session` is another one.
    pub fn uri(&self) -> String {
        format!(
            "qemu:///session?socket={}/libvirt/libvirt-sock",
            self.runtime().display()
        )
    }

    /// Returns a command that runs `program` as the user: with their rights, directories and libvirt, and the
    /// rest of the environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NAME, "--regid", NAME, "--init-groups", "--"])
            .arg(program)
            .env("HOME", self.home())
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("USER", NAME)
            .env("LOGNAME", NAME);
        for variable in [
            crate::libvirtd::URI_VARIABLE,
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_DATA_HOME",
            "XDG_STATE_HOME",
        ] {
            command.env_remove(variable);
        }
        command
    }
}

fn own(path: &Path, uid: u32, gid: u32) -> Result<()> {
    chown(path, Some(uid), Some(gid))
        .with_context(|| format!("changing the owner of '{}'", path.display()))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            own(&entry.path(), uid, gid)?;
        }
    }
    Ok(())
}
