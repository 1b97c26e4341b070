//! The ports of a sandbox that the host answers on.
//!
//! They are opened before the sandbox is started, so that one that is taken is an error and nothing was started; who comes
//! early waits in the kernel's queue. The process that the host's unit runs serves them, or where there is none a process of
//! their own, which holds [`LOCK`].

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::network::publish::Protocol;
use crate::config::{Publish, SandboxConfig, SandboxName};
use crate::driver::{Entrance, Guest};
use crate::error::{Error, Result};
use crate::ports::forward::{self, Destination, Outcome, Port};
use crate::ports::listening::Listener;
use crate::service::sandboxes::Sandboxes;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::process::command;
use crate::sys::process::cpu_quota::CpuQuota;
use crate::sys::process::pidfd::Process;

/// What the process that serves ports holds, in the sandbox's directory.
const LOCK: &str = "ports";

/// How long that process may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The command that serves them.
const SERVE: &str = "forward";

/// Ports of a sandbox, open.
#[derive(Debug)]
pub struct Ports {
    ports: Vec<Port>,
    /// How long nobody may come before the sandbox is stopped.
    idle: Option<Duration>,
    /// Bytes of memory that the sandbox may use.
    memory: u64,
    quota: Arc<CpuQuota>,
}

impl Ports {
    /// Serves them until the sandbox ends, `stop` says so, or nobody comes for long.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(in crate::service) fn serve(
        &self,
        inside: &dyn Guest,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Outcome> {
        let reach = loop {
            match inside.entrance() {
                Ok(reach) => break reach,
                Err(_) if !inside.is_alive() => return Ok(Outcome::Gone),
                Err(_) if stop() => return Ok(Outcome::Stopped),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        };
        let addresses = || inside.addresses();
        let carry;
        let reach = match reach {
            Entrance::Network(namespace) => forward::Reach::Network {
                namespace,
                addresses: &addresses,
            },
            Entrance::Tunnel(connector) => {
                carry = move |kind, port| connector.connect(kind, port, &self.quota);
                forward::Reach::Connector(&carry)
            }
        };
        let place = Destination {
            reach,
            is_there: &|| inside.is_alive(),
            memory: self.memory,
            cpu: &self.quota,
        };
        forward::serve(&self.ports, &place, self.idle, stop)
    }
}

impl Sandboxes {
    /// Opens the ports that a sandbox publishes, but for those that are open already: the descriptors of `given`.
    ///
    /// # Errors
    /// Where a port is taken, or what is given is no socket that listens.
    pub(in crate::service) fn open_ports(
        &self,
        config: &SandboxConfig,
        given: &[RawFd],
    ) -> Result<Ports> {
        let mut open = Vec::new();
        for descriptor in given {
            let listening = Listener::from_inherited(*descriptor)
                .and_then(|listener| Ok((listener.address()?, listener)));
            let (address, listener) =
                listening.map_err(Error::step("taking over a socket from the service manager"))?;
            open.push((address, listener));
        }
        let mut ports = Vec::new();
        for publish in &config.publish {
            let found = open
                .iter()
                .position(|(address, listener)| is_of(publish, *address, listener));
            let listener = match found {
                Some(index) => open.swap_remove(index).1,
                None => listen(publish).map_err(|error| self.taken(config, publish, &error))?,
            };
            ports.push(Port {
                listener,
                target: publish.guest.get(),
            });
        }
        for (address, _) in open {
            log::warn!(
                "'{}' publishes nothing at {address}, which its unit listens at: restart {}",
                config.name,
                config.name.socket()
            );
        }
        Ok(Ports {
            ports,
            memory: self.driver(config)?.memory(&config.resources).get(),
            quota: Arc::new(self.cpu_quota(config)),
            // Somebody has to listen on to start it again.
            idle: config
                .idle_stop
                .filter(|_| !given.is_empty())
                .map(|seconds| Duration::from_secs(seconds.into())),
        })
    }

    /// CPU time that forwarding may take: as much as the sandbox, also once `set` has changed that.
    fn cpu_quota(&self, config: &SandboxConfig) -> CpuQuota {
        let (path, before) = (
            self.store.config(&config.name),
            config.resources.cpu_percent(),
        );
        CpuQuota::new(move || {
            SandboxConfig::load(&path).map_or(before, |config| config.resources.cpu_percent())
        })
    }

    /// Says why a port cannot be opened, and whose it is.
    fn taken(&self, config: &SandboxConfig, publish: &Publish, error: &io::Error) -> Error {
        let others = self.store.names().unwrap_or_default();
        let publisher = others
            .iter()
            .filter(|name| **name != config.name)
            .find(|name| {
                let other = self.store.load(name);
                other.is_ok_and(|other| other.publish.iter().any(|other| other.collides(publish)))
            });
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        let (port, protocol) = (publish.host, publish.protocol.as_str());
        let reason = match publisher {
            Some(other) if is_taken => {
                format!("port {port}/{protocol} is in use; the sandbox '{other}' publishes it, too")
            }
            None if is_taken => format!(
                "port {port}/{protocol} is in use; 'ss -lnp --{protocol} sport = :{port}' shows by whom"
            ),
            Some(_) | None if error.kind() == io::ErrorKind::AddrNotAvailable => {
                "the address is none of this host".to_owned()
            }
            Some(_) | None => error.to_string(),
        };
        Error::refused(format!(
            "publishing '{publish}' of the sandbox '{}': {reason}",
            config.name
        ))
    }

    /// Leaves ports to a process of their own, which serves them until the sandbox ends.
    ///
    /// # Errors
    /// Where that process does not begin.
    pub(in crate::service) fn leave_ports(&self, name: &SandboxName, ports: &Ports) -> Result<()> {
        if ports.ports.is_empty() {
            return Ok(());
        }
        let log = self.store.stage(name).join("ports.log");
        let output = File::create(&log).map_err(Error::io("creating", &log))?;
        let sockets: Vec<BorrowedFd<'_>> = ports
            .ports
            .iter()
            .map(|port| port.listener.as_fd())
            .collect();
        let program = command::current_exe().map_err(Error::step("finding this program"))?;
        let mut child =
            command::spawn_detached(&program, &[SERVE, name.as_str()], &sockets, output)
                .map_err(Error::io("running", &program))?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.server(name) == Some(child.id()) {
                return Ok(());
            }
            if let Ok(Some(_)) = child.try_wait() {
                break;
            }
            sleep(Duration::from_millis(5));
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(Error::not_ready(format!(
            "the ports of '{name}' are not served: {}",
            said.trim()
        )))
    }

    /// Serves ports that were left to this process, until the sandbox ends.
    ///
    /// # Errors
    /// Where there is no such sandbox, or its ports cannot be served.
    pub fn serve_ports(
        &self,
        name: &SandboxName,
        given: &[RawFd],
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        // Who started us may have a terminal, which is none of our business.
        let _ = nix::unistd::setsid();
        let config = self.store.load(name)?;
        let path = self.store.dir(name).join(LOCK);
        let _lock = Lock::acquire(&path, Sharing::Exclusive, |_| {})?;
        let mut ports = self.open_ports(&config, given)?;
        ports.idle = None;
        self.wait(name, &ports, stop).map(drop)
    }

    /// The process that serves a sandbox's ports, where it is one of their own.
    fn server(&self, name: &SandboxName) -> Option<u32> {
        let path = self.store.dir(name).join(LOCK);
        if !path.exists() {
            return None;
        }
        Lock::try_acquire(&path, Sharing::Shared)
            .ok()?
            .err()?
            .holder
    }

    /// Ends the process that serves a sandbox's ports, where there is one.
    pub(in crate::service) fn release_ports(&self, name: &SandboxName) {
        let opened = self
            .server(name)
            .and_then(|pid| Some((pid, Process::open(pid).ok()?)));
        let Some((pid, process)) = opened else {
            return;
        };
        // Between taking the lock and writing its number into it the file has that of one before.
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0).skip(1);
        if words.next() != Some(SERVE.as_bytes()) || words.next() != Some(name.as_str().as_bytes())
        {
            return;
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if process.signal(signal).is_err() || process.wait(PATIENCE) {
                return;
            }
        }
    }
}

fn listen(publish: &Publish) -> io::Result<Listener> {
    match publish.protocol {
        Protocol::Tcp => Listener::stream(publish.address, publish.host.get()),
        Protocol::Udp => Listener::datagram(publish.address, publish.host.get()),
    }
}

/// Whether a socket that listens at `address` is what `publish` asks for.
fn is_of(publish: &Publish, address: SocketAddr, listener: &Listener) -> bool {
    let protocol = match listener {
        Listener::Stream(_) => Protocol::Tcp,
        Listener::Datagram(_) => Protocol::Udp,
    };
    let is_there = match publish.address {
        Some(wanted) => wanted == address.ip(),
        None => address.ip().is_unspecified(),
    };
    is_there && (publish.protocol, publish.host.get()) == (protocol, address.port())
}

/// Where systemd is to listen for a published port: `ListenStream=` of `systemd.socket(5)`.
pub(in crate::service) fn listening(publish: &Publish) -> (&'static str, String) {
    let setting = match publish.protocol {
        Protocol::Tcp => "ListenStream",
        Protocol::Udp => "ListenDatagram",
    };
    let place = match publish.address {
        None => publish.host.to_string(),
        // Alone it would stand for every address, also of the other kind.
        Some(address) => SocketAddr::new(address, publish.host.get()).to_string(),
    };
    (setting, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_apart_by_where_they_listen() {
        let loopback = Listener::stream(Some([127, 0, 0, 1].into()), 0).unwrap();
        let address = loopback.address().unwrap();
        let port = address.port();
        let is = |text: String| is_of(&text.parse().unwrap(), address, &loopback);
        assert!(is(format!("127.0.0.1:{port}:80")));
        assert!(!is(format!("{port}:80")));
        assert!(!is(format!("127.0.0.1:{port}:80/udp")));
        let all = Listener::stream(None, 0).unwrap();
        let address = all.address().unwrap();
        let publish = format!("{}:80", address.port()).parse().unwrap();
        assert!(is_of(&publish, address, &all));
    }

    #[test]
    fn systemd_listens_where_we_would() {
        for (text, setting, place) in [
            ("8080:80", "ListenStream", "8080"),
            ("127.0.0.1:53:53/udp", "ListenDatagram", "127.0.0.1:53"),
            ("[::1]:8080:80", "ListenStream", "[::1]:8080"),
        ] {
            let publish = text.parse().unwrap();
            assert_eq!(listening(&publish), (setting, place.to_owned()));
        }
    }
}
