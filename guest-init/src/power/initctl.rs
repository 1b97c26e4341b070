//! Pipe that System V init takes commands from, and that libvirt's LXC driver writes to (`virInitctlSetRunLevel()`).
//!
//! libvirt sends a signal to PID 1 if it cannot write to the pipe, but does nothing where there is no pipe
//! (`lxcDomainShutdownFlags()`). So there is one in every container, with a reader only where systemd is PID 1, for which the signals of
//! libvirt mean something else (systemd(1), "Signals").

use std::fs::{File, OpenOptions};
use std::io::Read;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo, setsid};

use crate::power::PowerRequest;
use crate::process;

/// Pipe, at the first place that libvirt looks at.
const PIPE: &str = "/run/initctl";

/// Size of `struct init_request` of `initreq.h`, which fits into a pipe at once.
const SIZE: usize = 384;

/// `INIT_MAGIC` of `initreq.h`.
const MAGIC: i32 = 0x0309_1969;

/// `INIT_CMD_RUNLVL` of `initreq.h`.
const SET_RUNLEVEL: i32 = 1;

/// Makes the pipe, and starts a process beside systemd that reads it, if `is_served`.
pub fn make(is_served: bool) -> Result<()> {
    let doing = || format!("making '{PIPE}'");
    mkfifo(PIPE, Mode::S_IRUSR | Mode::S_IWUSR).with_context(doing)?;
    if !is_served {
        return Ok(());
    }
    // Open for writing too, the pipe never ends.
    let pipe = (OpenOptions::new().read(true).write(true).open(PIPE)).with_context(doing)?;
    process::spawn(|| {
        let _ = setsid();
        pass_on_requests(pipe);
        1
    })
    .context("starting to listen to the host")?;
    Ok(())
}

fn pass_on_requests(mut pipe: File) {
    let mut request = [0; SIZE];
    while pipe.read_exact(&mut request).is_ok() {
        match parse(&request) {
            Some(request) => request.pass_on(Pid::from_raw(1)),
            None => log::warn!("'{PIPE}' has a request that is none to power off or to reboot"),
        }
    }
}

fn parse(request: &[u8; SIZE]) -> Option<PowerRequest> {
    let field = |index: usize| {
        let bytes = request.get(4 * index..)?.first_chunk()?;
        Some(i32::from_ne_bytes(*bytes))
    };
    let runlevel = u8::try_from(field(2)?).ok()?;
    match (field(0)?, field(1)?, runlevel) {
        (MAGIC, SET_RUNLEVEL, b'0') => Some(PowerRequest::PowerOff),
        (MAGIC, SET_RUNLEVEL, b'6') => Some(PowerRequest::Reboot),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: [i32; 3]) -> [u8; SIZE] {
        let mut request = [0; SIZE];
        for (bytes, field) in request.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_ne_bytes());
        }
        request
    }

    #[test]
    fn runlevels_of_libvirt_are_requests() {
        let parsed = |fields| parse(&request(fields));
        let (off, again) = (b'0'.into(), b'6'.into());
        assert_eq!(parsed([MAGIC, 1, off]), Some(PowerRequest::PowerOff));
        assert_eq!(parsed([MAGIC, 1, again]), Some(PowerRequest::Reboot));
        for other in [
            [0, 1, off],
            [MAGIC, 2, off],
            [MAGIC, 1, b'3'.into()],
            [MAGIC, 1, -1],
        ] {
            assert_eq!(parsed(other), None, "{other:?}");
        }
    }
}
