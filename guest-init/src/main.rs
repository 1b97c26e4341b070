//! PID 1 of a sandbox, and the way into one that runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--version") => {
            println!("guest-init {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("enter") => guest_init::enter::main(&arguments[1..]),
        Some("try-ids") => guest_init::namespaces::try_ids::main(&arguments[1..]),
        _ if std::process::id() == 1 => {
            guest_init::boot::boot();
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("guest-init: this is the first process of a sandbox; it is not run by hand");
            ExitCode::from(2)
        }
    }
}
