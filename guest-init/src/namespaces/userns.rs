//! The user namespace of a sandbox (`user_namespaces(7)`), and going down into it.
//!
//! PID 1 of the container makes the root while it still is the host's root, in namespaces that libvirt made. What it has made
//! cannot be changed in a mount namespace of a lesser user namespace (`mount_namespaces(7)`: read-only flags are locked,
//! and no mount can be taken away from what it covers). So the sandbox's own first process is one below, with
//! namespaces of its own for all that it may configure, and this one does nothing any more but wait for it.

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
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait, waitpid};
use nix::unistd::{Gid, Pid, Uid, pipe2, setfsgid, setfsuid, setgroups, setresgid, setresuid};

use crate::config::{Confinement, IdMap};
use crate::namespaces::Namespaces;
use crate::sys::first_process::{Identity, ProcDir};
use crate::sys::mount_api::Detached;
use crate::{process, root};

/// How many files a process of a service may have open (`DefaultLimitNOFILE=` of systemd).
const OPEN_FILES: u64 = 512 << 10;

/// Raises limits that services are used to set for themselves: in a user namespace nobody may exceed those it began with
/// (setrlimit(2)).
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

/// Makes files for the sandbox from now on: they belong to its root, though all that the host's root may is kept.
///
/// # Errors
/// Where capabilities cannot be raised again.
pub fn make_for(ids: IdMap) -> Result<()> {
    act_as(ids.first)
}

/// Makes files for the host for as long as `work` takes.
///
/// # Errors
/// As `work`, and [`make_for`].
pub fn make_for_host<T>(ids: Option<IdMap>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(ids) = ids else { return work() };
    act_as(0)?;
    let done = work();
    act_as(ids.first)?;
    done
}

fn act_as(id: u32) -> Result<()> {
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
    // credentials(7): leaving 0 takes the capabilities that are about files away.
    let doing = "keeping capabilities";
    let permitted = caps::read(None, CapSet::Permitted).context(doing)?;
    caps::set(None, CapSet::Effective, &permitted).context(doing)
}

/// Where [`descend`] goes on.
#[derive(Debug)]
pub enum Side {
    /// In the process that waits.
    Above {
        /// The first process of the sandbox.
        first: Pid,
        /// Identity that tells it from other processes, also from a later one of the same number.
        who: Identity,
        /// A byte comes on it once that process has booted.
        ready: OwnedFd,
    },
    /// In the first process of the sandbox, as its root.
    Below {
        /// Takes a byte once it has booted.
        ready: OwnedFd,
    },
}

/// Starts the first process of the sandbox. `groups` are files that take a process to the cgroups of this one. With `has_units`
/// systemd can give units of the sandbox a `/proc` of their own.
///
/// # Errors
/// Where the kernel refuses.
pub fn descend(
    namespaces: &Namespaces,
    groups: &[File],
    confinement: &Confinement,
    has_units: bool,
) -> Result<Side> {
    let doing = "starting the first process of the sandbox";
    let (report, told) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (wait_for, go) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (ready, booted) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    // A namespace of processes is entered by children alone, and belongs to the user namespace it was made in.
    let Some(between) = process::divide()? else {
        let said = match between(namespaces) {
            Ok(Some(pid)) => pid.to_string(),
            Ok(None) => {
                drop((report, told, go, ready));
                await_root(wait_for);
                // From here on the mounts are locked, and the cgroup is the root of what is seen.
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
                    .context("locking the mounts")?;
                become_root().context(doing)?;
                return Ok(Side::Below { ready: booted });
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
    waitpid(between, None).context(doing)?;
    let Ok(first) = said.parse().map(Pid::from_raw) else {
        bail!("{doing}: {said}");
    };
    for group in groups {
        (&*group)
            .write_all(b"0")
            .context("leaving the sandbox's cgroup")?;
    }
    let process = ProcDir::open(first.as_raw().cast_unsigned()).context(doing)?;
    let (who, processes) = (process.identity()?, process.file("ns/pid")?);
    setns(&processes, CloneFlags::CLONE_NEWPID).context(doing)?;
    let showing = process::spawn(|| match show_processes(confinement, has_units) {
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
    Ok(Side::Above { first, who, ready })
}

/// The process between: gives the pid of the first one, and in that one nothing.
fn between(namespaces: &Namespaces) -> Result<Option<Pid>> {
    setns(&namespaces.user, CloneFlags::CLONE_NEWUSER).context("entering the user namespace")?;
    for (kind, file) in &namespaces.others {
        setns(file, *kind).with_context(|| format!("entering a namespace ({kind:?})"))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).context("making a namespace of processes")?;
    process::divide()
}

/// Waits until the root is whole. Whoever makes it may fail, and this namespace ends with it.
fn await_root(wait_for: OwnedFd) {
    let mut byte = [0];
    if File::from(wait_for).read_exact(&mut byte).is_err() {
        std::process::exit(1);
    }
}

/// Becomes root of the user namespace that was entered.
///
/// # Errors
/// Where the kernel refuses.
pub fn become_root() -> Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).context("leaving all groups")?;
    setresgid(group, group, group).context("becoming root of the sandbox")?;
    setresuid(user, user, user).context("becoming root of the sandbox")
}

/// Mounts a `/proc` that shows the processes of the sandbox alone, in place of the one there is.
fn show_processes(confinement: &Confinement, has_units: bool) -> Result<()> {
    let proc = Path::new("/proc");
    let none = None::<&str>;
    // libvirt's, which shows the limits of the domain.
    let meminfo = proc.join("meminfo");
    let is_of_libvirt = fs::metadata(&meminfo)?.dev() != fs::metadata(proc)?.dev();
    let of_libvirt = is_of_libvirt
        .then(|| Detached::copy(&meminfo))
        .transpose()
        .context("keeping '/proc/meminfo'")?;
    while umount2(proc, MntFlags::MNT_DETACH).is_ok() {}
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), proc, Some("proc"), flags, none).context("mounting '/proc'")?;
    // What is the network namespace's belongs to the sandbox's root, the rest does not.
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
    if has_units && let Err(error) = show_whole(flags) {
        log::warn!("{error:#}: units with ProtectProc= will not start");
    }
    Ok(())
}

/// Where the kernel's own `/proc` is in a sandbox, with nothing laid over it, out of everybody's reach.
const WHOLE: &str = "/run/host/proc";

/// Mounts a `/proc` without covers beside the one that is used. A user namespace may mount one only where it has one that is whole
/// (mount_too_revealing() of the kernel), and units with `ProtectProc=` or `ProcSubset=` do not start unless systemd
/// can mount theirs. The kernel does not ask whether a path leads there, so none does: who reads all of `/run` is not to
/// read that.
fn show_whole(flags: MsFlags) -> Result<()> {
    let whole = Path::new(WHOLE);
    root::make_dir(whole, 0o700)?;
    let doing = || format!("mounting '{WHOLE}'");
    let (proc, cover) = (Some("proc"), Some("tmpfs"));
    mount(proc, whole, proc, flags, None::<&str>).with_context(doing)?;
    let above = whole.parent().unwrap_or(whole);
    let empty = Some("size=0,mode=700");
    mount(cover, above, cover, flags | MsFlags::MS_RDONLY, empty).with_context(doing)
}

/// All that waiting takes.
const KEPT: [Capability; 2] = [Capability::CAP_SYS_BOOT, Capability::CAP_KILL];

/// Waits until the first process of the sandbox has ended, and ends alike. The kernel then ends what is left. What is to be done
/// `before` is done without capabilities.
pub fn attend(first: Pid, before: impl FnOnce()) -> ! {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        if let Err(error) = caps::set(None, set, &kept) {
            log::error!("giving up capabilities: {error}");
            std::process::exit(1);
        }
    }
    process::end_with_parent();
    before();
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, status)) if pid == first => std::process::exit(status),
            // pid_namespaces(7): what reboot(2) does in a namespace of processes.
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == first => end_alike(signal),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => std::process::exit(1),
        }
    }
}

fn end_alike(signal: Signal) -> ! {
    // Ends this process, if it may.
    if signal == Signal::SIGHUP {
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    } else if signal == Signal::SIGINT {
        let _ = reboot(RebootMode::RB_POWER_OFF);
    }
    std::process::exit(128 + signal as i32)
}
