//! Runs one command in a throw-away sandbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_sandbox::commands::run::main()
}
