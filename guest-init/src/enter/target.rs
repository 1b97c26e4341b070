//! Target of `enter`: the first process of a sandbox, and the checks of its namespaces.
//!
//! `unsafe` for the ioctls of namespaces (`ioctl_ns(2)`).
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::libc::uid_t;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_dumpable;
use nix::unistd::chdir;

use super::bounds::Bounds;
use crate::config::{Confinement, IdMap};
use crate::process::label::Label;
use crate::sys::first_process::{Identity, ProcDir};
use crate::sys::{cgroup, mountinfo};

nix::ioctl_none!(
    /// Opens the user namespace that owns a namespace (`NS_GET_USERNS`).
    ns_get_userns,
    0xb7,
    1
);
nix::ioctl_none!(
    /// Opens the parent of a user namespace (`NS_GET_PARENT`).
    ns_get_parent,
    0xb7,
    2
);
nix::ioctl_read_bad!(
    /// Reads the user id of the creator of a user namespace (`NS_GET_OWNER_UID`).
    ns_get_owner_uid,
    nix::request_code_none!(0xb7, 4),
    uid_t
);

/// First process of a sandbox, with all that is needed to become a process like it.
#[derive(Debug)]
pub struct Target {
    /// Namespaces, in the order in which they are entered.
    namespaces: Vec<(CloneFlags, File)>,
    cgroup_files: Vec<PathBuf>,
    has_ids: bool,
    bounding: u64,
    label: Option<Label>,
    bounds: Bounds,
}

/// Namespaces that the user namespace owns. The mount namespace comes last: it changes the root.
const NAMESPACES: [(&str, CloneFlags); 6] = [
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Identity of a namespace: device and inode (`namespaces(7)`).
type Id = (u64, u64);

/// A namespace of the target and our own of the same kind.
#[derive(Debug, Clone, Copy)]
struct Namespace {
    name: &'static str,
    theirs: Id,
    ours: Id,
    /// User namespace that owns that of the target.
    owner: Id,
}

/// The user namespace of the target and our own.
#[derive(Debug, Clone)]
struct UserNamespace {
    theirs: Id,
    ours: Id,
    /// Parent of the target's user namespace, and the user id of its creator; absent if it is our own.
    origin: Option<(Id, u32)>,
    /// Contents of `uid_map` and `gid_map`.
    maps: [String; 2],
}

/// Refuses a target that has a namespace of the host, or another user namespace than the sandbox was given: a process that joins it
/// could act on the host.
fn check(seen: &[Namespace], user: &UserNamespace, idmap: Option<IdMap>) -> Result<()> {
    for namespace in seen {
        if namespace.theirs == namespace.ours {
            bail!("its {} namespace is the host's", namespace.name);
        }
    }
    let Some(ids) = idmap else {
        if user.theirs != user.ours {
            bail!("it has a user namespace, which its configuration does not give it");
        }
        return Ok(());
    };
    let Some((parent, maker)) = user.origin.filter(|_| user.theirs != user.ours) else {
        bail!("its user namespace is the host's");
    };
    if parent != user.ours || maker != ids.first {
        bail!("its user namespace is not the one that the sandbox was given");
    }
    let wanted = [0, ids.first, ids.count].map(|number| number.to_string());
    for map in &user.maps {
        if !map.split_whitespace().eq(wanted.iter().map(String::as_str)) {
            bail!(
                "its ids are not those of its configuration: '{}'",
                map.trim()
            );
        }
    }
    for namespace in seen {
        if namespace.owner != user.theirs {
            bail!("its {} namespace is not its own", namespace.name);
        }
    }
    Ok(())
}

impl Target {
    /// Opens the process `pid`, which has to have this identity, in a sandbox with these ids.
    ///
    /// # Errors
    /// If it has ended, or its namespaces are not those of such a sandbox.
    pub fn open(pid: u32, identity: Identity, idmap: Option<IdMap>) -> Result<Self> {
        let gone = || format!("process {pid} is not the sandbox's first any more");
        // All files are opened in this directory, so they belong to one process.
        let process = ProcDir::open(pid).with_context(gone)?;
        if process.identity().with_context(gone)? != identity {
            bail!("{}", gone());
        }
        let user = process.file("ns/user")?;
        let others: Vec<(&'static str, CloneFlags, File)> = NAMESPACES
            .into_iter()
            .map(|(name, flag)| Ok((name, flag, process.file(&format!("ns/{name}"))?)))
            .collect::<Result<_>>()?;
        let seen: Vec<Namespace> = (others.iter())
            .map(|(name, _, file)| inspect(name, file))
            .collect::<Result<_>>()?;
        let seen_user = UserNamespace {
            theirs: id(&user)?,
            ours: own("user")?,
            origin: (id(&user)? != own("user")?)
                .then(|| origin(&user))
                .transpose()?,
            maps: [process.read("uid_map")?, process.read("gid_map")?],
        };
        check(&seen, &seen_user, idmap)
            .with_context(|| format!("process {pid} is in no sandbox that could be entered"))?;
        let has_ids = idmap.is_some();
        let first = has_ids.then_some((CloneFlags::CLONE_NEWUSER, user));
        let others = others.into_iter().map(|(_, flag, file)| (flag, file));
        let status = process.read("status")?;
        let bounding = (status.lines().find_map(|line| line.strip_prefix("CapBnd:")))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .ok_or_else(|| anyhow!("reading '/proc/{pid}/status': no CapBnd"))?;
        let mounted = mountinfo::read().context("reading the mounts of this process")?;
        let groups = cgroup::parse(&process.read("cgroup")?);
        let own = fs::read_to_string("/proc/self/cgroup").context("reading '/proc/self/cgroup'")?;
        let cgroup_files = cgroup::procs_files(&groups, &cgroup::parse(&own), &mounted);
        let cgroup_files = cgroup_files.map_err(|missed| {
            anyhow!(
                "the sandbox's limits cannot be taken over: its cgroup '{}:{}' is in no hierarchy that is mounted here; mount that",
                missed.controllers,
                missed.path.display()
            )
        })?;
        Ok(Self {
            // The user namespace comes first: it gives the capabilities to enter those it owns (setns(2)).
            namespaces: first.into_iter().chain(others).collect(),
            cgroup_files,
            has_ids,
            bounding,
            label: Label::of_process(&process)?,
            bounds: Bounds::of(&process)?,
        })
    }

    /// Makes this process one of the sandbox, except for the pid namespace, which only its children enter. No file of the sandbox's root
    /// is used before all rights are dropped that the sandbox does not have. Returns the resource limits, which are still to be set.
    ///
    /// # Errors
    /// If a step fails. The process must not go on then.
    pub fn join(self, confinement: &Confinement) -> Result<Bounds> {
        // 1. The label, priority and cgroups while `/proc` and `/sys` are those of the host: the sandbox controls its own.
        if let Some(label) = &self.label {
            label.set_for_exec()?;
        }
        self.bounds.apply_priority()?;
        for path in &self.cgroup_files {
            fs::write(path, "0")
                .with_context(|| format!("joining the cgroup of '{}'", path.display()))?;
        }
        // 2. The namespaces, the user namespace first.
        for (flag, file) in &self.namespaces {
            setns(file, *flag).with_context(|| format!("entering the sandbox ({flag:?})"))?;
        }
        if self.has_ids {
            // 3. The user id of the host has no mapping in the user namespace.
            crate::namespaces::userns::become_root()?;
        }
        // 4. The filter before the capabilities: to install it takes CAP_SYS_ADMIN (seccomp(2)).
        crate::process::confine::confine(confinement)?;
        // 5. The bounding set before the permitted set: dropping from it takes CAP_SETPCAP (capabilities(7)).
        for capability in caps::all() {
            if self.bounding & capability.bitmask() == 0 {
                caps::drop(None, CapSet::Inheritable, capability)?;
                caps::drop(None, CapSet::Bounding, capability)
                    .with_context(|| format!("giving up {capability}"))?;
            }
        }
        // 6. The bounding set has no effect before execve(2), and a process of the sandbox could trace this one until then.
        let given_up: Vec<Capability> = (confinement.dropped.iter())
            .filter_map(|name| name.parse().ok())
            .collect();
        let granted = |set| -> Result<CapsHashSet> {
            let held = caps::read(None, set)?.into_iter();
            Ok(held
                .filter(|capability| self.bounding & capability.bitmask() != 0)
                .filter(|capability| !given_up.contains(capability))
                .collect())
        };
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &granted(set)?).context("giving up capabilities")?;
        }
        chdir("/").context("entering '/'")?;
        // 7. A change of the user resets the attribute to `fs.suid_dumpable` (PR_SET_DUMPABLE(2const)).
        set_dumpable(false).context("hiding from the sandbox")?;
        Ok(self.bounds)
    }
}

fn id(file: &File) -> Result<Id> {
    let metadata = file.metadata().context("looking at a namespace")?;
    Ok((metadata.dev(), metadata.ino()))
}

fn own(name: &str) -> Result<Id> {
    let path = Path::new("/proc/self/ns").join(name);
    let file = File::open(&path).with_context(|| format!("opening '{}'", path.display()))?;
    id(&file)
}

fn inspect(name: &'static str, file: &File) -> Result<Namespace> {
    let doing = || format!("asking whose the {name} namespace is");
    // SAFETY: the descriptor is open, and there is no argument.
    let owner = unsafe { ns_get_userns(file.as_raw_fd()) }.with_context(doing)?;
    Ok(Namespace {
        name,
        theirs: id(file)?,
        ours: own(name)?,
        owner: id(&opened(owner))?,
    })
}

/// Returns the parent of a user namespace, and the user id of its creator.
fn origin(user: &File) -> Result<(Id, u32)> {
    let doing = "asking whose the user namespace is";
    // SAFETY: as above.
    let parent = unsafe { ns_get_parent(user.as_raw_fd()) }.context(doing)?;
    let mut maker = uid_t::MAX;
    // SAFETY: the descriptor is open, and `maker` outlives the call.
    unsafe { ns_get_owner_uid(user.as_raw_fd(), &raw mut maker) }.context(doing)?;
    Ok((id(&opened(parent))?, maker))
}

fn opened(number: i32) -> File {
    // SAFETY: the kernel has just opened it for us.
    unsafe { OwnedFd::from_raw_fd(number) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Id = (4, 1);
    const USER: Id = (4, 2);
    const IDS: IdMap = IdMap {
        first: 1 << 20,
        count: 1 << 16,
    };

    fn good() -> (Vec<Namespace>, UserNamespace) {
        let seen = |(index, (name, _)): (usize, (&'static str, CloneFlags))| Namespace {
            name,
            theirs: (4, 100 + index as u64),
            ours: (4, 50 + index as u64),
            owner: USER,
        };
        let map = "         0    1048576      65536\n".to_owned();
        let user = UserNamespace {
            theirs: USER,
            ours: HOST,
            origin: Some((HOST, IDS.first)),
            maps: [map.clone(), map],
        };
        (NAMESPACES.into_iter().enumerate().map(seen).collect(), user)
    }

    #[test]
    fn a_sandbox_with_its_own_namespaces_is_accepted() {
        let (seen, user) = good();
        check(&seen, &user, Some(IDS)).unwrap();
        let hosts = UserNamespace {
            theirs: HOST,
            origin: None,
            ..user
        };
        check(&seen, &hosts, None).unwrap();
    }

    #[test]
    fn a_namespace_of_the_host_is_refused() {
        for index in 0..NAMESPACES.len() {
            for idmap in [Some(IDS), None] {
                let (mut seen, mut user) = good();
                if idmap.is_none() {
                    user.theirs = HOST;
                }
                seen[index].theirs = seen[index].ours;
                let error = check(&seen, &user, idmap).unwrap_err().to_string();
                assert!(error.contains(NAMESPACES[index].0), "{error}");
            }
            let (mut seen, user) = good();
            seen[index].owner = HOST;
            assert!(check(&seen, &user, Some(IDS)).is_err(), "{index}");
        }
    }

    #[test]
    fn another_user_namespace_is_refused() {
        let with = |change: fn(&mut UserNamespace)| {
            let (seen, mut user) = good();
            change(&mut user);
            check(&seen, &user, Some(IDS)).is_err()
        };
        assert!(with(|user| user.theirs = HOST));
        assert!(with(|user| user.origin = None));
        // Made in the sandbox, by its root.
        assert!(with(|user| user.origin = Some((USER, IDS.first))));
        assert!(with(|user| user.origin = Some((HOST, 0))));
        assert!(with(|user| user.maps[0] = "0 0 4294967295\n".to_owned()));
        assert!(with(|user| user.maps[1] = "0 1048576 1\n".to_owned()));
        assert!(with(|user| user.maps[1].push_str("70000 0 1\n")));
        assert!(with(|user| user.maps[0].clear()));
        let (seen, user) = good();
        assert!(check(&seen, &user, None).is_err());
    }
}
