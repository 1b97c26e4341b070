//! Runs virtiofsd where it cannot write: libvirt starts this in its place for read-only directories.

use std::process::ExitCode;

use virt_sandbox::commands::virtiofsd::Access;

fn main() -> ExitCode {
    virt_sandbox::commands::virtiofsd::main(Access::Read)
}
