//! Runs virtiofsd where it cannot write: libvirt starts this in its place for read-only directories.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_sandbox::commands::virtiofsd::main()
}
