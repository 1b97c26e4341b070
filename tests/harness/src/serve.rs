//! The process a private libvirtd lives under.
//!
//! It gives the daemon a mount namespace in which its configuration and state are its own and the
//! cgroup layout is one libvirt can use; it is the subreaper of all the daemon starts; and it
//! takes everything down in order when it is told to or when the test run dies. At SIGHUP it starts
//! the daemon anew. It knows nothing of tests.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use crate::{libvirtd, network};

/// How long a daemon may take to say that it is ready.
const READY: Duration = Duration::from_secs(60);

/// Names the daemon that a restart has made, below the daemon's directory.
pub(crate) const RESTARTED: &str = "restarted";

/// Directories of libvirt that the private daemon must not share, and what each is in its own.
///
/// `/run/libvirt` holds the sockets too: outside of the namespace they are `DIR/run/…`.
const PRIVATE: [(&str, &str); 4] = [
    ("etc", "/etc/libvirt"),
    ("run", "/run/libvirt"),
    ("dnsmasq", "/var/lib/libvirt/dnsmasq"),
    ("qemu", "/var/lib/libvirt/qemu"),
];

/// Runs a libvirtd in `dir` until SIGTERM; prints `ready PID` once it answers, with the process in
/// whose namespace it lives: this one, which stays when the daemon is restarted.
///
/// # Errors
///
/// The daemon does not start, or something it started had to be removed by force.
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
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;

    enter_namespace(dir)?;
    let mut daemon = Daemon::start(dir)?;
    let result = daemon.run(dir, &signals);
    let clean = daemon.take_down(dir);
    // A parent that was killed can no longer remove its directory.
    if getppid() != parent {
        fs::remove_dir_all(dir).with_context(|| format!("removing '{}'", dir.display()))?;
    }
    result.and(clean)
}

/// Gives this process, and so the daemon, a view of its own.
fn enter_namespace(dir: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unsharing the mount namespace")?;
    // A slave still sees what the host mounts later, and never mounts anything there.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .context("making mounts slaves")?;

    // libvirt's LXC driver takes a hybrid layout for a unified one and fails to create its cgroup;
    // without the two hierarchies that have no controllers it is plain v1. A host with pure
    // cgroup v2 has no tmpfs here and stays as it is.
    if statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC) {
        for hierarchy in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
            match umount(hierarchy) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(error) => return Err(error).context(format!("unmounting '{hierarchy}'")),
            }
        }
    }

    for (name, target) in PRIVATE {
        let source = dir.join(name);
        for path in [source.as_path(), Path::new(target)] {
            fs::create_dir_all(path).with_context(|| format!("creating '{}'", path.display()))?;
        }
        mount(
            Some(&source),
            target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("binding '{target}'"))?;
    }
    // libvirt_lxc writes there and libvirtd does not create it.
    fs::create_dir_all("/var/log/libvirt/lxc").context("creating '/var/log/libvirt/lxc'")?;
    let etc = dir.join("etc");
    for (file, text) in [
        (
            "libvirtd.conf",
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n",
        ),
        (
            "qemu.conf",
            "stdio_handler = \"file\"\nuser = \"root\"\ngroup = \"root\"\n",
        ),
    ] {
        fs::write(etc.join(file), text).with_context(|| format!("writing '{file}'"))?;
    }
    Ok(())
}

struct Daemon {
    libvirtd: Pid,
    running: bool,
    ready: UnixDatagram,
}

impl Daemon {
    fn start(dir: &Path) -> Result<Self> {
        let notify = dir.join("notify");
        let ready = UnixDatagram::bind(&notify).context("binding the notify socket")?;
        ready.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self {
            libvirtd: spawn(dir)?,
            running: true,
            ready,
        })
    }

    /// What runs stays: containers are kept by processes of their own.
    fn restart(&mut self, dir: &Path) -> Result<()> {
        kill(self.libvirtd, Signal::SIGTERM).context("stopping libvirtd")?;
        while self.running {
            self.note(waitpid(None, None).context("waiting for libvirtd")?);
        }
        self.libvirtd = spawn(dir)?;
        self.running = true;
        self.wait_ready()?;
        fs::write(dir.join(RESTARTED), self.libvirtd.to_string()).context("noting the restart")
    }

    /// From the start to the signal that ends it.
    fn run(&mut self, dir: &Path, signals: &SigSet) -> Result<()> {
        self.wait_ready()?;
        self.start_network(dir)?;
        println!("ready {}", std::process::id());
        loop {
            // SIGCHLD at once: libvirt waits for a QEMU's pid to go, and PID 1 of a small
            // container may take seconds to reap it.
            let signal = signals.wait().context("waiting for a signal")?;
            if signal == Signal::SIGHUP {
                self.restart(dir)?;
            } else if signal != Signal::SIGCHLD {
                return Ok(());
            }
            self.reap();
            if !self.running {
                bail!("libvirtd ended by itself");
            }
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut message = [0; 4096];
        while start.elapsed() < READY {
            if let Ok(length) = self.ready.recv(&mut message)
                && String::from_utf8_lossy(&message[..length])
                    .lines()
                    .any(|line| line == "READY=1")
            {
                return Ok(());
            }
            self.reap();
            if !self.running {
                bail!("libvirtd ended before it was ready");
            }
        }
        bail!("libvirtd was not ready after {} s", READY.as_secs());
    }

    /// The first network that starts: another test run may have taken a subnet meanwhile.
    fn start_network(&mut self, dir: &Path) -> Result<()> {
        let file = dir.join("default.xml");
        for xml in network::candidates()?.take(10) {
            fs::write(&file, xml).context("writing the network")?;
            self.virsh(dir, "lxc", &["net-define", &file.to_string_lossy()])?;
            if self
                .virsh(dir, "lxc", &["net-start", "default"])?
                .status
                .success()
            {
                return Ok(());
            }
            self.virsh(dir, "lxc", &["net-undefine", "default"])?;
        }
        bail!("no free subnet for the network 'default'");
    }

    /// Removes all that is left, in the order that lets libvirt clean up after itself.
    fn take_down(&mut self, dir: &Path) -> Result<()> {
        let mut left = Vec::new();
        if self.running {
            for driver in ["lxc", "qemu"] {
                let names = self
                    .virsh(dir, driver, &["list", "--all", "--name"])?
                    .stdout;
                for name in names.lines().filter(|name| !name.is_empty()) {
                    left.push(format!("domain {name}"));
                    self.virsh(dir, driver, &["destroy", name])?;
                    self.virsh(dir, driver, &["undefine", name])?;
                }
            }
            self.virsh(dir, "lxc", &["net-destroy", "default"])?;
            kill(self.libvirtd, Signal::SIGTERM).context("stopping libvirtd")?;
            while self.running {
                self.note(waitpid(None, None).context("waiting for libvirtd")?);
            }
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

    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            self.note(status);
        }
    }

    fn note(&mut self, status: WaitStatus) {
        if status.pid() == Some(self.libvirtd) && ended(status).is_some() {
            self.running = false;
        }
    }

    /// Runs virsh while reaping: a domain that is destroyed may wait for its orphan to be reaped.
    fn virsh(&mut self, dir: &Path, driver: &str, arguments: &[&str]) -> Result<Output> {
        let out = dir.join("virsh.out");
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join("libvirtd.log"))?;
        let child = unblocked("virsh")
            .args(["--quiet", "--connect", &libvirtd::uri(driver, dir)])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).context("creating virsh's output")?)
            .stderr(log)
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

/// Starts a daemon; it says that it is ready at the socket `notify`.
fn spawn(dir: &Path) -> Result<Pid> {
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(dir.join("libvirtd.log"))
        .context("creating the daemon's log")?;
    let child = unblocked("libvirtd")
        .arg("--config")
        .arg(dir.join("etc/libvirtd.conf"))
        .arg("--pid-file")
        .arg(dir.join("libvirtd.pid"))
        // sd_notify(3): libvirtd says READY=1 once its drivers are initialised.
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("running 'libvirtd'")?;
    Ok(pid_of(&child))
}

struct Output {
    status: ExitStatus,
    stdout: String,
}

/// A command whose signals are not blocked: std passes this thread's mask on.
fn unblocked(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", "--", program]);
    command
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn ended(status: WaitStatus) -> Option<ExitStatus> {
    if let WaitStatus::Exited(_, code) = status {
        Some(ExitStatus::from_raw(code << 8))
    } else if let WaitStatus::Signaled(_, signal, _) = status {
        Some(ExitStatus::from_raw(signal as i32))
    } else {
        None
    }
}

/// The living children of this process, from proc_pid_stat(5).
fn children() -> Result<Vec<(Pid, String)>> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading '/proc'")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name is in parentheses and may hold any character, even a parenthesis.
        let Some((name, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = rest.split(' ');
        if fields.next() != Some("Z")
            && fields.next().and_then(|parent| parent.parse().ok()) == Some(me)
        {
            let name = name.split_once('(').map_or(name, |(_, name)| name);
            found.push((Pid::from_raw(pid), name.to_owned()));
        }
    }
    Ok(found)
}
