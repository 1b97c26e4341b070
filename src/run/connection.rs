//! Connections whose driver may be in this process.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use uuid::Uuid;

use crate::config::SandboxName;
use crate::driver::connection::{Connection, EMBEDDED, root};
use crate::driver::{Driver, Qemu};
use crate::error::Result;
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::run::{Places, embedded, leftovers};

impl Connection {
    /// Returns the connection of the sandbox whose directory is `state`: a driver in this process keeps its files there, unless the
    /// user named another directory.
    #[must_use]
    pub fn within(&self, state: &Path) -> Self {
        match (self.driver, root(&self.uri)) {
            (Driver::Qemu(Qemu::Embedded), None) => Self {
                // A short name: the paths of sockets in it are long enough.
                uri: format!("{EMBEDDED}?root={}", escaped(&state.join("d"))),
                driver: self.driver,
            },
            (Driver::Qemu(Qemu::Embedded), Some(_))
            | (Driver::Lxc | Driver::Qemu(Qemu::System | Qemu::Session), _) => self.clone(),
        }
    }

    /// Connects, for the domain `name`. A driver in this process gets threads of its own, and its directory is made.
    pub fn open(&self, name: &SandboxName, state: &Path, places: &Places) -> Result<Libvirt> {
        match (self.driver, root(&self.uri)) {
            (Driver::Qemu(Qemu::Embedded), Some(root)) => {
                let cache = places.cache.join("libvirt");
                let cache = root.starts_with(state).then_some(cache.as_path());
                embedded::prepare(&root, name, cache)?;
                embedded::reap(&root);
                Libvirt::open_embedded(&self.uri)
            }
            (Driver::Qemu(Qemu::Embedded), None)
            | (Driver::Lxc | Driver::Qemu(Qemu::System | Qemu::Session), _) => {
                Libvirt::open(&self.uri)
            }
        }
    }

    /// Ends the domain `name` that a killed client has left.
    pub fn end(&self, name: &SandboxName, uuid: Uuid) -> Result<()> {
        match (self.driver, root(&self.uri)) {
            (Driver::Qemu(Qemu::Embedded), Some(root)) => embedded::end(&root, name.as_str()),
            // A domain without a directory has not run.
            (Driver::Qemu(Qemu::Embedded), None) => Ok(()),
            (Driver::Lxc | Driver::Qemu(Qemu::System | Qemu::Session), _) => {
                Libvirt::open(&self.uri)?.destroy_own(name.as_str(), uuid)
            }
        }
    }

    /// Removes what libvirt has left of the domain `name`, unless there is one of that name.
    pub fn remove_leftovers(&self, name: &SandboxName) -> Result<()> {
        if self.driver != Driver::Lxc {
            return Ok(());
        }
        if Libvirt::open(&self.uri)?.state(name.as_str())? == DomainState::Missing {
            leftovers::remove(&self.uri, name, true);
        }
        Ok(())
    }
}

/// Escapes a path for the query of a URI.
fn escaped(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes().iter();
    bytes
        .map(|byte| match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_driver_has_a_directory_of_its_own() {
        let within = |uri| {
            let connection = Connection::parse(uri).unwrap();
            connection.within(Path::new("/run/a b/x%y")).uri
        };
        let uri = within("qemu:///embed");
        assert_eq!(uri, "qemu:///embed?root=/run/a%20b/x%25y/d");
        assert_eq!(root(&uri), Some("/run/a b/x%y/d".into()));
        assert_eq!(within("qemu:///embed?root=/x"), "qemu:///embed?root=/x");
        assert_eq!(within("lxc:///"), "lxc:///");
    }
}
