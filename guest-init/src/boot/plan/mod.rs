//! Steps of the boot, as data.
//!
//! [`plan`] is pure; [`boot`](super::boot) carries out its steps. Their order matters: the root is complete before the staging root
//! is released, the cgroup is entered while the hierarchy of the host is visible, and the network is up before the payload starts.

use std::path::{Path, PathBuf};

use crate::config::{
    Addressing, Command, Credential, Device, Disk, File, GuestConfig, IdMap, Include, Mount, Nic,
    Payload, Platform, Root, Staged,
};
use crate::network::resolv::RESOLV_CONF;
use crate::root::KERNEL_FILESYSTEMS;

/// Step of the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Mount a share or an image in the staging root.
    Stage(Staged),
    /// Make the user namespace of the sandbox and the namespaces that it may configure. Files made from here on belong to root of the
    /// sandbox.
    Namespaces {
        /// Ids of the host that the ids of the sandbox map to.
        ids: IdMap,
        /// NICs that are moved to the network namespace.
        nics: Vec<String>,
    },
    /// Mount the tree that the root begins as.
    NewRoot {
        /// Tree of the root.
        root: Root,
        /// Mount points that the root will need.
        targets: Vec<PathBuf>,
    },
    /// Add a mount to the new root.
    Mount(Mount),
    /// Move `/proc`, `/sys` or `/dev` to the new root, with all mounts below it.
    Move(PathBuf),
    /// Mount a `/sys` that shows the network namespace of the sandbox.
    MountSys,
    /// Limit the number of processes, and enter a cgroup and a cgroup namespace.
    Cgroup {
        /// Name of the cgroup, below that of the domain.
        name: String,
        /// Highest number of processes and threads.
        max_pids: Option<u64>,
    },
    /// Map the owners of device nodes to ids of the sandbox.
    AssignDevices(IdMap),
    /// Set owner and mode of a device.
    Device(Device),
    /// Make the new root the root of PID 1. The staging root can still be reached.
    Enter,
    /// Link block devices by their tags.
    LinkDisks {
        /// Devices and their tags.
        disks: Vec<Disk>,
        /// User who may use them.
        owner: Option<u32>,
    },
    /// Mount a file of the sandbox over `/etc/resolv.conf`.
    OwnResolvConf,
    /// Copy a file or directory to the new root.
    Include(Include),
    /// Make the new root the root of the mount namespace and release the staging root.
    Pivot(Platform),
    /// Fork the first process of the sandbox into its user namespace, where the mounts are locked. That process carries out the
    /// remaining steps; PID 1 only waits for it.
    ForkInto,
    /// Write a file.
    File(File),
    /// Write credentials.
    Credentials {
        /// Names and contents.
        credentials: Vec<Credential>,
        /// User and group that may read them.
        owner: (u32, u32),
    },
    /// Mask units and generators that `/usr` starts in every boot.
    MaskStaticUnits {
        /// Names of units that are not masked.
        keep: Vec<String>,
    },
    /// Set the host name.
    Hostname(String),
    /// Bring up the loopback and the NICs, with their addresses.
    Network(Vec<Nic>),
    /// Give this start a boot id of its own.
    BootId,
    /// Let every user listen on ports below 1024. The sandbox has a network of its own, and its command has no capabilities.
    LowPorts,
    /// Cover files of the kernel that show the host.
    MaskKernel,
    /// Let mounts propagate between the sandbox and the mount namespaces of its services.
    ShareMounts,
    /// Drop capabilities and install the system call filter of the payload.
    Confine,
    /// Tune the kernel and systemd of a virtual machine: write back mapped files soon, since the host reads them.
    Kernel,
    /// Start the agent, which answers the host on this number of ports.
    Agent(u32),
    /// Make the pipe that libvirt asks for a shutdown on.
    Initctl {
        /// Whether a process beside systemd reads it. Without one libvirt sends a signal to PID 1.
        is_served: bool,
    },
    /// Keep a root shell on a device.
    Shell(PathBuf),
    /// Make a cgroup for the payload of a virtual machine.
    PayloadGroup {
        /// Highest number of processes and threads.
        max_pids: u64,
        /// Whether PID 1 is the payload, and enters the group.
        enter: bool,
    },
    /// Become the payload.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// All of its environment.
        environment: Vec<(String, String)>,
    },
    /// Run the payload and report its exit status.
    Run(Command),
}

/// Returns the steps for `config`, in order. The last one is the payload.
#[must_use]
pub fn plan(config: &GuestConfig) -> Vec<Step> {
    let mut steps = Vec::new();
    // 1. Mount the root beside the staging root, and enter the cgroup while the hierarchy of the host is visible.
    add_root(&mut steps, config);
    // 2. Fill the root from the staging root, and release that.
    add_contents(&mut steps, config);
    // 3. Configure what is inside, with nothing of the host in reach.
    add_settings(&mut steps, config);
    // 4. Give up rights, and become the payload.
    add_payload(&mut steps, config);
    steps
}

fn add_root(steps: &mut Vec<Step>, config: &GuestConfig) {
    steps.extend(config.staged.iter().cloned().map(Step::Stage));
    let mounts = config.mounts.iter().map(Mount::target);
    let user_mounts = config.user_mounts.iter().map(Mount::target);
    let kernel_filesystems = KERNEL_FILESYSTEMS.map(Path::new);
    let resolv_conf = has_own_resolv_conf(config).then_some(Path::new(RESOLV_CONF));
    steps.extend(config.idmap.map(|ids| Step::Namespaces {
        ids,
        nics: config.network.iter().map(|nic| nic.name.clone()).collect(),
    }));
    steps.push(Step::NewRoot {
        root: config.root.clone(),
        targets: (mounts
            .chain(kernel_filesystems)
            .chain(user_mounts)
            .chain(resolv_conf))
        .map(Path::to_owned)
        .collect(),
    });
    steps.extend(config.mounts.iter().map(|mount| sized(mount, config)));
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
}

fn add_contents(steps: &mut Vec<Step>, config: &GuestConfig) {
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
    let has_disks = !config.disks.is_empty();
    steps.extend(has_disks.then(|| Step::LinkDisks {
        disks: config.disks.clone(),
        owner: owner(config).map(|(uid, _)| uid),
    }));
    // Before the user's mounts, which may cover it.
    steps.extend(has_own_resolv_conf(config).then_some(Step::OwnResolvConf));
    steps.extend(config.user_mounts.iter().map(|mount| sized(mount, config)));
    steps.extend(config.includes.iter().cloned().map(Step::Include));
    steps.push(Step::Pivot(config.platform));
    // With a user namespace, the fork masks them in the new `/proc`.
    steps.push(match config.idmap {
        Some(_) => Step::ForkInto,
        None => Step::MaskKernel,
    });
}

fn add_settings(steps: &mut Vec<Step>, config: &GuestConfig) {
    steps.extend(config.files.iter().cloned().map(Step::File));
    let has_credentials = !config.credentials.is_empty();
    steps.extend(has_credentials.then(|| Step::Credentials {
        credentials: config.credentials.clone(),
        owner: owner(config).unwrap_or((0, 0)),
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
        // After the network, which reads the boot id of the host.
        steps.push(Step::BootId);
        // After the last move of a mount: the kernel does not move mounts below a shared one (mount(2)).
        steps.push(Step::ShareMounts);
    }
}

fn add_payload(steps: &mut Vec<Step>, config: &GuestConfig) {
    steps.push(Step::Confine);
    steps.extend(config.shell.iter().cloned().map(Step::Shell));
    if config.agent_ports > 0 {
        steps.push(Step::Kernel);
        steps.push(Step::Agent(config.agent_ports));
    }
    if let (Platform::Container, Payload::Init { .. }) = (config.platform, &config.payload) {
        // With ids of its own, PID 1 waits for systemd and takes the signals of libvirt.
        let is_served = config.idmap.is_none();
        steps.push(Step::Initctl { is_served });
    }
    if let (Platform::Machine, Some(max_pids)) = (config.platform, config.max_pids) {
        // After all processes that are not the payload's.
        steps.push(Step::PayloadGroup {
            max_pids,
            enter: matches!(config.payload, Payload::Init { .. }),
        });
    }
    steps.push(match &config.payload {
        Payload::Init {
            command,
            environment,
        } => Step::Exec {
            command: command.clone(),
            environment: [config.environment.as_slice(), environment].concat(),
        },
        Payload::Command(command) => {
            let mut command = command.clone();
            let is_own = |name: &str| command.environment.iter().any(|(own, _)| own == name);
            let usual = config.environment.iter().filter(|(name, _)| !is_own(name));
            let usual: Vec<_> = usual
                .map(|(name, value)| (name.into(), value.into()))
                .collect();
            command.environment.extend(usual);
            Step::Run(command)
        }
    });
}

fn sized(mount: &Mount, config: &GuestConfig) -> Step {
    Step::Mount(mount.clone().with_size(config.tmpfs_size))
}

/// Returns the user and group of a command.
fn owner(config: &GuestConfig) -> Option<(u32, u32)> {
    match &config.payload {
        Payload::Command(command) => Some((command.identity.uid, command.identity.gid)),
        Payload::Init { .. } => None,
    }
}

/// Returns whether resolv.conf must not be written to the tree: that is shared, and a DHCP server's answer is for this boot only.
fn has_own_resolv_conf(config: &GuestConfig) -> bool {
    let mut addressings = config.network.iter().map(|nic| &nic.addressing);
    matches!(config.root, Root::Tree { .. }) && addressings.any(|it| *it == Addressing::Dhcp)
}

/// Mounts that are missing in the `/dev` of libvirt.
const DEVICE_MOUNTS: [(&str, u32); 1] = [("/dev/shm", 0o1777)];

#[cfg(test)]
mod tests;
