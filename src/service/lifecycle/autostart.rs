//! Start of sandboxes at boot by the host's systemd.
//!
//! The links are those of `systemctl enable`, and are made without a running systemd too: in an image that is being built, or
//! a chroot.

use std::fs;
use std::io::ErrorKind;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::host;
use crate::service::host_unit;
use crate::service::sandbox::Sandbox;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Store;
use crate::sys::process::command;

/// Suffixes of directories with links to the dependencies of a unit.
const WANTS: [&str; 3] = [".wants", ".requires", ".upholds"];

impl Sandboxes {
    /// Enables the start of sandboxes at boot.
    ///
    /// # Errors
    /// A sandbox does not exist, or the host has no systemd.
    pub fn enable(&self, names: &[SandboxName]) -> Result<()> {
        for name in names {
            let sandbox = self.get(name)?.lock()?;
            if !host_unit::write(sandbox.config(), &self.store)? {
                return Err(Error::unsupported(format!(
                    "this host has no '{}' for systemd to read at boot; let the init system of the host run \
                     'virt-sandbox-service start {name}'",
                    self.store.units.display()
                )));
            }
        }
        links("enable", names)
    }

    /// Disables the start of sandboxes at boot.
    ///
    /// # Errors
    /// Errors of [`enable`](Self::enable).
    pub fn disable(&self, names: &[SandboxName]) -> Result<()> {
        for name in names {
            self.store.load(name)?;
        }
        let mut enabled = names.to_vec();
        enabled.retain(|name| self.store.is_enabled(name));
        if enabled.is_empty() {
            return Ok(());
        }
        links("disable", &enabled)
    }
}

impl Sandbox<'_> {
    /// Starts or stops the socket of a sandbox that starts on demand. Returns false for any other sandbox.
    pub fn listen(&self, wanted: bool) -> bool {
        let is_listened_for = self.config().on_demand && host::runs_systemd();
        if is_listened_for {
            let verb = if wanted { "start" } else { "stop" };
            host_unit::systemctl(&[verb, "--", &self.name().socket()]);
        }
        is_listened_for
    }
}

impl Store {
    /// Returns true if the host's systemd starts a sandbox at boot: another unit wants its service or its
    /// socket.
    #[must_use]
    pub fn is_enabled(&self, name: &SandboxName) -> bool {
        let units = [name.unit(), name.socket()];
        let entries = fs::read_dir(&self.units).into_iter().flatten().flatten();
        entries
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                WANTS.iter().any(|suffix| name.ends_with(suffix))
            })
            .any(|entry| {
                let is_there = |unit| entry.path().join(unit).symlink_metadata().is_ok();
                units.iter().any(is_there)
            })
    }
}

fn links(verb: &str, names: &[SandboxName]) -> Result<()> {
    let units: Vec<String> = names.iter().map(SandboxName::unit).collect();
    let arguments = [verb, "--"].into_iter();
    let shown = format!("systemctl {verb} {}", units.join(" "));
    match command::capture(
        "systemctl",
        arguments.chain(units.iter().map(String::as_str)),
    ) {
        Ok(done) if done.success => Ok(()),
        Ok(done) => Err(Error::refused(format!("{shown}: {}", done.stderr))),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::unsupported(format!(
            "{shown}: this host has no systemctl, so systemd cannot start a sandbox at boot; let the init system of the host run 'virt-sandbox-service start NAME'"
        ))),
        Err(error) => Err(Error::step(shown)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_wanted_is_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store {
            units: dir.path().to_owned(),
            ..Store::default()
        };
        let name: SandboxName = "web1".parse().unwrap();
        assert!(!store.is_enabled(&name));
        fs::create_dir(dir.path().join("web1_sandbox.service.d")).unwrap();
        let wants = dir.path().join("multi-user.target.wants");
        fs::create_dir(&wants).unwrap();
        symlink("nowhere", wants.join("web10_sandbox.service")).unwrap();
        assert!(!store.is_enabled(&name));
        // The link counts even if the unit is gone.
        symlink("nowhere", wants.join("web1_sandbox.service")).unwrap();
        assert!(store.is_enabled(&name));
        let sockets = dir.path().join("sockets.target.wants");
        fs::create_dir(&sockets).unwrap();
        symlink("nowhere", sockets.join("web2_sandbox.socket")).unwrap();
        assert!(store.is_enabled(&"web2".parse().unwrap()));
    }
}
