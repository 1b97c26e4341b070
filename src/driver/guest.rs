//! A running sandbox: commands run in it, connections are made into it, and its kernel's tables are read. The same for every
//! driver.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use guest_init::channel::wire::Kind;
use guest_init::tunnel::Connection;

use crate::error::{Error, Result};
use crate::hypervisor::Limit;
use crate::sys::process::command::Captured;
use crate::sys::process::cpu_quota::CpuQuota;
use crate::sys::process::enter::ExecOptions;

/// Time that a sandbox may take to answer: longer than a unit takes to reload (`DefaultTimeoutStartSec=`).
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// Handle on a running sandbox.
pub trait Guest: Debug + Send {
    /// Returns whether it still runs. This asks the kernel: libvirt's daemon may be restarted meanwhile.
    fn is_alive(&self) -> bool;

    /// Returns whether commands can be run in it by now: one that boots takes a moment. Waits for a tenth of a second at most.
    fn answers(&self) -> bool;

    /// Gives it the cgroup controllers, with which it limits its units. It waits for them when it starts, for some seconds.
    fn share_controllers(&self) {}

    /// Runs a command of the sandbox, as its root and without standard input. Returns `None` if it has not ended within `limit`:
    /// the sandbox may never let it end. A command that fails is no error.
    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>>;

    /// Runs a command as [`capture_within`](Self::capture_within) does; one that does not end in two minutes is an error.
    fn capture(&self, command: &[&str]) -> Result<Captured> {
        let captured = self.capture_within(command, ANSWER)?;
        captured.ok_or_else(|| {
            Error::not_ready(format!(
                "'{}' has not ended in the sandbox within {} s; look what hangs there, or restart it",
                command.join(" "),
                ANSWER.as_secs()
            ))
        })
    }

    /// Runs a command of the sandbox with our standard streams, terminal and signals, and returns its exit status: 128+N for
    /// signal N, 127 and 126 for one that is missing or cannot be run. May replace this process.
    fn execute(&self, how: &ExecOptions, command: &[String]) -> Result<u8>;

    /// Returns the addresses that the sandbox reports, without the loopback's and link-local ones; IPv4 first. A virtual machine
    /// reports what it likes: nothing of the host may connect to them.
    fn addresses(&self) -> Vec<IpAddr>;

    /// Returns how connections get into it, which nothing in the sandbox has a say in. Fails while it boots and once it has ended.
    fn entrance(&self) -> Result<Entrance>;

    /// Returns its usage, as far as only its own kernel's tables have it.
    fn usage(&self) -> Result<GuestUsage>;

    /// Returns the files of the host that its processes have mapped, and that are not at their paths any more: programs and
    /// libraries of before an upgrade of the host. Ends within `limit`: root inside decides how much there is to look at.
    fn replaced_files(&self, limit: Duration) -> Result<BTreeSet<PathBuf>>;

    /// Changes the number of processes and threads it may have.
    fn limit_processes(&self, most: u64) -> Result<()>;

    /// Returns an error if the running guest cannot apply a new limit.
    fn check_limit(&self, limit: &Limit) -> Result<()> {
        let _ = limit;
        Ok(())
    }

    /// Applies in the guest a limit that libvirt has changed outside.
    fn apply_limit(&self, limit: &Limit) -> Result<()> {
        let _ = limit;
        Ok(())
    }

    /// Writes what its kernel holds in memory to its files on the host.
    fn sync(&self) -> Result<()>;

    /// Sets its clock after it was frozen.
    fn set_clock(&self) -> Result<()>;
}

/// Entrance of connections into a running sandbox.
#[derive(Debug)]
pub enum Entrance {
    /// The network namespace, where the sandbox's own addresses lead to itself.
    Network(File),
    /// A channel, which carries connections that the guest makes.
    Tunnel(Box<dyn Connector>),
}

/// Connects to ports of a running sandbox.
pub trait Connector: Debug {
    /// Returns a socket that leads to a port of the sandbox. A connection that the sandbox refuses is reset.
    fn connect(&self, kind: Kind, port: u16, quota: &Arc<CpuQuota>) -> io::Result<Connection>;
}

/// Usage of a sandbox, as its own kernel tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GuestUsage {
    /// Bytes that its NICs received.
    pub net_received: u64,
    /// Bytes that its NICs sent.
    pub net_sent: u64,
    /// Processes and threads, if they are counted.
    pub processes: Option<u64>,
    /// Seconds since it started.
    pub uptime: f64,
}
