//! Connections to libvirt: the URI that the user names, or the default of this host and user.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::driver::{Driver, Qemu};
use crate::error::{Error, ErrorKind, Result};
use crate::host::daemons;
use crate::hypervisor::libvirt::Libvirt;

/// A libvirt connection whose driver is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// URI, as libvirt takes it.
    pub uri: String,
    /// Driver that the URI names.
    pub driver: Driver,
}

/// URI of libvirt's containers.
pub const CONTAINERS: &str = "lxc:///";

/// URI of root's virtual machines.
const MACHINES: &str = "qemu:///system";

/// URI of a driver in this process whose directory is that of the sandbox.
pub(crate) const EMBEDDED: &str = "qemu:///embed";

/// Facts that the default connection depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `$LIBVIRT_DEFAULT_URI`.
    pub default_uri: Option<String>,
    /// Whether this process is root's.
    pub is_root: bool,
    /// Whether a daemon of the system listens.
    pub has_system_daemon: bool,
    /// Whether libvirt can start a daemon of the user's.
    pub has_session_daemon: bool,
}

impl Connection {
    /// Chooses the connection that `asked` names, else `$LIBVIRT_DEFAULT_URI`, else the default of this host and user.
    ///
    /// # Errors
    /// Where it is of another host, of a driver that runs no sandboxes, or not for this user; the message says which is.
    pub fn choose(asked: Option<&str>, environment: &Environment) -> Result<Self> {
        let default = environment
            .default_uri
            .as_deref()
            .filter(|uri| !uri.is_empty());
        match asked.or(default) {
            Some(uri) => {
                let connection = Self::parse(uri)?;
                connection.check(environment)?;
                Ok(connection)
            }
            None if environment.is_root && environment.has_system_daemon => Self::parse(CONTAINERS),
            None if !environment.is_root && environment.has_session_daemon => {
                Self::parse("qemu:///session")
            }
            None => Self::parse(EMBEDDED),
        }
    }

    /// Returns the connection that replaces the default one, if that is of containers and libvirt has no driver for them.
    #[must_use]
    pub fn substitute(&self) -> Option<Self> {
        let has_no_driver = |error: Error| error.kind() == ErrorKind::Unsupported;
        let is_missing =
            self.driver == Driver::Lxc && Libvirt::open(&self.uri).is_err_and(has_no_driver);
        is_missing.then(|| Self {
            uri: MACHINES.to_owned(),
            driver: Driver::Qemu(Qemu::System),
        })
    }

    /// Parses the URI of a connection of this host.
    ///
    /// # Errors
    /// Where it is of another host, or of a driver that runs no sandboxes.
    pub fn parse(uri: &str) -> Result<Self> {
        let refused = |why: &str| Err(Error::refused(format!("'{uri}' {why}")));
        let Some((scheme, rest)) = uri.split_once("://") else {
            return refused(
                "is not a libvirt connection; use lxc:///, qemu:///system, qemu:///session or qemu:///embed",
            );
        };
        let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, ""));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.split('?').next().unwrap_or_default();
        if !["lxc", "qemu"].contains(&driver) {
            return refused(
                "is of a driver that runs no sandboxes; use lxc:///, qemu:///system, qemu:///session or \
                 qemu:///embed",
            );
        }
        let is_local = host.is_empty() && ["", "unix"].contains(&transport);
        if !is_local {
            return refused(
                "is another host, but a sandbox is made of the files of the host that runs it; run the command there",
            );
        }
        let driver = match (driver, path) {
            ("lxc", "" | "system") => Driver::Lxc,
            ("qemu", "system") => Driver::Qemu(Qemu::System),
            ("qemu", "session") => Driver::Qemu(Qemu::Session),
            ("qemu", "embed") if root(uri).is_none_or(|root| root.is_absolute()) => {
                Driver::Qemu(Qemu::Embedded)
            }
            ("qemu", "embed") => {
                return refused(
                    "does not say where the driver keeps its files: use qemu:///embed?root=DIR with an absolute DIR, or \
                     qemu:///embed",
                );
            }
            ("lxc", _) => return refused("is no connection of libvirt's containers; use lxc:///"),
            _ => {
                return refused(
                    "is no connection of libvirt's virtual machines; use qemu:///system, qemu:///session or \
                     qemu:///embed",
                );
            }
        };
        Ok(Self {
            uri: uri.to_owned(),
            driver,
        })
    }

    fn check(&self, environment: &Environment) -> Result<()> {
        let refused = |why: String| Err(Error::refused(format!("'{}' {why}", self.uri)));
        match (self.driver, environment.is_root) {
            (Driver::Lxc, false) => refused(
                "runs containers, which takes root; use sudo, or -c qemu:///session for a virtual machine".to_owned(),
            ),
            (Driver::Qemu(Qemu::System), false) => refused(
                "is for root; use sudo, or -c qemu:///session, where virtual machines are your own".to_owned(),
            ),
            (Driver::Qemu(Qemu::Session), true) => refused(
                "is for ordinary users; root uses lxc:/// or qemu:///system".to_owned(),
            ),
            (Driver::Lxc | Driver::Qemu(Qemu::System), true)
            | (Driver::Qemu(Qemu::Session), false)
            | (Driver::Qemu(Qemu::Embedded), _) => Ok(()),
        }
    }
}

/// Returns the directory that the URI of an embedded driver names.
pub(crate) fn root(uri: &str) -> Option<PathBuf> {
    let (_, query) = uri.split_once('?')?;
    let mut fields = query.split('&');
    let text = fields.find_map(|field| field.strip_prefix("root="))?;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    Some(std::ffi::OsString::from_vec(bytes).into())
}

impl Environment {
    /// Returns whether neither `asked` nor the environment names a connection.
    #[must_use]
    pub fn is_free(&self, asked: Option<&str>) -> bool {
        asked.is_none() && self.default_uri.as_deref().is_none_or(str::is_empty)
    }

    /// Reads the environment of this process.
    #[must_use]
    pub fn of_process(is_root: bool) -> Self {
        let root = Path::new("/");
        let mut daemons = ["libvirtd", "virtlxcd", "virtqemud"].into_iter();
        let mut programs = ["libvirtd", "virtqemud"].into_iter();
        Self {
            default_uri: std::env::var("LIBVIRT_DEFAULT_URI").ok(),
            is_root,
            has_system_daemon: daemons.any(|daemon| daemons::listens(root, daemon)),
            // libvirt starts one if none runs.
            has_session_daemon: programs.any(|daemon| daemons::is_installed(root, daemon)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(is_root: bool) -> Environment {
        Environment {
            default_uri: None,
            is_root,
            has_system_daemon: true,
            has_session_daemon: true,
        }
    }

    #[test]
    fn connections_of_this_host_are_parsed() {
        for (uri, driver) in [
            ("lxc:///", Driver::Lxc),
            ("lxc:///system", Driver::Lxc),
            ("lxc+unix:///system?socket=/run/x", Driver::Lxc),
            ("qemu:///system", Driver::Qemu(Qemu::System)),
            (
                "qemu+unix:///session?socket=/x",
                Driver::Qemu(Qemu::Session),
            ),
            ("qemu:///embed?root=/x", Driver::Qemu(Qemu::Embedded)),
            ("qemu:///embed", Driver::Qemu(Qemu::Embedded)),
        ] {
            assert_eq!(Connection::parse(uri).unwrap().driver, driver, "{uri}");
        }
    }

    #[test]
    fn other_connections_are_refused_with_those_to_use() {
        for (uri, expected) in [
            ("lxc+ssh://far/", "another host"),
            ("lxc://far/", "another host"),
            ("qemu+tls:///system", "another host"),
            ("xen:///", "runs no sandboxes"),
            ("test:///default", "runs no sandboxes"),
            ("lxc", "is not a libvirt connection"),
            ("", "is not a libvirt connection"),
            ("qemu:///", "no connection of libvirt's virtual machines"),
            ("qemu:///embed?root=x", "root=DIR"),
        ] {
            let message = Connection::parse(uri).unwrap_err().to_string();
            assert!(message.contains(expected), "{uri}: {message}");
        }
    }

    #[test]
    fn each_user_has_connections_of_their_own() {
        let choose = |uri, is_root| Connection::choose(uri, &environment(is_root));
        assert!(choose(Some("lxc:///"), true).is_ok());
        assert!(choose(Some("lxc:///"), false).is_err());
        assert!(choose(Some("qemu:///system"), false).is_err());
        assert!(choose(Some("qemu:///session"), true).is_err());
        assert!(choose(Some("qemu:///embed?root=/x"), false).is_ok());
        assert_eq!(choose(None, true).unwrap().uri, "lxc:///");
        assert_eq!(choose(None, false).unwrap().uri, "qemu:///session");
        let without_daemon = Environment {
            has_system_daemon: false,
            ..environment(true)
        };
        let chosen = Connection::choose(None, &without_daemon).unwrap();
        assert_eq!(chosen.uri, "qemu:///embed");
    }
}
