//! A sandbox as a container: libvirt places the host's directories in the staging root.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::config::{IdMap, Platform, Staged, Stdio};

use guest_init::link::Link;
use guest_init::seccomp::usual::Confined;
use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::config::{Idmap, SandboxName};
use crate::domain::lxc::{self, LxcDomain};
use crate::domain::template::{self, Template};
use crate::domain::{BlockDevice, Domain, Filesystem, disk_name};
use crate::error::{Error, Result};
use crate::guest::ids::{self, Registry};
use crate::guest::{self, cgroup, confinement};
use crate::host::{self, HostFacts};
use crate::hypervisor::Hypervisor;
use crate::run::contract::{self, Platforms};
use crate::run::disks::{self, Attached};
use crate::run::layout::{Granularity, Layout, ROOT, Share};
use crate::run::{Account, Plan, Purpose, Reach, Request};
use crate::sys::enter::init_process;
use crate::sys::pidfd::Process;

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
    let layout = Layout::new(request, state, Granularity::Files)?;
    let stage = state.join("stage");
    let mut filesystems = vec![Filesystem {
        source: stage.clone(),
        target: "/".into(),
        read_only: false,
    }];
    for share in &layout.shares {
        filesystems.extend(mounts(share, facts));
    }
    let devices = Devices::new(request, &layout, state, purpose)?;
    let mut domain = domain.clone();
    domain.disks = devices.blocks().collect();
    lxc::check(&domain)?;
    let place = (state, purpose);
    let idmap = ids(request, domain.uuid, &account, &filesystems, place)?;
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
        masked: sockets(&layout.shares)?,
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
        files: None,
        devices: devices.attached,
    })
}

/// The ids of a container. A command without capabilities needs none of its own: it has the caller's and can get no others.
fn ids(
    request: &Request,
    uuid: Uuid,
    account: &Account,
    filesystems: &[Filesystem],
    (state, purpose): (&Path, Purpose),
) -> Result<Option<IdMap>> {
    let idmap = match request.confinement.idmap {
        Idmap::Auto if !account.identity.privileged => Idmap::No,
        idmap @ (Idmap::Auto | Idmap::No | Idmap::Range(_)) => idmap,
    };
    let services = Path::new(guest::SERVICES);
    let registry = Registry::of(&[services, Path::new(guest::RUNTIME)]);
    ids::decide(
        idmap,
        filesystems,
        &guest::find_init()?,
        |wanted| match purpose {
            Purpose::Start => registry.claim(state, uuid, wanted),
            Purpose::Show => registry.preview(state, uuid, wanted),
        },
    )
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
pub fn end(hypervisor: &dyn Hypervisor, name: &SandboxName, link: Link) -> Result<bool> {
    let failed = || Error::step::<io::Error>("ending the container");
    let Some(controller) = hypervisor.state(name.as_str())?.id() else {
        return Ok(false);
    };
    let keeper = Process::open(controller).map_err(failed())?;
    let Some(init) = init_process(controller) else {
        return Ok(false);
    };
    let groups = cgroup::of_sandbox(controller, name);
    let init = Process::open(init).map_err(failed())?;
    cgroup::adopt(controller).map_err(failed())?;
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
    fn new(request: &Request, layout: &Layout, state: &Path, purpose: Purpose) -> Result<Self> {
        let mut attached = Vec::new();
        let at = |index: usize| state.join(format!("raw{index}"));
        for image in &layout.images {
            attached.push(match purpose {
                Purpose::Start => disks::attach_image(image, &at(attached.len()))?,
                Purpose::Show => Attached::pretended(&image.source, image.read_only),
            });
        }
        for disk in &request.disks {
            attached.push(match purpose {
                Purpose::Start => disks::attach_disk(disk, &at(attached.len()))?,
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

/// Sockets of the host's programs that the sandbox would reach through its root: a read-only mount keeps nobody from
/// connecting, and the namespace of a network has no say in it (unix(7)).
fn sockets(shares: &[Share]) -> Result<Vec<PathBuf>> {
    let table = Path::new("/proc/net/unix");
    let text = std::fs::read_to_string(table).map_err(Error::io("reading", table))?;
    let root = shares.iter().find(|share| share.staged == Path::new(ROOT));
    Ok(root.map_or_else(Vec::new, |root| bound_below(&text, &root.source)))
}

/// The paths below `root` in the text of `/proc/net/unix`, as seen from there.
fn bound_below(text: &str, root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            line.split_once(" /")
                .map(|(_, path)| Path::new("/").join(path))
        })
        .filter_map(|path| {
            let inside = path.strip_prefix(root).ok()?.to_owned();
            let is_hidden = NOT_SHARED.iter().any(|top| inside.starts_with(top));
            (!is_hidden).then(|| Path::new("/").join(inside))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_can_be_seen_are_found() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 12 /tmp/tmux-0/default\n\
                    0000000000000000: 00000003 00000000 00000000 0001 03 13 /tmp/tmux-0/default\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 14 @/abstract\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 15 /run/dbus/system_bus_socket\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 16\n";
        assert_eq!(
            bound_below(text, Path::new("/")),
            [Path::new("/tmp/tmux-0/default")]
        );
        assert_eq!(
            bound_below(text, Path::new("/tmp")),
            [Path::new("/tmux-0/default")]
        );
        assert!(bound_below(text, Path::new("/srv")).is_empty());
    }

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
        };
        let targets: Vec<_> = mounts(&share, &facts)
            .into_iter()
            .map(|filesystem| filesystem.target)
            .collect();
        assert_eq!(targets, [Path::new("/host"), Path::new("/host/usr")]);
    }
}
