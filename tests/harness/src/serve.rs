//! The parent process of the private daemons: root's libvirtd, and an ordinary user's.
//!
//! The server gives them a mount namespace and is the subreaper of their children. It stops
//! everything in order on request or when the test run dies. SIGHUP
//! restarts root's daemon; SIGUSR1 kills it first. This module knows nothing of tests.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use crate::process::{children, ended, pid_of, unblocked};
use crate::user::UserDirectory;
use crate::{libvirtd, namespace, network};

/// Time in which a daemon must report that it is ready.
const READY: Duration = Duration::from_secs(60);

/// Marker file below the daemon's directory: root's daemon was restarted.
pub(crate) const RESTARTED: &str = "restarted";

/// Runs the daemons in `dir` until SIGTERM; prints `ready PID` once they answer, with the process in
/// whose namespace they live: this one, which stays when a daemon is restarted.
///
/// # Errors
///
/// A daemon does not start, or something they started had to be removed by force.
pub fn serve(dir: &Path) -> Result<()> {
    let parent = getppid();
    prctl::set_child_subreaper(true).context("becoming a subreaper")?;
    prctl::set_pdeathsig(Signal::SIGTERM).context("asking for a signal at the parent's death")?;
    // Blocked signals stay pending until the loop below reads them; a child inherits the mask, so
    // `env` resets it for each command.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;

    namespace::enter(dir)?;
    UserDirectory::of(dir).create()?;
    let mut daemons = Daemons::start(dir)?;
    let result = daemons.run(&signals);
    let clean = daemons.take_down();
    // A parent that was killed can no longer remove its directory.
    if getppid() != parent {
        fs::remove_dir_all(dir).with_context(|| format!("removing '{}'", dir.display()))?;
    }
    result.and(clean)
}

struct Daemons {
    dir: PathBuf,
    system: Daemon,
    session: Daemon,
}

impl Daemons {
    fn start(dir: &Path) -> Result<Self> {
        let mut system = unblocked("libvirtd");
        system
            .arg("--config")
            .arg(dir.join("etc/libvirtd.conf"))
            .arg("--pid-file")
            .arg(dir.join("libvirtd.pid"));
        let mut session = UserDirectory::of(dir).command("env");
        session.args(["--default-signal", "--", "libvirtd"]);
        Ok(Self {
            dir: dir.to_owned(),
            system: Daemon::start(dir, "libvirtd", system)?,
            session: Daemon::start(dir, "session", session)?,
        })
    }

    /// Restarts root's daemon. Domains keep running: containers and guests have controller processes of their own.
    fn restart(&mut self, end: Signal) -> Result<()> {
        self.end(|daemons| &daemons.system, end)?;
        self.system.spawn()?;
        self.wait_ready()?;
        fs::write(self.dir.join(RESTARTED), "").context("noting the restart")
    }

    /// Runs the daemons until a signal ends them.
    fn run(&mut self, signals: &SigSet) -> Result<()> {
        self.wait_ready()?;
        self.start_network()?;
        println!("ready {}", std::process::id());
        loop {
            // Reap at once on SIGCHLD: libvirt waits for QEMU's pid to vanish, and PID 1 of a small
            // container may take seconds to reap it.
            let signal = signals.wait().context("waiting for a signal")?;
            if signal == Signal::SIGHUP {
                self.restart(Signal::SIGTERM)?;
            } else if signal == Signal::SIGUSR1 {
                self.restart(Signal::SIGKILL)?;
            } else if signal != Signal::SIGCHLD {
                return Ok(());
            }
            self.reap();
            if !(self.system.running() && self.session.running()) {
                bail!("a libvirtd ended by itself");
            }
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < READY {
            if self.system.is_ready() && self.session.is_ready() {
                return Ok(());
            }
            self.reap();
            if !(self.system.running() && self.session.running()) {
                bail!("a libvirtd ended before it was ready");
            }
        }
        bail!("libvirtd was not ready after {} s", READY.as_secs());
    }

    /// Starts the first network that can be started: another test run may have taken a subnet meanwhile.
    fn start_network(&mut self) -> Result<()> {
        let file = self.dir.join("default.xml");
        let uri = libvirtd::uri("lxc", &self.dir);
        for xml in network::candidates()?.take(10) {
            fs::write(&file, xml).context("writing the network")?;
            self.virsh(&uri, &["net-define", &file.to_string_lossy()])?;
            let started = self.virsh(&uri, &["net-start", "default"])?;
            if started.status.success() {
                return Ok(());
            }
            self.virsh(&uri, &["net-undefine", "default"])?;
        }
        bail!("no free subnet for the network 'default'");
    }

    /// Removes everything left over, in the order that lets libvirt clean up after itself.
    fn take_down(&mut self) -> Result<()> {
        let mut left = Vec::new();
        if self.session.running() {
            self.remove_domains(&UserDirectory::of(&self.dir).uri(), &mut left)?;
            self.end(|daemons| &daemons.session, Signal::SIGTERM)?;
        }
        if self.system.running() {
            for driver in ["lxc", "qemu"] {
                self.remove_domains(&libvirtd::uri(driver, &self.dir), &mut left)?;
            }
            self.virsh(
                &libvirtd::uri("lxc", &self.dir),
                &["net-destroy", "default"],
            )?;
            self.end(|daemons| &daemons.system, Signal::SIGTERM)?;
        }
        // Orphans of a killed child become children of this process, so repeat until there are none.
        loop {
            for (pid, name) in children()? {
                left.push(format!("process {pid} {name}"));
                // The process may have ended already.
                let _ = kill(pid, Signal::SIGKILL);
            }
            match waitpid(None, None) {
                Ok(_) => {}
                Err(Errno::ECHILD) => break,
                Err(error) => return Err(error).context("waiting for processes"),
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            bail!("left below libvirtd: {}", left.join(", "))
        }
    }

    fn remove_domains(&mut self, uri: &str, left: &mut Vec<String>) -> Result<()> {
        let names = self.virsh(uri, &["list", "--all", "--name"])?.stdout;
        for name in names.lines().filter(|name| !name.is_empty()) {
            left.push(format!("domain {name}"));
            self.virsh(uri, &["destroy", name])?;
            self.virsh(uri, &["undefine", name])?;
        }
        Ok(())
    }

    /// Ends one of the daemons, and reaps children meanwhile.
    fn end(&mut self, which: fn(&Self) -> &Daemon, signal: Signal) -> Result<()> {
        if let Some(pid) = which(self).pid {
            kill(pid, signal).context("stopping libvirtd")?;
        }
        while which(self).running() {
            self.note(waitpid(None, None).context("waiting for libvirtd")?);
        }
        Ok(())
    }

    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            self.note(status);
        }
    }

    fn note(&mut self, status: WaitStatus) {
        for daemon in [&mut self.system, &mut self.session] {
            if status.pid() == daemon.pid && ended(status).is_some() {
                daemon.pid = None;
            }
        }
    }

    /// Runs virsh and reaps children meanwhile: destroying a domain may wait until its orphan is reaped.
    fn virsh(&mut self, uri: &str, arguments: &[&str]) -> Result<Output> {
        let out = self.dir.join("virsh.out");
        let child = unblocked("virsh")
            .args(["--quiet", "--connect", uri])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).context("creating virsh's output")?)
            .stderr(log(&self.dir)?)
            .spawn()
            .context("running 'virsh'")?;
        let pid = pid_of(&child);
        loop {
            let status = waitpid(None, None).context("waiting for virsh")?;
            self.note(status);
            if status.pid() == Some(pid)
                && let Some(status) = ended(status)
            {
                return Ok(Output {
                    status,
                    stdout: fs::read_to_string(&out).unwrap_or_default(),
                });
            }
        }
    }
}

struct Output {
    status: ExitStatus,
    stdout: String,
}

/// A libvirtd, and the socket on which it reports that it is ready.
struct Daemon {
    command: Command,
    /// `None` once the daemon has ended.
    pid: Option<Pid>,
    notify: UnixDatagram,
    ready: bool,
}

impl Daemon {
    /// Starts `command` as a daemon with its output in the log in `dir`.
    fn start(dir: &Path, name: &str, mut command: Command) -> Result<Self> {
        let socket = dir.join(format!("{name}.notify"));
        let notify = UnixDatagram::bind(&socket).context("binding the notify socket")?;
        notify.set_read_timeout(Some(Duration::from_millis(200)))?;
        // The session's daemon does not run as root.
        fs::set_permissions(&socket, Permissions::from_mode(0o666))
            .context("opening the notify socket to all")?;
        let log = log(dir)?;
        command
            // sd_notify(3): libvirtd sends READY=1 once its drivers are initialised.
            .env("NOTIFY_SOCKET", socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut daemon = Self {
            command,
            pid: None,
            notify,
            ready: false,
        };
        daemon.spawn()?;
        Ok(daemon)
    }

    fn spawn(&mut self) -> Result<()> {
        self.ready = false;
        self.pid = Some(pid_of(&self.command.spawn().context("running 'libvirtd'")?));
        Ok(())
    }

    fn running(&self) -> bool {
        self.pid.is_some()
    }

    /// Waits a moment for the daemon, and returns whether it is ready.
    fn is_ready(&mut self) -> bool {
        let mut message = [0; 4096];
        if !self.ready
            && let Ok(length) = self.notify.recv(&mut message)
        {
            self.ready = String::from_utf8_lossy(&message[..length])
                .lines()
                .any(|line| line == "READY=1");
        }
        self.ready
    }
}

fn log(dir: &Path) -> Result<fs::File> {
    fs::File::options()
        .append(true)
        .create(true)
        .open(dir.join("libvirtd.log"))
        .context("opening the daemons' log")
}
