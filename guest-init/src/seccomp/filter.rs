//! Installation of a filter of system calls. `unsafe` for this one call.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;

use crate::seccomp::{self, Program};

/// Filters the system calls of this process and its children. Takes `CAP_SYS_ADMIN` or `no_new_privs`.
pub fn install(program: &Program) -> Result<()> {
    let doing = "filtering system calls";
    let mut instructions = seccomp::instructions(program);
    let Ok(len) = u16::try_from(instructions.len()) else {
        bail!("{doing}: {} instructions are too many", instructions.len());
    };
    let filter = libc::sock_fprog {
        len,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the program has `len` instructions, which live until the kernel has copied them.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    Errno::result(installed).context(doing).map(drop)
}
