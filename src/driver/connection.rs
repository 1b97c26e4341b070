//! Which hypervisor runs a sandbox: the URI that is asked for, or what can run here.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::domain::qemu::Authority;
use crate::error::{Error, Result};

/// A libvirt connection whose driver is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// As libvirt takes it.
    pub uri: String,
    /// The driver behind it.
    pub driver: Driver,
}

/// A driver in this process whose directory is that of the sandbox.
pub(crate) const EMBEDDED: &str = "qemu:///embed";

/// A driver of libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Containers.
    Lxc,
    /// Virtual machines of root's daemon, whose QEMU is a user of its own.
    QemuSystem,
    /// Virtual machines of the user's daemon.
    QemuSession,
    /// Virtual machines, with libvirt's driver in this process.
    QemuEmbedded,
}

/// What the choice of a connection depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// `$LIBVIRT_DEFAULT_URI`.
    pub default_uri: Option<String>,
    /// Whether we are root.
    pub is_root: bool,
    /// Whether a daemon of the system answers for containers.
    pub has_system_daemon: bool,
    /// Whether a daemon of the user's can be had.
    pub has_session_daemon: bool,
}

impl Connection {
    /// The one that `asked` names, else the environment's, else what can run here.
    ///
    /// # Errors
    /// Where it is of another host, of a driver that we do not know, or not for this user; the message says what is.
    pub fn choose(asked: Option<&str>, around: &Surroundings) -> Result<Self> {
        let default = around.default_uri.as_deref().filter(|uri| !uri.is_empty());
        match asked.or(default) {
            Some(uri) => {
                let connection = Self::parse(uri)?;
                connection.check(around)?;
                Ok(connection)
            }
            None if around.is_root && around.has_system_daemon => Self::parse("lxc:///"),
            None if !around.is_root && around.has_session_daemon => Self::parse("qemu:///session"),
            None => Self::parse(EMBEDDED),
        }
    }

    /// Reads a connection of this host.
    ///
    /// # Errors
    /// Where it is of another host, or of a driver that we do not know.
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
            ("qemu", "system") => Driver::QemuSystem,
            ("qemu", "session") => Driver::QemuSession,
            ("qemu", "embed") if root(uri).is_none_or(|root| root.is_absolute()) => {
                Driver::QemuEmbedded
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

    fn check(&self, around: &Surroundings) -> Result<()> {
        let refused = |why: String| Err(Error::refused(format!("'{}' {why}", self.uri)));
        match (self.driver, around.is_root) {
            (Driver::Lxc, false) => refused(
                "runs containers, which takes root; use sudo, or -c qemu:///session for a virtual machine".to_owned(),
            ),
            (Driver::QemuSystem, false) => refused(
                "is for root; use sudo, or -c qemu:///session, where virtual machines are your own".to_owned(),
            ),
            (Driver::QemuSession, true) => refused(
                "is for ordinary users; root uses lxc:/// or qemu:///system".to_owned(),
            ),
            (Driver::Lxc | Driver::QemuSystem, true)
            | (Driver::QemuSession, false)
            | (Driver::QemuEmbedded, _) => Ok(()),
        }
    }
}

impl Driver {
    /// Who libvirt's driver runs as.
    #[must_use]
    pub fn authority(self) -> Authority {
        match self {
            Self::Lxc | Self::QemuSystem => Authority::Root,
            Self::QemuSession => Authority::User,
            Self::QemuEmbedded if nix::unistd::geteuid().is_root() => Authority::Root,
            Self::QemuEmbedded => Authority::User,
        }
    }
}

/// The directory that the URI of an embedded driver names.
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

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process(is_root: bool) -> Self {
        let exists = |path: &Path| fs::metadata(path).is_ok();
        let sockets = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtlxcd-sock"];
        let programs = ["/usr/sbin/libvirtd", "/usr/sbin/virtqemud"];
        Self {
            default_uri: std::env::var("LIBVIRT_DEFAULT_URI").ok(),
            is_root,
            has_system_daemon: sockets.iter().any(|socket| exists(Path::new(socket))),
            // libvirt starts one where none runs.
            has_session_daemon: programs.iter().any(|program| exists(Path::new(program))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(is_root: bool) -> Surroundings {
        Surroundings {
            default_uri: None,
            is_root,
            has_system_daemon: true,
            has_session_daemon: true,
        }
    }

    #[test]
    fn connections_of_this_host_are_known() {
        for (uri, driver) in [
            ("lxc:///", Driver::Lxc),
            ("lxc:///system", Driver::Lxc),
            ("lxc+unix:///system?socket=/run/x", Driver::Lxc),
            ("qemu:///system", Driver::QemuSystem),
            ("qemu+unix:///session?socket=/x", Driver::QemuSession),
            ("qemu:///embed?root=/x", Driver::QemuEmbedded),
            ("qemu:///embed", Driver::QemuEmbedded),
        ] {
            assert_eq!(Connection::parse(uri).unwrap().driver, driver, "{uri}");
        }
    }

    #[test]
    fn others_are_refused_with_the_way_out() {
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
        let choose = |uri, is_root| Connection::choose(uri, &around(is_root));
        assert!(choose(Some("lxc:///"), true).is_ok());
        assert!(choose(Some("lxc:///"), false).is_err());
        assert!(choose(Some("qemu:///system"), false).is_err());
        assert!(choose(Some("qemu:///session"), true).is_err());
        assert!(choose(Some("qemu:///embed?root=/x"), false).is_ok());
        assert_eq!(choose(None, true).unwrap().uri, "lxc:///");
        assert_eq!(choose(None, false).unwrap().uri, "qemu:///session");
        let without_daemon = Surroundings {
            has_system_daemon: false,
            ..around(true)
        };
        let chosen = Connection::choose(None, &without_daemon).unwrap();
        assert_eq!(chosen.uri, "qemu:///embed");
    }
}
