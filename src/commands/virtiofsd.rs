//! `virt-sandbox-virtiofsd`: becomes the host's virtiofsd, with the same arguments, in a mount namespace that is read-only.
//!
//! libvirt starts it as the `<binary>` of a share, so what holds for that holds whoever starts the domain, and ends with it.

use std::process::ExitCode;

use crate::driver::ability::find_virtiofsd;
use crate::sys::{command, read_only};

/// Becomes virtiofsd; returns only where that fails, so that no virtiofsd runs that could write.
#[must_use]
pub fn main() -> ExitCode {
    let failure = match (find_virtiofsd(), read_only::enter()) {
        (Err(reason), _) => reason,
        (Ok(_), Err(error)) => format!("making the mounts of virtiofsd read-only: {error}"),
        (Ok(program), Ok(())) => {
            let error = command::become_program(&program, std::env::args_os().skip(1));
            format!("starting '{}': {error}", program.display())
        }
    };
    eprintln!("virt-sandbox-virtiofsd: {failure}");
    ExitCode::FAILURE
}
