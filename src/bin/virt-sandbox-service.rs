//! Runs services of this host in sandboxes of their own.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_sandbox::commands::service::main()
}
