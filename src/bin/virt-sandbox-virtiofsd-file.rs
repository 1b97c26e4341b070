//! Runs virtiofsd where it can write to a single file: libvirt starts this in its place.

use std::process::ExitCode;

use virt_sandbox::commands::virtiofsd::Access;

fn main() -> ExitCode {
    virt_sandbox::commands::virtiofsd::main(Access::Write)
}
