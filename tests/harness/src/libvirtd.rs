//! The private libvirtd of a test run, seen from the tests.
//!
//! Owns the daemon's directory, its lifetime and the environment that leads a libvirt client to
//! it. [`crate::serve`] does its namespace and teardown. An ordinary user with a
//! daemon of their own comes with it: see [`crate::user`].

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::serve;
use crate::user::{DIRECTORY_VARIABLE, UserDirectory};

/// Variable with the pid of the daemon's parent, which outlives restarts; tests look at the daemon's mounts through it.
pub const PID_VARIABLE: &str = "VIRT_SANDBOX_TEST_LIBVIRTD";
/// libvirt's own variable for a client's default URI.
pub const URI_VARIABLE: &str = "LIBVIRT_DEFAULT_URI";

/// A running private daemon; stopped when dropped.
#[derive(Debug)]
pub struct Libvirtd {
    serve: Child,
    pid: String,
    dir: TempDir,
}

impl Libvirtd {
    /// Starts a daemon and waits until it answers and its network `default` is up.
    ///
    /// `harness` is the `test-harness` program. The daemon is stopped when the calling *thread*
    /// ends, prctl(2) PR_SET_PDEATHSIG, so that a killed test run leaves nothing.
    ///
    /// # Errors
    ///
    /// The daemon does not come up; the message ends with the tail of its log.
    pub fn start(harness: &Path) -> Result<Self> {
        // In /run: short enough for the 108 bytes of a socket's path, and outside a /tmp that a unit may hide.
        let dir = tempfile::Builder::new()
            .prefix("virt-sandbox-test.")
            // The ordinary user has directories below this one.
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in("/run")
            .context("creating a directory in '/run'")?;
        let mut serve = Command::new(harness)
            .arg("serve")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C must reach the daemon only after its domains are gone.
            .process_group(0)
            .spawn()
            .with_context(|| format!("running '{}'", harness.display()))?;
        let mut line = String::new();
        if let Some(stdout) = serve.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("waiting for libvirtd")?;
        }
        let Some(pid) = line.strip_prefix("ready ") else {
            serve.wait().context("waiting for the daemon's parent")?;
            bail!("starting libvirtd failed:\n{}", log_tail(dir.path()));
        };
        Ok(Self {
            serve,
            pid: pid.trim().to_owned(),
            dir,
        })
    }

    /// Returns the URI of this daemon's LXC driver, for libvirt clients outside its namespace.
    pub fn uri(&self) -> String {
        uri("lxc", self.dir.path())
    }

    /// Returns the environment that leads clients and tests to this daemon.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let user = UserDirectory::of(self.dir.path());
        [
            (URI_VARIABLE, self.uri()),
            (PID_VARIABLE, self.pid.clone()),
            (DIRECTORY_VARIABLE, user.path().display().to_string()),
        ]
    }

    /// Stops the daemon and all below it.
    ///
    /// # Errors
    ///
    /// Domains or processes had to be removed by force; stderr names them.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.serve.try_wait()?.is_none() {
            kill(
                Pid::from_raw(self.serve.id().cast_signed()),
                Signal::SIGTERM,
            )?;
        }
        let status = self.serve.wait().context("waiting for libvirtd to stop")?;
        if !status.success() {
            bail!(
                "the private libvirtd did not end clean:\n{}",
                log_tail(self.dir.path())
            );
        }
        Ok(())
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        if matches!(self.serve.try_wait(), Ok(None))
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Returns the URI of `driver` at the daemon whose directory is `dir`.
pub(crate) fn uri(driver: &str, dir: &Path) -> String {
    format!(
        "{driver}:///system?socket={}/run/libvirt-sock",
        dir.display()
    )
}

/// Returns the URI of the QEMU driver of the private daemon that the environment names.
///
/// # Errors
///
/// There is none.
pub fn qemu_uri() -> Result<String> {
    let uri = std::env::var(URI_VARIABLE).context("no libvirtd is named")?;
    let (_, rest) = uri
        .split_once(':')
        .with_context(|| format!("'{uri}' is not of a private libvirtd"))?;
    Ok(format!("qemu:{rest}"))
}

/// Restarts the private daemon that the environment names, and waits until it answers.
///
/// # Errors
///
/// There is none, or it does not come back.
pub fn restart() -> Result<()> {
    restart_by(Signal::SIGHUP)
}

/// Kills and restarts the private daemon; otherwise like [`restart`].
///
/// # Errors
///
/// See [`restart`].
pub fn crash() -> Result<()> {
    restart_by(Signal::SIGUSR1)
}

/// Guard of the paused private daemon; resumes it on drop.
#[derive(Debug)]
pub struct Paused(Vec<Pid>);

/// Pauses the private daemon that the environment names.
///
/// # Errors
///
/// There is none.
pub fn pause() -> Result<Paused> {
    let parent = std::env::var(PID_VARIABLE).context("no libvirtd is named")?;
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .context("looking for libvirtd")?;
    let mut paused = Paused(vec![]);
    for child in children.split_whitespace() {
        if std::fs::read_to_string(format!("/proc/{child}/comm"))? == "libvirtd\n" {
            let pid = Pid::from_raw(child.parse()?);
            kill(pid, Signal::SIGSTOP)?;
            paused.0.push(pid);
        }
    }
    if paused.0.is_empty() {
        bail!("no libvirtd is below process {parent}");
    }
    Ok(paused)
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

fn restart_by(signal: Signal) -> Result<()> {
    let uri = std::env::var(URI_VARIABLE).context("no libvirtd is named")?;
    let parent = std::env::var(PID_VARIABLE).context("no libvirtd is named")?;
    let dir = uri
        .split_once("socket=")
        .and_then(|(_, socket)| socket.strip_suffix("/run/libvirt-sock"))
        .with_context(|| format!("'{uri}' is not of a private libvirtd"))?;
    let note = Path::new(dir).join(serve::RESTARTED);
    // The file is absent before the first restart.
    let _ = std::fs::remove_file(&note);
    kill(Pid::from_raw(parent.parse()?), signal)?;
    let begin = Instant::now();
    while !note.exists() {
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("libvirtd did not come back");
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Returns the URI of the private daemon, or `None` after printing that `test` is skipped.
///
/// A plain `cargo test` has no daemon; `make test` runs it below `test-harness with-libvirtd`.
pub fn require(test: &str) -> Option<String> {
    match (std::env::var(URI_VARIABLE), std::env::var(PID_VARIABLE)) {
        (Ok(uri), Ok(_)) => Some(uri),
        _ => {
            eprintln!("skipped: {test}: needs the private libvirtd that `make test` starts");
            None
        }
    }
}

fn log_tail(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("libvirtd.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
