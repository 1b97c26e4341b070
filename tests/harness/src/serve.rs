//! The process the private daemons live under: root's libvirtd, and an ordinary user's.
//!
//! It gives them a mount namespace, it is the subreaper of all they start,
//! and it takes everything down in order when it is told to or when the test run dies. At SIGHUP it
//! starts root's daemon anew; at SIGUSR1, too, after killing it. It knows nothing of tests.

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

/// How long a daemon may take to say that it is ready.
const READY: Duration = Duration::from_secs(60);

/// Names the daemon that a restart has made, below the daemon's directory.
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
    // Blocked, they wait until the loop below asks for them; a child inherits the mask, so each
    // command gets it reset by `env`.
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

    /// What runs stays: containers and guests are kept by processes of their own.
    fn restart(&mut self, end: Signal) -> Result<()> {
        self.end(|daemons| &daemons.system, end)?;
        self.system.spawn()?;
        self.wait_ready()?;
        fs::write(self.dir.join(RESTARTED), "").context("noting the restart")
    }

    /// From the start to the signal that ends it.
    fn run(&mut self, signals: &SigSet) -> Result<()> {
        self.wait_ready()?;
        self.start_network()?;
        println!("ready {}", std::process::id());
        loop {
            // SIGCHLD at once: libvirt waits for a QEMU's pid to go, and PID 1 of a small
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

    /// The first network that starts: another test run may have taken a subnet meanwhile.
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

    /// Removes all that is left, in the order that lets libvirt clean up after itself.
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
        // Orphans of a killed child come to this process in their turn, so this ends at none.
        loop {
            for (pid, name) in children()? {
                left.push(format!("process {pid} {name}"));
                // Gone already is as good.
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

    /// Ends one of the daemons, reaping for both.
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

    /// Runs virsh while reaping: a domain that is destroyed may wait for its orphan to be reaped.
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

/// One libvirtd, and the socket at which it says that it is ready.
struct Daemon {
    command: Command,
    /// None once it has ended.
    pid: Option<Pid>,
    notify: UnixDatagram,
    ready: bool,
}

impl Daemon {
    /// Starts `command` as a daemon; what it says goes to the log in `dir`.
    fn start(dir: &Path, name: &str, mut command: Command) -> Result<Self> {
        let socket = dir.join(format!("{name}.notify"));
        let notify = UnixDatagram::bind(&socket).context("binding the notify socket")?;
        notify.set_read_timeout(Some(Duration::from_millis(200)))?;
        // The session's daemon is not root.
        fs::set_permissions(&socket, Permissions::from_mode(0o666))
            .context("opening the notify socket to all")?;
        let log = log(dir)?;
        command
            // sd_notify(3): libvirtd says READY=1 once its drivers are initialised.
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

    /// Whether it has said so; waits a moment for it to.
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
