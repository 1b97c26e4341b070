//! Namespaces that root of a sandbox may configure (`user_namespaces(7)`).

pub mod try_ids;
pub mod userns;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use caps::CapSet;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, Uid, pipe2, setresuid};

use crate::config::IdMap;
use crate::network::netlink::Netlink;
use crate::process;

/// Namespaces that root of the sandbox may configure. They have no process yet.
#[derive(Debug)]
pub struct Namespaces {
    /// User namespace that owns the others.
    pub user: File,
    network: File,
    /// Further namespaces that a process of the sandbox enters.
    pub others: Vec<(CloneFlags, File)>,
}

/// Namespaces made in the user namespace once its ids are mapped: files in `/proc/net` of a new network namespace belong to root of
/// the user namespace at that moment.
const MADE: [CloneFlags; 3] = [
    CloneFlags::CLONE_NEWNET,
    CloneFlags::CLONE_NEWIPC,
    CloneFlags::CLONE_NEWUTS,
];

impl Namespaces {
    /// Makes new namespaces.
    pub fn new(ids: IdMap) -> Result<Self> {
        make(ids, MADE.into_iter().collect(), |holder| {
            Ok(Self {
                user: open_namespace(holder, "user")?,
                network: open_namespace(holder, "net")?,
                others: vec![
                    (CloneFlags::CLONE_NEWIPC, open_namespace(holder, "ipc")?),
                    (CloneFlags::CLONE_NEWUTS, open_namespace(holder, "uts")?),
                ],
            })
        })
    }

    /// Moves the NICs `names` to the network namespace and enters it. A missing NIC is reported when it is configured.
    pub fn enter_network(&self, names: &[String]) -> Result<()> {
        if !names.is_empty() {
            let mut netlink = Netlink::open()?;
            for link in netlink.links()? {
                if names.contains(&link.name) {
                    netlink.move_to_namespace(&link, &self.network)?;
                }
            }
        }
        setns(&self.network, CloneFlags::CLONE_NEWNET).context("entering the network namespace")
    }
}

/// Makes a user namespace alone.
pub fn make_user_namespace(ids: IdMap) -> Result<File> {
    make(ids, CloneFlags::empty(), |holder| {
        open_namespace(holder, "user")
    })
}

/// Makes a user namespace, and `others` in it, in a new process, and opens them.
fn make<T>(ids: IdMap, others: CloneFlags, open: impl FnOnce(Pid) -> Result<T>) -> Result<T> {
    let doing = "making a user namespace";
    let (user_report, user_told) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (report, told) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (wait_for, go) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    // 1. A new process makes the namespaces: they live as long as a process or an open file refers to them (namespaces(7)).
    let Some(holder) = process::fork()? else {
        drop((user_report, report, go));
        hold(ids, others, [user_told, told], wait_for);
    };
    drop((user_told, told, wait_for));
    let mut go = File::from(go);
    // 2. It makes the user namespace. 3. This process maps the ids: that takes CAP_SETUID in the parent
    //    namespace (user_namespaces(7)).
    // 4. It makes the other namespaces, with the ids mapped. 5. They are opened before it ends.
    let made = wait_done(user_report)
        .map_err(name_limit)
        .and_then(|()| map_ids(holder, ids))
        .and_then(|()| go.write_all(&[0]).context("going on"))
        .and_then(|()| wait_done(report))
        .and_then(|()| open(holder));
    // The holder ends when this is closed.
    drop(go);
    waitpid(holder, None).context(doing)?;
    made.context(doing)
}

/// Limit of user namespaces of one user.
const LIMIT: &str = "/proc/sys/user/max_user_namespaces";

/// Distinguishes disabled user namespaces from a limit that is reached for now: the kernel returns `ENOSPC` for both (`namespaces(7)`).
fn name_limit(error: anyhow::Error) -> anyhow::Error {
    let is_off = || fs::read_to_string(LIMIT).is_ok_and(|text| text.trim() == "0");
    match error.downcast_ref::<Errno>() {
        Some(Errno::ENOSPC) if is_off() => {
            anyhow::Error::from(Errno::EOPNOTSUPP).context(format!("'{LIMIT}' is 0"))
        }
        Some(Errno::ENOSPC) => error.context(format!("'{LIMIT}' is reached")),
        Some(_) | None => error,
    }
}

fn open_namespace(process: Pid, name: &str) -> Result<File> {
    let path = format!("/proc/{process}/ns/{name}");
    File::open(&path).with_context(|| format!("opening '{path}'"))
}

fn map_ids(process: Pid, ids: IdMap) -> Result<()> {
    let map = format!("0 {} {}\n", ids.first, ids.count);
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{process}/{file}");
        fs::write(&path, &map).with_context(|| format!("writing '{path}'"))?;
    }
    Ok(())
}

/// Waits until the holder has finished a step and reported its errno, or 0.
fn wait_done(report: OwnedFd) -> Result<()> {
    let mut number = [0; 4];
    File::from(report)
        .read_exact(&mut number)
        .context("its process has ended")?;
    match i32::from_ne_bytes(number) {
        0 => Ok(()),
        number => Err(Errno::from_raw(number).into()),
    }
}

/// Makes the namespaces in the process that [`make`] starts, and keeps them until the parent has opened them.
fn hold(ids: IdMap, others: CloneFlags, [user_told, told]: [OwnedFd; 2], wait_for: OwnedFd) -> ! {
    let tell = |told: OwnedFd, outcome: nix::Result<()>| {
        let number = outcome.map_or_else(|error| error as i32, |()| 0);
        if File::from(told).write_all(&number.to_ne_bytes()).is_err() || number != 0 {
            std::process::exit(1);
        }
    };
    let mut wait_for = File::from(wait_for);
    tell(
        user_told,
        set_effective_user(ids.first).and_then(|()| unshare(CloneFlags::CLONE_NEWUSER)),
    );
    if wait_for.read(&mut [0]).is_ok_and(|read| read == 1) {
        tell(told, unshare(others));
        let _ = wait_for.read(&mut [0]);
    }
    std::process::exit(0)
}

/// Makes this id of the host the owner of namespaces made from now on. Resources with a limit per user (watches of files, namespaces,
/// queues) are also counted for the owner of a user namespace (`namespaces(7)`). If that were root of the host, a sandbox could use
/// up the limits of the host and of other sandboxes.
fn set_effective_user(id: u32) -> nix::Result<()> {
    let id = Uid::from_raw(id);
    setresuid(Uid::current(), id, Uid::from_raw(0))?;
    // An effective id other than 0 drops the effective capabilities (capabilities(7)), which a new user namespace may need.
    let raised = caps::read(None, CapSet::Permitted)
        .and_then(|permitted| caps::set(None, CapSet::Effective, &permitted));
    raised.map_err(|_| Errno::EIO)
}
