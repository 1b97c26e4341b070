//! What PID 1 will do, as data.
//!
//! [`plan`] is pure; `boot` carries the steps out. The order is the point: the root is assembled
//! before anything is taken from the staging root for good, cgroups are entered while the host's
//! hierarchy can still be seen, and the network is up before the payload looks for it.

use std::path::{Path, PathBuf};

use crate::config::{
    Addressing, Command, Credential, Device, Disk, File, GuestConfig, IdMap, Include, Mount, Nic,
    Payload, Platform, Root, Staged,
};
use crate::network::resolv::RESOLV_CONF;
use crate::root::KERNEL_FILESYSTEMS;

/// One thing PID 1 does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Mount something in the staging root.
    Stage(Staged),
    /// Make the user namespace of the sandbox, with namespaces of its own for what it may configure, and let what is
    /// made from here on belong to its root.
    Namespaces {
        /// The ids of the host that stand for those of the sandbox.
        ids: IdMap,
        /// The NICs that come along.
        nics: Vec<String>,
    },
    /// Put what the root begins as where it is assembled.
    NewRoot {
        /// What that is.
        root: Root,
        /// Mount points it must have in the end.
        targets: Vec<PathBuf>,
    },
    /// Add to the new root.
    Mount(Mount),
    /// Carry `/proc`, `/sys` or `/dev` over, with all that is mounted below.
    Move(PathBuf),
    /// Mount a `/sys` of the sandbox's own network.
    MountSys,
    /// Limit the number of processes and enter a cgroup and a cgroup namespace of our own.
    Cgroup {
        /// Name of the cgroup.
        name: String,
        /// Highest number of processes and threads.
        max_pids: Option<u64>,
    },
    /// Give the device nodes to the sandbox's ids.
    AssignDevices(IdMap),
    /// Let those use a device who may.
    Device(Device),
    /// See the new root as the root, while the staging root can still be reached.
    Enter,
    /// Link the block devices by their tags.
    LinkDisks {
        /// The devices.
        disks: Vec<Disk>,
        /// Who may use them.
        owner: Option<u32>,
    },
    /// Lay a file of the sandbox's own over `/etc/resolv.conf`.
    OwnResolvConf,
    /// Copy into the new root.
    Include(Include),
    /// Make the new root the root and let go of the staging root.
    Pivot(Platform),
    /// Start the first process of the sandbox in its user namespace, where the mounts cannot be changed any more. What
    /// follows is done by it; this process does nothing any more but wait for it.
    ForkInto,
    /// Write a file.
    File(File),
    /// Write credentials.
    Credentials {
        /// Credentials to write.
        credentials: Vec<Credential>,
        /// User and group whose they are.
        owner: (u32, u32),
    },
    /// Mask what `/usr` pulls in, but these.
    MaskStaticUnits {
        /// Unit names that stay.
        keep: Vec<String>,
    },
    /// Set the host name.
    Hostname(String),
    /// Raise the loopback and the NICs and give them addresses.
    Network(Vec<Nic>),
    /// Tell this start from others.
    BootId,
    /// Let every user listen on low ports: the network is the sandbox's own, and its command has no capabilities.
    LowPorts,
    /// Cover what the kernel shows of the host.
    MaskKernel,
    /// Let mounts made in the sandbox be seen in the namespaces of its services, and the other way round.
    ShareMounts,
    /// Give up what the payload may not do, for good.
    Confine,
    /// Bound the threads of a kernel of our own, have it write back soon what is mapped, since the host looks at the files, and spare
    /// it what only a machine with disks has a use for.
    Kernel {
        /// Highest number of threads.
        max_threads: Option<u64>,
    },
    /// Leave a process behind that answers the host on so many ports.
    Agent(u32),
    /// Keep a shell of root's on a device.
    Shell(PathBuf),
    /// Become the payload.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// All of its environment.
        environment: Vec<(String, String)>,
    },
    /// Start the payload and watch it.
    Run(Command),
}

/// The steps for `config`, in order.
#[must_use]
pub fn plan(config: &GuestConfig) -> Vec<Step> {
    let mut steps: Vec<Step> = config.staged.iter().cloned().map(Step::Stage).collect();
    let mounts = config.mounts.iter().map(Mount::target);
    let user_mounts = config.user_mounts.iter().map(Mount::target);
    let kernels = KERNEL_FILESYSTEMS.map(Path::new);
    let resolv_conf = has_own_resolv_conf(config).then_some(Path::new(RESOLV_CONF));
    steps.extend(config.idmap.map(|ids| Step::Namespaces {
        ids,
        nics: config.network.iter().map(|nic| nic.name.clone()).collect(),
    }));
    steps.push(Step::NewRoot {
        root: config.root.clone(),
        targets: (mounts.chain(kernels).chain(user_mounts).chain(resolv_conf))
            .map(Path::to_owned)
            .collect(),
    });
    let sized = |mount: &Mount| Step::Mount(mount.clone().with_size(config.tmpfs_size));
    steps.extend(config.mounts.iter().map(sized));
    steps.extend(KERNEL_FILESYSTEMS.map(|dir| match (dir, config.idmap) {
        ("/sys", Some(_)) => Step::MountSys,
        _ => Step::Move(dir.into()),
    }));
    match config.platform {
        Platform::Container => steps.push(Step::Cgroup {
            name: format!("virt-sandbox-{}", config.name),
            max_pids: config.max_pids,
        }),
        Platform::Machine => {}
    }
    steps.push(Step::Enter);
    steps.extend(config.idmap.map(Step::AssignDevices));
    steps.extend(config.devices.iter().cloned().map(Step::Device));
    steps.extend(DEVICE_MOUNTS.map(|(target, mode)| {
        Step::Mount(Mount::Tmpfs {
            target: target.into(),
            mode,
            size: config.tmpfs_size,
        })
    }));
    let owner = match &config.payload {
        Payload::Command(command) => Some((command.identity.uid, command.identity.gid)),
        Payload::Init { .. } => None,
    };
    let has_disks = !config.disks.is_empty();
    steps.extend(has_disks.then(|| Step::LinkDisks {
        disks: config.disks.clone(),
        owner: owner.map(|(uid, _)| uid),
    }));
    // The user's mounts come above it.
    steps.extend(resolv_conf.map(|_| Step::OwnResolvConf));
    steps.extend(config.user_mounts.iter().map(sized));
    steps.extend(config.includes.iter().cloned().map(Step::Include));
    steps.push(Step::Pivot(config.platform));
    // The first process below finds it done.
    steps.push(match config.idmap {
        Some(_) => Step::ForkInto,
        None => Step::MaskKernel,
    });
    steps.extend(config.files.iter().cloned().map(Step::File));
    let has_credentials = !config.credentials.is_empty();
    steps.extend(has_credentials.then(|| Step::Credentials {
        credentials: config.credentials.clone(),
        owner: owner.unwrap_or((0, 0)),
    }));
    if let Some(units) = &config.static_units {
        steps.push(Step::MaskStaticUnits {
            keep: units.keep.clone(),
        });
    }
    steps.push(Step::Hostname(config.hostname.clone()));
    steps.push(Step::Network(config.network.clone()));
    if matches!(config.payload, Payload::Command(_)) {
        steps.push(Step::LowPorts);
    }
    if let (Platform::Container, Payload::Init { .. }) = (config.platform, &config.payload) {
        // The network goes by the host's.
        steps.push(Step::BootId);
        // Nothing is moved any more, which the kernel refuses below a shared mount.
        steps.push(Step::ShareMounts);
    }
    steps.push(Step::Confine);
    steps.extend(config.shell.iter().cloned().map(Step::Shell));
    if config.ways > 0 {
        steps.push(Step::Kernel {
            max_threads: config.max_pids,
        });
        steps.push(Step::Agent(config.ways));
    }
    steps.push(match &config.payload {
        Payload::Init {
            command,
            environment,
        } => Step::Exec {
            command: command.clone(),
            environment: environment.clone(),
        },
        Payload::Command(command) => Step::Run(command.clone()),
    });
    steps
}

/// A tree is the host's, an image or whatever directory: what a server of this boot says does not belong there.
fn has_own_resolv_conf(config: &GuestConfig) -> bool {
    let mut addressings = config.network.iter().map(|nic| &nic.addressing);
    matches!(config.root, Root::Tree { .. }) && addressings.any(|it| *it == Addressing::Dhcp)
}

/// What libvirt's `/dev` lacks.
const DEVICE_MOUNTS: [(&str, u32); 1] = [("/dev/shm", 0o1777)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StaticUnits;

    fn config() -> GuestConfig {
        let payload = Payload::Init {
            command: vec!["/usr/lib/systemd/systemd".into()],
            environment: vec![],
        };
        GuestConfig {
            mounts: vec![Mount::Symlink {
                points_to: "usr/bin".into(),
                target: "/bin".into(),
            }],
            static_units: Some(StaticUnits { keep: vec![] }),
            max_pids: Some(10),
            tmpfs_size: Some(1 << 20),
            ..GuestConfig::new("web1", "web1", Platform::Container, payload)
        }
    }

    #[test]
    fn credentials_are_written_below_and_not_shown() {
        let config = GuestConfig {
            idmap: Some(IdMap {
                first: 1 << 20,
                count: 1 << 16,
            }),
            credentials: vec![Credential {
                id: "password".into(),
                content: crate::config::Secret(b"hunter2".to_vec()),
            }],
            files: vec![File {
                path: "/run/x".into(),
                mode: 0o600,
                content: "A=hunter2".into(),
            }],
            ..config()
        };
        let steps = plan(&config);
        let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let written = at(|step| matches!(step, Step::Credentials { owner: (0, 0), .. }));
        assert!(at(|step| matches!(step, Step::ForkInto)) < written);
        assert!(written < at(|step| matches!(step, Step::Exec { .. })));
        assert!(!format!("{steps:?}").contains("hunter2"));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<GuestConfig>(&text).unwrap(), config);
    }

    #[test]
    fn only_a_tree_with_dhcp_gets_a_resolv_conf_of_its_own() {
        let tree = Root::Tree {
            source: "/host".into(),
            access: crate::config::Access::ReadOnly,
        };
        for (root, addressing, expected) in [
            (tree.clone(), Addressing::Dhcp, true),
            (tree, Addressing::None, false),
            (Root::Empty, Addressing::Dhcp, false),
        ] {
            let config = GuestConfig {
                root,
                network: vec![Nic {
                    name: "eth0".into(),
                    mac: None,
                    addressing,
                    hint: None,
                }],
                ..config()
            };
            let steps = plan(&config);
            assert_eq!(steps.contains(&Step::OwnResolvConf), expected);
            let Some(Step::NewRoot { targets, .. }) = steps.first() else {
                panic!("{steps:?}");
            };
            assert_eq!(targets.contains(&RESOLV_CONF.into()), expected);
        }
    }

    #[test]
    fn a_user_namespace_has_what_is_made_and_not_what_was_mounted() {
        let config = GuestConfig {
            idmap: Some(IdMap {
                first: 1 << 20,
                count: 1 << 16,
            }),
            ..config()
        };
        let steps = plan(&config);
        let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let namespaces = at(|step| matches!(step, Step::Namespaces { .. }));
        let descent = at(|step| matches!(step, Step::ForkInto));
        assert!(namespaces < at(|step| matches!(step, Step::NewRoot { .. })));
        assert!(at(|step| matches!(step, Step::Pivot(_))) < descent);
        assert!(descent < at(|step| matches!(step, Step::Network(_))));
    }

    #[test]
    fn systemd_in_a_container_finds_its_mounts_shared() {
        let at = |config: &GuestConfig, wanted: &Step| {
            let steps = plan(config);
            steps.iter().position(|step| step == wanted)
        };
        let container = config();
        let shared = at(&container, &Step::ShareMounts);
        assert!(shared > at(&container, &Step::Pivot(Platform::Container)));
        assert!(shared < at(&container, &Step::Confine));
        // There systemd is what the kernel starts, and does it.
        let machine = GuestConfig {
            platform: Platform::Machine,
            ..config()
        };
        assert_eq!(at(&machine, &Step::ShareMounts), None);
    }

    #[test]
    fn devices_are_let_be_used_in_the_end() {
        let device = Device {
            path: "/dev/net/tun".into(),
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        let ids = IdMap {
            first: 1 << 16,
            count: 1 << 16,
        };
        let config = GuestConfig {
            idmap: Some(ids),
            devices: vec![device.clone()],
            ..config()
        };
        let steps = plan(&config);
        let at = |wanted: &Step| steps.iter().position(|step| step == wanted);
        assert!(at(&Step::AssignDevices(ids)) < at(&Step::Device(device.clone())));
        assert!(at(&Step::Device(device)) < at(&Step::Pivot(Platform::Container)));
    }

    #[test]
    fn the_root_is_whole_before_the_staging_root_goes() {
        let config = config();
        let steps = plan(&config);
        let at = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
        let pivot = at(&Step::Pivot(Platform::Container));
        assert!(matches!(steps[0], Step::NewRoot { .. }));
        assert!(at(&Step::Mount(config.mounts[0].clone())) < pivot);
        assert!(at(&Step::Move("/dev".into())) < pivot);
        assert!(
            at(&Step::Cgroup {
                name: "virt-sandbox-web1".into(),
                max_pids: Some(10)
            }) < pivot
        );
        assert!(matches!(steps.last(), Some(Step::Exec { .. })));
    }
}
