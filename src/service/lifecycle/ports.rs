//! Published ports of a sandbox.
//!
//! They are opened before the sandbox starts, so that a port in use is an error before anything has started; early clients
//! wait in the kernel's queue. The process of the host's unit forwards them, or without a unit a process of
//! its own, which holds [`LOCK`].

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use guest_init::sys::poll;
use nix::sys::signal::Signal;

use crate::config::network::publish::Protocol;
use crate::config::{Publish, SandboxConfig};
use crate::driver::{Entrance, Guest};
use crate::error::{Error, Result};
use crate::ports::forward::{self, Destination, Outcome, Port};
use crate::ports::listening::Listener;
use crate::service::sandbox::Sandbox;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::process::command;
use crate::sys::process::cpu_quota::CpuQuota;
use crate::sys::process::pidfd::Process;

/// Name of the lock of the forwarding process, in the sandbox's directory.
const LOCK: &str = "ports";

/// Time that the process may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Subcommand that forwards the ports.
const SERVE: &str = "forward";

/// Open ports of a sandbox.
#[derive(Debug)]
pub struct Ports {
    ports: Vec<Port>,
    /// Time without a connection after which the sandbox stops.
    idle: Option<Duration>,
    /// Memory limit of the sandbox, in bytes.
    memory: u64,
    quota: Arc<CpuQuota>,
}

impl Ports {
    /// Forwards the ports until the sandbox ends, `stop` returns true, or the idle time has passed.
    ///
    /// # Errors
    /// The kernel refuses.
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

impl Sandbox<'_> {
    /// Opens the published ports, except those of `given`, which are open already.
    ///
    /// # Errors
    /// A port is in use, or a given descriptor is not a listening socket.
    pub(in crate::service) fn open_ports(&self, given: &[RawFd]) -> Result<Ports> {
        let config = self.config();
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
                None => listen(publish).map_err(|error| self.taken_port(publish, &error))?,
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
            memory: self.driver()?.memory(&config.resources).get(),
            quota: Arc::new(self.cpu_quota()),
            // Only stop if something still listens to start it again.
            idle: config
                .idle_stop
                .filter(|_| !given.is_empty())
                .map(|seconds| Duration::from_secs(seconds.into())),
        })
    }

    /// Returns the CPU time that forwarding may take: as much as the sandbox, also once `set` has changed that.
    fn cpu_quota(&self) -> CpuQuota {
        let path = self.store().config(self.name());
        let before = self.config().resources.cpu_percent();
        CpuQuota::new(move || {
            SandboxConfig::load(&path).map_or(before, |config| config.resources.cpu_percent())
        })
    }

    /// Returns the error for a port that cannot be opened, with its present user.
    fn taken_port(&self, publish: &Publish, error: &io::Error) -> Error {
        let others = self.store().names().unwrap_or_default();
        let publisher = others
            .iter()
            .filter(|name| *name != self.name())
            .find(|name| {
                let other = self.store().load(name);
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
            self.name()
        ))
    }

    /// Hands ports to a process of its own, which forwards them until the sandbox ends.
    ///
    /// # Errors
    /// The process does not begin.
    pub(in crate::service) fn leave_ports(&self, ports: &Ports) -> Result<()> {
        if ports.ports.is_empty() {
            return Ok(());
        }
        let name = self.name();
        let log = self.stage().join("ports.log");
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
        let server = child.id();
        let is_served = || self.port_server() == Some(server);
        poll::until(PATIENCE, Duration::from_millis(5), || {
            is_served() || matches!(child.try_wait(), Ok(Some(_)))
        });
        if is_served() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(Error::not_ready(format!(
            "the ports of '{name}' are not served: {}",
            said.trim()
        )))
    }

    /// Forwards the ports that were handed to this process, until the sandbox ends.
    ///
    /// # Errors
    /// The ports cannot be forwarded.
    pub fn serve_ports(&mut self, given: &[RawFd]) -> Result<()> {
        // Leave the terminal of the parent process.
        let _ = nix::unistd::setsid();
        let path = self.store().dir(self.name()).join(LOCK);
        let _lock = Lock::acquire(&path, Sharing::Exclusive, |_| {})?;
        let mut ports = self.open_ports(given)?;
        ports.idle = None;
        self.wait(&ports).map(drop)
    }

    /// Returns the forwarding process, if it is one of its own.
    fn port_server(&self) -> Option<u32> {
        let path = self.store().dir(self.name()).join(LOCK);
        if !path.exists() {
            return None;
        }
        Lock::try_acquire(&path, Sharing::Shared)
            .ok()?
            .err()?
            .holder
    }

    /// Ends the forwarding process, if there is one.
    pub(in crate::service) fn release_ports(&self) {
        let opened = self
            .port_server()
            .and_then(|pid| Some((pid, Process::open(pid).ok()?)));
        let Some((pid, process)) = opened else {
            return;
        };
        // The file still has the PID of the previous process between lock and write.
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0).skip(1);
        if words.next() != Some(SERVE.as_bytes())
            || words.next() != Some(self.name().as_str().as_bytes())
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

/// Returns true if a socket listening at `address` matches `publish`.
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
}
