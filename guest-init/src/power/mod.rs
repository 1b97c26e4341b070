//! Requests of the host to shut down or to reboot: `virsh shutdown` and `virsh reboot`, libvirt-guests and other clients of libvirt.
//!
//! | sandbox | request of libvirt's driver | receiver |
//! |---|---|---|
//! | container with ids of its own | a signal to PID 1, since nobody reads the [initctl pipe](initctl) | PID 1, which [waits](crate::namespaces::userns::reap) for systemd |
//! | other container | the [initctl pipe](initctl), since systemd is PID 1 | a process beside systemd |
//! | virtual machine | the [power button](button) | the agent |
//!
//! The receiver passes the request on to systemd as a signal (systemd(1), "Signals").

pub mod button;
pub mod initctl;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread::sleep;
use std::time::{Duration, Instant};

use log::warn;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::{POWER_REQUEST, process};

/// Request of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Stop all units and power off.
    PowerOff,
    /// Stop all units and boot again.
    Reboot,
}

/// `SIGRTMIN` of glibc, which systemd is linked with; another libc keeps other signals for itself.
const SIGRTMIN: i32 = 34;

/// Time that systemd may take to begin to listen to signals.
const BEGIN: Duration = Duration::from_secs(10);

/// Socket of journald, for its native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";

impl PowerRequest {
    /// Returns the request that libvirt's LXC driver makes with a signal to PID 1 (`lxcDomainShutdownFlags()`,
    /// `lxcDomainReboot()`).
    #[must_use]
    pub fn of_signal(signal: Signal) -> Option<Self> {
        let requests = [
            (Signal::SIGTERM, Self::PowerOff),
            (Signal::SIGHUP, Self::Reboot),
        ];
        let mut requests = requests.into_iter();
        requests.find_map(|(asked, request)| (asked == signal).then_some(request))
    }

    /// Passes the request on to systemd, which is the process `systemd` here, and PID 1 of the `/proc` here. A note in the journal
    /// tells the host that the sandbox does not end by itself.
    pub fn pass_on(self, systemd: Pid) {
        let (signal, message) = match self {
            Self::PowerOff => (SIGRTMIN + 4, "The host asks the sandbox to shut down"),
            Self::Reboot => (SIGRTMIN + 5, "The host asks the sandbox to reboot"),
        };
        await_listener(signal);
        let entry = format!(
            "MESSAGE={message}\nMESSAGE_ID={POWER_REQUEST}\nPRIORITY=5\nSYSLOG_IDENTIFIER=guest-init\n"
        );
        let noted = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(entry.as_bytes(), JOURNAL).map(drop));
        if let Err(error) = noted {
            warn!("{message}, which cannot be noted: {error}");
        }
        if let Err(error) = process::send_signal(systemd, signal) {
            warn!("{message}, which systemd is not told: {error}");
        }
    }
}

/// Waits until PID 1 blocks `signal`, to read it from a signalfd(2) as systemd does. Before, the signal would be lost.
fn await_listener(signal: i32) {
    let begin = Instant::now();
    while begin.elapsed() < BEGIN {
        let status = fs::read_to_string("/proc/1/status").unwrap_or_default();
        if blocks(&status, signal) != Some(false) {
            return;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Returns whether a process with this `status` (proc_pid_status(5)) blocks a signal; `None` if it is not told.
fn blocks(status: &str, signal: i32) -> Option<bool> {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigBlk:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_found_in_the_status_of_a_process() {
        // As systemd's: SIGTERM is 15, SIGRTMIN+4 is 38.
        let status = "Name:\tsystemd\nSigBlk:\t7fe3c0fe28014a03\nSigIgn:\t0000000000001000\n";
        assert_eq!(blocks(status, 38), Some(true));
        assert_eq!(blocks(status, 3), Some(false));
        assert_eq!(blocks("Name:\tx\n", 38), None);
    }
}
