//! A sandbox that runs, whatever keeps it: commands run in it, connections are carried into it, and it is looked at.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use guest_init::channel::wire::Kind;
use guest_init::tunnel::Connection;

use crate::error::{Error, Result};
use crate::hypervisor::Limit;
use crate::sys::process::command::Captured;
use crate::sys::process::enter::ExecOptions;

/// How long a sandbox may take to answer a question of the host's: longer than a unit takes to reload (`DefaultTimeoutStartSec=`).
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// A running sandbox, to run commands in and to look at.
pub trait Inside: Debug + Send {
    /// Whether it is still there. This asks the kernel: the daemon may be restarted meanwhile.
    fn is_alive(&self) -> bool;

    /// Whether commands can be run in it by now: one that boots takes a moment. Waits for a tenth of a second at most.
    fn answers(&self) -> bool;

    /// Lets it bound what runs in it. It waits for that when it starts, for some seconds.
    fn share_controllers(&self) {}

    /// Runs a command of the sandbox, as its root and without standard input. `None` where it has not ended within `limit`: what
    /// runs there is the sandbox's, which may never let it end.
    ///
    /// # Errors
    /// Where the way in is barred; a command that fails is no error.
    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>>;

    /// As [`capture_within`](Self::capture_within), for what should have ended soon.
    ///
    /// # Errors
    /// Also where it has not.
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

    /// Runs a command of the sandbox with our standard streams, terminal and signals, and gives its exit status: 128+N for
    /// signal N, 127 and 126 for one that is missing or cannot be run. May take the place of this process.
    ///
    /// # Errors
    /// Where the way in is barred.
    fn execute(&self, how: &ExecOptions, command: &[String]) -> Result<u8>;

    /// Returns the addresses that the sandbox reports, without the loopback's and link-local ones; IPv4 first. A virtual machine
    /// reports what it likes: nothing of the host may connect to them.
    fn addresses(&self) -> Vec<IpAddr>;

    /// How connections get into it. Nothing that it says has a part in that.
    ///
    /// # Errors
    /// Where it is just ending, or has just begun.
    fn reach(&self) -> Result<Reach>;

    /// What only its own kernel tables tell of what it uses.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn activity(&self) -> Result<Activity>;

    /// Changes the number of processes and threads it may have.
    ///
    /// # Errors
    /// Says why that cannot be.
    fn limit_processes(&self, most: u64) -> Result<()>;

    /// Whether it can do with a limit that is about to be changed outside.
    ///
    /// # Errors
    /// Says why it cannot.
    fn bears(&self, limit: &Limit) -> Result<()> {
        let _ = limit;
        Ok(())
    }

    /// Does its part of a limit that was changed outside, and says why where it has not.
    ///
    /// # Errors
    /// Says why that cannot be.
    fn adapt(&self, limit: &Limit) -> Result<()> {
        let _ = limit;
        Ok(())
    }

    /// Has its files on the host be as it sees them: what its kernel holds back is written.
    ///
    /// # Errors
    /// Where it does not answer.
    fn settle(&self) -> Result<()>;

    /// After it was frozen: what it cannot know by itself, such as the time.
    ///
    /// # Errors
    /// Where it does not answer.
    fn wake(&self) -> Result<()>;
}

/// How connections get into a running sandbox.
#[derive(Debug)]
pub enum Reach {
    /// They are made in its network namespace, where its own addresses lead to itself.
    Network(File),
    /// They are carried over a channel, and made inside.
    Channel(Box<dyn Carrier>),
}

/// Carries connections into a running sandbox.
pub trait Carrier: Debug {
    /// A socket that leads to a port of the sandbox.
    ///
    /// # Errors
    /// Where no socket can be made. One that leads nowhere is reset.
    fn carry(&self, kind: Kind, port: u16) -> io::Result<Connection>;
}

/// What a sandbox is at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Activity {
    /// Bytes that its NICs received.
    pub net_received: u64,
    /// Bytes that its NICs sent.
    pub net_sent: u64,
    /// Processes and threads, if they are counted.
    pub processes: Option<u64>,
    /// Seconds since it started.
    pub uptime: f64,
}
