//! Root shell on a device, for debugging a sandbox.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::process;

/// Delay before a new shell is started.
const PAUSE: Duration = Duration::from_secs(1);

/// Environment of a login. Terminals that are used as a console understand `vt220`.
const ENVIRONMENT: [(&str, &str); 5] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("TERM", "vt220"),
];

/// Starts a process that keeps a shell on `device`.
pub fn keep(device: &Path) -> Result<()> {
    process::spawn(|| {
        let mut said = false;
        loop {
            match process::spawn(|| run(device)) {
                Ok(shell) => {
                    let outcome = waitpid(shell, None);
                    log::debug!("the shell on '{}': {outcome:?}", device.display());
                }
                Err(error) if !said => {
                    log::warn!("a shell on '{}': {error:#}", device.display());
                    said = true;
                }
                Err(_) => {}
            }
            thread::sleep(PAUSE);
        }
    })
    .with_context(|| format!("keeping a shell on '{}'", device.display()))?;
    Ok(())
}

fn run(device: &Path) -> u8 {
    let Err(error) = become_shell(device);
    log::debug!("a shell on '{}': {error:#}", device.display());
    1
}

fn become_shell(device: &Path) -> Result<std::convert::Infallible> {
    // Only the leader of a session without a terminal can get a controlling terminal (tty_ioctl(4)).
    setsid().context("beginning a session")?;
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(device)
        .context("opening it")?;
    process::take_terminal(terminal.as_fd())?;
    dup2_stdin(&terminal).context("taking it as standard input")?;
    dup2_stdout(&terminal).context("taking it as standard output")?;
    dup2_stderr(&terminal).context("taking it as standard error")?;
    drop(terminal);
    process::close_other_files()?;
    let _ = chdir("/root").or_else(|_| chdir("/"));
    let environment = ENVIRONMENT.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Ok(process::exec(&["/bin/sh".to_owned()], &environment)?)
}
