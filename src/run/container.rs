//! A sandbox as a container: libvirt places the host's directories in the staging root.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::config::{IdMap, Platform, Staged, Stdio};

use guest_init::channel::link::Link;
use guest_init::seccomp::usual::Confined;
use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::config::security::idmap::USUAL_COUNT;
use crate::config::{Idmap, SandboxName};
use crate::domain::lxc::{self, LxcDomain};
use crate::domain::template::{self, Template};
use crate::domain::{BlockDevice, Domain, Filesystem, disk_name};
use crate::error::{Error, Result};
use crate::guest::ids::{self, Registry};
use crate::guest::{self, confinement};
use crate::host::cgroup;
use crate::host::{self, HostFacts};
use crate::hypervisor::Hypervisor;
use crate::run::contract::{self, Platforms};
use crate::run::disks::{self, Attached};
use crate::run::layout::{Granularity, Layout, ROOT, Share};
use crate::run::{Account, Plan, Purpose, Reach, Request};
use crate::sys::process::first_process::{self, Stage};
use crate::sys::process::pidfd::Process;

/// What the kernel and the host's services show of themselves below a root; a sandbox has its own.
const NOT_SHARED: [&str; 4] = ["proc", "sys", "dev", "run"];

/// The plan of a container.
pub fn plan(
    request: &Request,
    name: &SandboxName,
    domain: &Domain,
    facts: &HostFacts,
    stdio: Stdio,
    (state, purpose): (&Path, Purpose),
) -> Result<Plan> {
    let account = Account::find(&request.who)?;
    let mut layout = Layout::new(request, state, Granularity::Files)?;
    layout.isolate();
    let stage = state.join("stage");
    let mut filesystems = vec![Filesystem {
        source: stage.clone(),
        target: "/".into(),
        read_only: false,
    }];
    for share in &layout.shares {
        filesystems.extend(mounts(share, facts));
    }
    let devices = Devices::new(request, &layout, purpose)?;
    let mut domain = domain.clone();
    domain.disks = devices.blocks().collect();
    lxc::check(&domain)?;
    let place = (state, purpose);
    let owned = owned(&filesystems, &layout.temporary, state);
    let idmap = ids(request, domain.uuid, &account, &owned, place)?;
    let confined = match (account.identity.privileged, idmap) {
        (false, _) => Confined::Unprivileged,
        (true, Some(_)) => Confined::OwnRoot,
        (true, None) => Confined::HostsRoot,
    };
    let driver = Platforms {
        platform: Platform::Container,
        idmap,
        confinement: confinement::given(&request.confinement, confined, &facts.arch)?,
        container: "lxc-libvirt",
        staged: devices.staged(&layout),
        disks: devices.tagged(request),
        // The first console is the log's.
        shell: request.shell.then(|| PathBuf::from("/dev/tty2")),
        max_pids: Some(request.resources.container_pids(host::pid_max())),
        tmpfs_size: Some(request.resources.tmpfs_size()),
    };
    let temporary = layout.temporary.clone();
    let guest = contract::config(request, name, &account, stdio, layout, driver);
    let granted = match confined {
        Confined::HostsRoot => request.confinement.capabilities.granted(),
        // What is granted there is of no use on the host.
        Confined::OwnRoot | Confined::Unprivileged => BTreeSet::new(),
    };
    let view = LxcDomain::new(&domain, facts, filesystems).granting(&granted);
    let overrides = Path::new(template::OVERRIDES);
    Ok(Plan {
        xml: Template::LxcDomain.render(&view, Some(overrides))?,
        uuid: domain.uuid,
        guest,
        temporary,
        owner: account.identity,
        reach: Reach::HandedDown {
            log: stage.join("guest.log"),
            stage,
        },
        emulation: None,
        boot: None,
        copies: vec![],
        files: None,
        devices: devices.attached,
    })
}

/// Chooses the ids of a container.
fn ids(
    request: &Request,
    uuid: Uuid,
    account: &Account,
    filesystems: &[Filesystem],
    (state, purpose): (&Path, Purpose),
) -> Result<Option<IdMap>> {
    let idmap = idmap_for(request.confinement.idmap, account)?;
    let services = Path::new(guest::SERVICES);
    let registry = Registry::of(&[services, Path::new(guest::RUNTIME)]);
    ids::decide(
        idmap,
        filesystems,
        &guest::find_init()?,
        state,
        |wanted| match purpose {
            Purpose::Start => registry.claim(state, uuid, wanted),
            Purpose::Show => registry.preview(state, uuid, wanted),
        },
    )
}

/// Returns what ids are mapped for. Fresh directories are made later: their filesystem is that of the nearest directory.
fn owned(filesystems: &[Filesystem], temporary: &[PathBuf], state: &Path) -> Vec<Filesystem> {
    let is_there = |path: &&Path| path.exists();
    let nearest = state.ancestors().find(is_there).unwrap_or(state);
    let owned = filesystems.iter().cloned().map(|filesystem| {
        match temporary.contains(&filesystem.source) {
            true => Filesystem {
                source: nearest.to_owned(),
                ..filesystem
            },
            false => filesystem,
        }
    });
    owned.collect()
}

/// Returns the map of ids for a command of `account`. With `auto` an ordinary user whose id is beyond a usual range keeps it: a
/// command without capabilities is no more than that user, and could not read its own files else.
///
/// # Errors
/// Where the account is not among the ids that are asked for.
fn idmap_for(asked: Idmap, account: &Account) -> Result<Idmap> {
    let (uid, gid) = (account.identity.uid, account.identity.gid);
    let count = match asked {
        Idmap::No => return Ok(Idmap::No),
        Idmap::Auto => USUAL_COUNT,
        Idmap::Range(range) => range.count(),
    };
    if uid.max(gid) < count {
        return Ok(asked);
    }
    if asked == Idmap::Auto && uid != 0 && gid != 0 {
        log::info!("'{}' ({uid}:{gid}) keeps the ids of the host", account.name);
        return Ok(Idmap::No);
    }
    Err(Error::refused(format!(
        "the user '{}' ({uid}:{gid}) is not among the {count} ids of the sandbox; use --idmap START:COUNT with more, or --idmap no",
        account.name
    )))
}

/// How long a container without a command may take to end.
const END: Duration = Duration::from_secs(1);

/// Ends a container whose command has ended, so that libvirt finds nothing of it left to end.
///
/// When the process that keeps a container goes while one is in the container's cgroup, be it that process itself, libvirtd
/// waits 200 ms for it and answers nobody meanwhile (`virCgroupKillPainfully()`). So that process is taken out of
/// the group, and the container's first one, which ends with the channel, is waited for.
///
/// `false` where something of it may still be there.
///
/// # Errors
/// Where it cannot be done. The domain then ends with the connection, in libvirt's own time.
pub fn end(
    hypervisor: &dyn Hypervisor,
    name: &SandboxName,
    stage: &Path,
    link: Link,
) -> Result<bool> {
    let failed = || Error::step::<io::Error>("ending the container");
    let Some(controller) = hypervisor.state(name.as_str())?.id() else {
        return Ok(false);
    };
    let keeper = Process::open(controller).map_err(failed())?;
    let Stage::Runs(first) = first_process::find(controller, stage)? else {
        return Ok(false);
    };
    let groups = cgroup::of_sandbox(controller, name);
    let init = Process::open(first.init.pid()).map_err(failed())?;
    // Its number may be another's by now.
    if first.init.identity().is_err() {
        return Ok(false);
    }
    cgroup::join_own_groups(controller).map_err(failed())?;
    drop(link);
    if !init.wait(END) {
        return Ok(false);
    }
    // It would go by itself, but takes a while to see it.
    keeper.signal(Signal::SIGKILL).map_err(failed())?;
    let has_gone = keeper.wait(END);
    Ok(cgroup::remove_all(&groups) && has_gone)
}

/// The block devices of a container: those of its images, then the user's. libvirt calls them `sda`, `sdb`…
struct Devices {
    attached: Vec<Attached>,
    images: usize,
}

impl Devices {
    fn new(request: &Request, layout: &Layout, purpose: Purpose) -> Result<Self> {
        let mut attached = Vec::new();
        for image in &layout.images {
            attached.push(match purpose {
                Purpose::Start => disks::attach_image(image)?,
                Purpose::Show => Attached::pretended(&image.source, image.read_only),
            });
        }
        for disk in &request.disks {
            attached.push(match purpose {
                Purpose::Start => disks::attach_disk(disk)?,
                Purpose::Show => Attached::pretended(disk.source(), disk.is_read_only()),
            });
        }
        Ok(Self {
            attached,
            images: layout.images.len(),
        })
    }

    fn blocks(&self) -> impl Iterator<Item = BlockDevice> {
        self.attached.iter().map(|attached| attached.device.clone())
    }

    fn node(index: usize) -> guest_init::config::BlockDevice {
        let name = disk_name("sd", index);
        guest_init::config::BlockDevice::Node(Path::new("/dev").join(name))
    }

    fn staged(&self, layout: &Layout) -> Vec<Staged> {
        let images = layout.images.iter().enumerate();
        images
            .map(|(index, image)| Staged::Image {
                device: Self::node(index),
                // The device is the partition already.
                partition: None,
                path: image.staged.clone(),
                read_only: image.read_only,
            })
            .collect()
    }

    fn tagged(&self, request: &Request) -> Vec<guest_init::config::Disk> {
        let disks = request.disks.iter().enumerate();
        disks
            .map(|(index, disk)| guest_init::config::Disk {
                tag: disk.tag().as_str().to_owned(),
                device: Self::node(self.images + index),
            })
            .collect()
    }
}

/// libvirt does not bind recursively, so each mount below a share is placed by itself.
fn mounts(share: &Share, facts: &HostFacts) -> Vec<Filesystem> {
    let is_root = share.staged == Path::new(ROOT);
    let is_shared =
        |inside: &Path| !is_root || !NOT_SHARED.iter().any(|top| inside.starts_with(top));
    facts
        .with_submounts(&share.source)
        .filter_map(|mount_point| {
            let inside = mount_point.strip_prefix(&share.source).ok()?;
            // One that another mount covers, or that is not ours to see, is left out.
            let is_there = inside.as_os_str().is_empty() || mount_point.exists();
            (is_there && is_shared(inside)).then(|| Filesystem {
                source: mount_point.to_owned(),
                // Not joined to nothing: the slash at the end would make a file a directory.
                target: match inside.as_os_str().is_empty() {
                    true => share.staged.clone(),
                    false => share.staged.join(inside),
                },
                read_only: share.read_only,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::layout::Kind;

    #[test]
    fn mounts_of_the_kernel_are_not_shared() {
        let facts = HostFacts {
            arch: "x86_64".into(),
            system_dirs: vec![],
            mount_points: ["/", "/proc", "/proc/sys", "/dev/pts", "/run", "/usr"]
                .map(PathBuf::from)
                .to_vec(),
        };
        let share = Share {
            source: "/".into(),
            staged: ROOT.into(),
            read_only: true,
            kind: Kind::Directory,
        };
        let targets: Vec<_> = mounts(&share, &facts)
            .into_iter()
            .map(|filesystem| filesystem.target)
            .collect();
        assert_eq!(targets, [Path::new("/host"), Path::new("/host/usr")]);
    }

    #[test]
    fn a_user_beyond_the_range_keeps_its_ids_and_root_never_does() {
        let account = |uid, gid| {
            let mut account = Account::find(&crate::run::Who::Privileged).unwrap();
            (account.identity.uid, account.identity.gid) = (uid, gid);
            account
        };
        let range: Idmap = "1000000:100000".parse().unwrap();
        for (asked, uid, gid, chosen) in [
            (Idmap::Auto, 0, 0, Some(Idmap::Auto)),
            (Idmap::Auto, 65534, 65534, Some(Idmap::Auto)),
            (Idmap::Auto, 65536, 65536, Some(Idmap::No)),
            (Idmap::Auto, 0, 65536, None),
            (Idmap::Auto, 65536, 0, None),
            (Idmap::No, 0, 65536, Some(Idmap::No)),
            (range, 65536, 0, Some(range)),
            (range, 100_000, 0, None),
        ] {
            let found = idmap_for(asked, &account(uid, gid));
            assert_eq!(found.ok(), chosen, "{asked:?} {uid}:{gid}");
        }
    }
}
