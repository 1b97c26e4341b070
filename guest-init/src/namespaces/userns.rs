//! The user namespace of a sandbox (`user_namespaces(7)`), and the fork into it.
//!
//! PID 1 of the container assembles the root as root of the host, in namespaces that libvirt made. Then it forks the first process
//! of the sandbox into namespaces that the sandbox may configure, and only waits for it. In a mount namespace owned by a less
//! privileged user namespace the mounts that PID 1 made are locked: they can neither be made writable nor removed from what they
//! cover (`mount_namespaces(7)`).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pipe2, setfsgid, setfsuid, setgroups, setresgid, setresuid};

use crate::config::{Confinement, IdMap};
use crate::namespaces::Namespaces;
use crate::power::PowerRequest;
use crate::sys::first_process::{Identity, ProcDir};
use crate::sys::mount_api::Detached;
use crate::{process, root};

/// Hard limit of open files of a service (`DefaultLimitNOFILE=` of systemd).
const OPEN_FILES: u64 = 512 << 10;

/// Raises limits that services expect to raise themselves: in a user namespace no process may raise a hard limit (setrlimit(2)).
pub fn raise_limits() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match hard < OPEN_FILES {
            true => setrlimit(Resource::RLIMIT_NOFILE, soft, OPEN_FILES),
            false => Ok(()),
        });
    if let Err(error) = raised {
        log::debug!("raising the limit of open files: {error}");
    }
}

/// Makes new files belong to root of the sandbox from now on. This process keeps the capabilities of root of the host.
pub fn act_as_root_of(ids: IdMap) -> Result<()> {
    act_as(ids.first)
}

/// Calls `work` with new files belonging to root of the host.
pub fn as_host<T>(ids: Option<IdMap>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(ids) = ids else { return work() };
    act_as(0)?;
    let done = work();
    act_as(ids.first)?;
    done
}

fn act_as(id: u32) -> Result<()> {
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
    // A change of the fsuid from 0 drops the capabilities for files (capabilities(7)).
    let doing = "keeping capabilities";
    let permitted = caps::read(None, CapSet::Permitted).context(doing)?;
    caps::set(None, CapSet::Effective, &permitted).context(doing)
}

/// Side of [`fork_into`] that a process is on.
#[derive(Debug)]
pub enum Fork {
    /// The process that waits.
    Parent {
        /// The first process of the sandbox.
        first: Pid,
        /// Identity of that process. A later process with the same pid has another one.
        identity: Identity,
        /// Pipe on which that process writes a byte once it has booted.
        ready: OwnedFd,
    },
    /// The first process of the sandbox, as root of the sandbox.
    Child {
        /// Pipe that takes a byte once this process has booted.
        ready: OwnedFd,
    },
}

/// Forks the first process of the sandbox into its namespaces. `original_cgroups` are files that move a process back to the cgroups
/// that PID 1 was started in. With `has_units`, systemd of the sandbox can mount a `/proc` for a unit.
pub fn fork_into(
    namespaces: &Namespaces,
    original_cgroups: &[File],
    confinement: &Confinement,
    has_units: bool,
) -> Result<Fork> {
    let doing = "starting the first process of the sandbox";
    let (report, told) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (wait_for, go) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (ready, booted) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    // 1. An intermediate process enters the user namespace and makes the pid namespace there, so that the user namespace owns it
    //    (namespaces(7)). Only children of that process are in the pid namespace (pid_namespaces(7)), so it forks once more.
    let Some(intermediate) = process::fork()? else {
        let said = match fork_intermediate(namespaces) {
            Ok(Some(pid)) => pid.to_string(),
            Ok(None) => {
                drop((report, told, go, ready));
                // 2. The first process waits until the parent has left the cgroup and mounted `/proc`.
                await_root(wait_for);
                // 5. A copy of the mount namespace, owned by the user namespace, has its mounts locked. The current cgroup becomes
                //    the root of the cgroup namespace.
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
                    .context("locking the mounts")?;
                become_root().context(doing)?;
                return Ok(Fork::Child { ready: booted });
            }
            Err(error) => format!("{error:#}"),
        };
        let _ = File::from(told).write_all(said.as_bytes());
        std::process::exit(0);
    };
    drop((told, wait_for, booted));
    let mut said = String::new();
    File::from(report)
        .read_to_string(&mut said)
        .context(doing)?;
    waitpid(intermediate, None).context(doing)?;
    let Ok(first) = said.parse().map(Pid::from_raw) else {
        bail!("{doing}: {said}");
    };
    // 3. The parent leaves the cgroup of the sandbox, which is delegated to root of the sandbox.
    for group in original_cgroups {
        (&*group)
            .write_all(b"0")
            .context("leaving the sandbox's cgroup")?;
    }
    // 4. A `/proc` shows the pid namespace of the process that mounts it (pid_namespaces(7)): a child in that of the sandbox.
    let process = ProcDir::open(first.as_raw().cast_unsigned()).context(doing)?;
    let (identity, processes) = (process.identity()?, process.file("ns/pid")?);
    setns(&processes, CloneFlags::CLONE_NEWPID).context(doing)?;
    let showing = process::spawn(|| match mount_proc(confinement, has_units) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{error:#}");
            1
        }
    })?;
    if waitpid(showing, None).context(doing)? != WaitStatus::Exited(showing, 0) {
        bail!("mounting '/proc' for the sandbox failed");
    }
    File::from(go).write_all(b"+").context(doing)?;
    Ok(Fork::Parent {
        first,
        identity,
        ready,
    })
}

/// Enters the namespaces and forks once more. Returns the pid of the first process, and `None` in that process.
fn fork_intermediate(namespaces: &Namespaces) -> Result<Option<Pid>> {
    setns(&namespaces.user, CloneFlags::CLONE_NEWUSER).context("entering the user namespace")?;
    for (kind, file) in &namespaces.others {
        setns(file, *kind).with_context(|| format!("entering a namespace ({kind:?})"))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).context("making a namespace of processes")?;
    process::fork()
}

/// Waits until the root is complete. Exits if the parent fails.
fn await_root(wait_for: OwnedFd) {
    let mut byte = [0];
    if File::from(wait_for).read_exact(&mut byte).is_err() {
        std::process::exit(1);
    }
}

/// Becomes root of the current user namespace.
pub fn become_root() -> Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).context("leaving all groups")?;
    setresgid(group, group, group).context("becoming root of the sandbox")?;
    setresuid(user, user, user).context("becoming root of the sandbox")
}

/// Replaces `/proc` by one that shows only processes of the sandbox.
fn mount_proc(confinement: &Confinement, has_units: bool) -> Result<()> {
    let proc = Path::new("/proc");
    let none = None::<&str>;
    // libvirt mounts a file over it that shows the limits of the domain.
    let meminfo = proc.join("meminfo");
    let is_of_libvirt = fs::metadata(&meminfo)?.dev() != fs::metadata(proc)?.dev();
    let of_libvirt = is_of_libvirt
        .then(|| Detached::copy(&meminfo))
        .transpose()
        .context("keeping '/proc/meminfo'")?;
    while umount2(proc, MntFlags::MNT_DETACH).is_ok() {}
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), proc, Some("proc"), flags, none).context("mounting '/proc'")?;
    // Settings of the network namespace belong to root of the sandbox; all others are read-only.
    let (settings, network) = (proc.join("sys"), proc.join("sys/net"));
    let writable = Detached::copy(&network).context("opening '/proc/sys/net'")?;
    root::bind(&settings, &settings, true)?;
    writable
        .attach(&network)
        .context("mounting '/proc/sys/net'")?;
    if let Some(copy) = of_libvirt {
        copy.attach(&meminfo).context("keeping '/proc/meminfo'")?;
    }
    root::mask_kernel(confinement)?;
    if has_units && let Err(error) = mount_whole_proc(flags) {
        log::warn!("{error:#}: units with ProtectProc= will not start");
    }
    Ok(())
}

/// Mount point of a `/proc` without covers, unreachable by path.
const WHOLE_PROC: &str = "/run/host/proc";

/// Mounts a second `/proc`, without covers. A user namespace may mount a new `/proc` only if it has one without covers
/// (`mount_too_revealing()` of the kernel), and units with `ProtectProc=` or `ProcSubset=` do not start unless systemd can mount
/// theirs. The kernel does not require the mount to be reachable, so an empty tmpfs covers its parent.
fn mount_whole_proc(flags: MsFlags) -> Result<()> {
    let whole = Path::new(WHOLE_PROC);
    root::make_dir(whole, 0o700)?;
    let doing = || format!("mounting '{WHOLE_PROC}'");
    let (proc, cover) = (Some("proc"), Some("tmpfs"));
    mount(proc, whole, proc, flags, None::<&str>).with_context(doing)?;
    let above = whole.parent().unwrap_or(whole);
    let empty = Some("size=0,mode=700");
    mount(cover, above, cover, flags | MsFlags::MS_RDONLY, empty).with_context(doing)
}

/// Capabilities needed for waiting.
const KEPT: [Capability; 2] = [Capability::CAP_SYS_BOOT, Capability::CAP_KILL];

/// Waits until the first process of the sandbox has ended, and ends in the same way. The kernel then kills the processes that are
/// left. Meanwhile requests of the host are passed on to it, if it is systemd. `before` is called first, with no capabilities but
/// those for waiting.
pub fn reap(first: Pid, is_systemd: bool, before: impl FnOnce()) -> ! {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        if let Err(error) = caps::set(None, set, &kept) {
            log::error!("giving up capabilities: {error}");
            std::process::exit(1);
        }
    }
    process::end_with_parent();
    // The kernel keeps blocked signals for PID 1, and drops others that it does not handle (kill(2)).
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    if let Err(error) = signals.thread_block() {
        log::warn!("listening to the host: {error}");
    }
    before();
    loop {
        reap_ended(first);
        let signal = signals.wait().ok();
        if let (Some(request), true) = (signal.and_then(PowerRequest::of_signal), is_systemd) {
            request.pass_on(first);
        }
    }
}

/// Reaps the processes that have ended, and ends with the first one of the sandbox.
fn reap_ended(first: Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == first => std::process::exit(status),
            // reboot(2) kills the init of a pid namespace by a signal (pid_namespaces(7)).
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == first => exit_like(signal),
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => std::process::exit(1),
        }
    }
}

fn exit_like(signal: Signal) -> ! {
    // reboot(2) ends this process if it is allowed.
    if signal == Signal::SIGHUP {
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    } else if signal == Signal::SIGINT {
        let _ = reboot(RebootMode::RB_POWER_OFF);
    }
    std::process::exit(128 + signal as i32)
}
