//! Making the namespaces that a sandbox's root may configure (`user_namespaces(7)`).

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

/// Namespaces that the sandbox's root may configure, and that have no process yet.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace.
    pub user: File,
    network: File,
    /// The others, of which a process enters each.
    pub others: Vec<(CloneFlags, File)>,
}

/// Namespaces made inside the user namespace, once its ids are mapped: the files of a new network in `/proc/net` belong to
/// whoever is root of the user namespace at that moment.
const MADE: [CloneFlags; 3] = [
    CloneFlags::CLONE_NEWNET,
    CloneFlags::CLONE_NEWIPC,
    CloneFlags::CLONE_NEWUTS,
];

impl Namespaces {
    /// Makes them.
    ///
    /// # Errors
    /// Where the kernel refuses, as `user.max_user_namespaces` may have it.
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

    /// Takes the NICs `names` along to the network namespace and enters that. Those that are not there are missed when they
    /// are configured.
    ///
    /// # Errors
    /// Where a NIC cannot be moved.
    pub fn enter_network(&self, names: &[String]) -> Result<()> {
        if !names.is_empty() {
            let mut netlink = Netlink::open()?;
            for link in netlink.links()? {
                if names.contains(&link.name) {
                    netlink.give(&link, &self.network)?;
                }
            }
        }
        setns(&self.network, CloneFlags::CLONE_NEWNET).context("entering the network namespace")
    }
}

/// Makes a user namespace that has no other namespaces.
///
/// # Errors
/// Where the kernel refuses, for example because of `user.max_user_namespaces`.
pub fn make_user_namespace(ids: IdMap) -> Result<File> {
    make(ids, CloneFlags::empty(), |holder| {
        open_namespace(holder, "user")
    })
}

/// Has a process make a user namespace, and `others` in it, and opens them.
fn make<T>(ids: IdMap, others: CloneFlags, opened: impl FnOnce(Pid) -> Result<T>) -> Result<T> {
    let doing = "making a user namespace";
    let (user_report, user_told) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (report, told) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (wait_for, go) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    // Namespaces live as long as a process or an open file has them.
    let Some(holder) = process::divide()? else {
        drop((user_report, report, go));
        hold(ids, others, [user_told, told], wait_for);
    };
    drop((user_told, told, wait_for));
    let mut go = File::from(go);
    let made = done(user_report)
        .map_err(name_limit)
        .and_then(|()| map(holder, ids))
        .and_then(|()| go.write_all(&[0]).context("going on"))
        .and_then(|()| done(report))
        .and_then(|()| opened(holder));
    // It ends when this is closed.
    drop(go);
    waitpid(holder, None).context(doing)?;
    made.context(doing)
}

/// Where the kernel says how many user namespaces a user may have.
const LIMIT: &str = "/proc/sys/user/max_user_namespaces";

/// Tells user namespaces that are switched off from a limit that is reached for now: the kernel says `ENOSPC` of both
/// (`namespaces(7)`).
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

fn map(process: Pid, ids: IdMap) -> Result<()> {
    let map = format!("0 {} {}\n", ids.first, ids.count);
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{process}/{file}");
        fs::write(&path, &map).with_context(|| format!("writing '{path}'"))?;
    }
    Ok(())
}

/// Waits until the other side has done its step and told the number of its error, or 0.
fn done(report: OwnedFd) -> Result<()> {
    let mut number = [0; 4];
    File::from(report)
        .read_exact(&mut number)
        .context("its process has ended")?;
    match i32::from_ne_bytes(number) {
        0 => Ok(()),
        number => Err(Errno::from_raw(number).into()),
    }
}

/// Makes the namespaces in the process that [`make`] starts, and keeps them until they are open elsewhere.
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
        own(ids.first).and_then(|()| unshare(CloneFlags::CLONE_NEWUSER)),
    );
    if wait_for.read(&mut [0]).is_ok_and(|read| read == 1) {
        tell(told, unshare(others));
        let _ = wait_for.read(&mut [0]);
    }
    std::process::exit(0)
}

/// Has what is made from now on belong to this id of the host. Whatever there is only so much of for each user (watches of
/// files, namespaces, queues) is counted for the owner of a user namespace as well (`namespaces(7)`): were that the host's
/// root, a sandbox could leave nothing of it to the host and to other sandboxes.
fn own(id: u32) -> nix::Result<()> {
    let id = Uid::from_raw(id);
    setresuid(Uid::current(), id, Uid::from_raw(0))?;
    // capabilities(7): an effective id other than 0 takes them away; the kernel may want them for a user namespace.
    let raised = caps::read(None, CapSet::Permitted)
        .and_then(|permitted| caps::set(None, CapSet::Effective, &permitted));
    raised.map_err(|_| Errno::EIO)
}
