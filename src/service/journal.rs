//! The journal of a sandbox, read from the host.
//!
//! It lies in the sandbox's tree, where the sandbox can put links: it is opened without following any, and journalctl
//! is given the open directory.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::config::SandboxConfig;
use crate::error::{Error, Result};
use crate::service::sandboxes::Sandboxes;
use crate::sys::command;
use crate::sys::root::Root;

/// Shows the journal on standard output until the process is ended: what was written since `begin`, counted from the
/// beginning of 1970, and what will be.
///
/// # Errors
/// Where there is no journal or no journalctl.
pub fn follow(sandboxes: &Sandboxes, config: &SandboxConfig, begin: Duration) -> Result<Child> {
    let (_directory, argument) = open(sandboxes, config)?;
    let since = format!("--since=@{}", begin.as_secs());
    command::spawn(
        "journalctl",
        [&argument, &since, "--follow", "--output=cat", "--quiet"],
    )
    .map_err(Error::step("running journalctl"))
}

/// Becomes journalctl with `arguments`; returns only on failure.
pub fn show(sandboxes: &Sandboxes, config: &SandboxConfig, arguments: &[String]) -> Error {
    match open(sandboxes, config) {
        Ok((_directory, argument)) => {
            let words = [argument.as_str(), "--no-pager"].into_iter();
            let error: io::Error = command::exec(
                "journalctl",
                words.chain(arguments.iter().map(String::as_str)),
            );
            Error::step("running journalctl")(error)
        }
        Err(error) => error,
    }
}

/// The directory of the journal, open also for a program that is started, and journalctl's argument for it.
fn open(sandboxes: &Sandboxes, config: &SandboxConfig) -> Result<(OwnedFd, String)> {
    let tree = sandboxes.tree(config)?;
    let root = Root::new(tree.path())?;
    let inside = Path::new("var/log/journal").join(config.uuid.simple().to_string());
    let directory = root.open_plain(&inside)?;
    // A duplicate is not closed when a program is started (dup(2)).
    let directory = nix::unistd::dup(&directory).map_err(Error::step("opening the journal"))?;
    tree.leave();
    let argument = format!("--directory=/proc/self/fd/{}", directory.as_raw_fd());
    Ok((directory, argument))
}
