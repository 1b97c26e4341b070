//! What the host tells the guest: one JSON document, read once by PID 1.
//!
//! The host has resolved every choice before; the guest only carries it out.
//!
//! Paths "of the staging root" are where the guest boots: the directory that libvirt made the container's
//! `/`, or the initramfs. Paths "of the sandbox" are below the root that is made there.

pub mod address;
mod command;
mod file;
mod secret;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::command::{Command, Directory, Identity, Stdio, Stream, WindowSize};
pub use self::file::File;
pub use self::secret::{Credential, Secret};
use crate::config::address::{Address, Route};
use crate::seccomp::Program;

/// Version of the contract. Host and guest must agree on it exactly: the init is staged together
/// with its config, so a difference means a damaged staging root.
pub const VERSION: u32 = 4;

/// Everything PID 1 does, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GuestConfig {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the sandbox, which also names its cgroup.
    pub name: String,
    /// Host name inside, and the one sent with DHCP.
    pub hostname: String,
    /// Print every step on the console.
    pub debug: bool,
    /// What it runs in.
    pub platform: Platform,
    /// The ids of the host that stand for those of the sandbox, in a user namespace of its own. Without, they are the host's.
    pub idmap: Option<IdMap>,
    /// What the payload may not do.
    pub confinement: Confinement,
    /// What is mounted in the staging root before anything else, in this order. Empty in a container, where libvirt has
    /// mounted all but images.
    pub staged: Vec<Staged>,
    /// What the root begins as.
    pub root: Root,
    /// What is added to the root while it is made, in this order. Targets are taken literally.
    pub mounts: Vec<Mount>,
    /// The user's mounts, made in the finished root, where links on the way to them lead where they should.
    pub user_mounts: Vec<Mount>,
    /// What is copied into the finished root once all is mounted.
    pub includes: Vec<Include>,
    /// Block devices that get a link in `/dev/disk/by-tag`.
    pub disks: Vec<Disk>,
    /// Devices of the host that a container has as well. libvirt has made them, for root alone.
    pub devices: Vec<Device>,
    /// Files written below `/run` before the payload starts.
    pub files: Vec<File>,
    /// Credentials of the payload, written to [`CREDENTIALS`](crate::CREDENTIALS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Where static dependencies of `/usr` are masked, and which are kept.
    pub static_units: Option<StaticUnits>,
    /// Highest number of processes and threads, if limited.
    pub max_pids: Option<u64>,
    /// Size in bytes of each tmpfs that has none of its own; the kernel's default (half the memory) if absent.
    pub tmpfs_size: Option<u64>,
    /// NICs in the order `eth0`, `eth1`…
    pub network: Vec<Nic>,
    /// Ports of the [`ask`](crate::channel::agent_request) kind that the host gives a machine that lives by itself.
    pub ways: u32,
    /// Opens a shell of root's on this device, again and again: `/dev/tty2`, `/dev/hvc1`.
    pub shell: Option<PathBuf>,
    /// What runs in it.
    pub payload: Payload,
}

impl GuestConfig {
    /// A guest that has nothing but its payload.
    #[must_use]
    pub fn new(name: &str, hostname: &str, platform: Platform, payload: Payload) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            hostname: hostname.to_owned(),
            debug: false,
            platform,
            idmap: None,
            confinement: Confinement::default(),
            staged: vec![],
            root: Root::Empty,
            mounts: vec![],
            user_mounts: vec![],
            includes: vec![],
            disks: vec![],
            devices: vec![],
            files: vec![],
            credentials: vec![],
            static_units: None,
            max_pids: None,
            tmpfs_size: None,
            network: vec![],
            ways: 0,
            shell: None,
            payload,
        }
    }
}

/// What a guest runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// Namespaces of the host's kernel; libvirt has mounted `/proc`, `/sys` and `/dev` and what is shared.
    Container,
    /// A kernel of its own, which has started guest-init from an initramfs.
    Machine,
}

/// Who may use a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Device {
    /// Where it is, below `/dev`.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Id of its owner in the sandbox.
    pub uid: u32,
    /// Id of its group in the sandbox.
    pub gid: u32,
}

/// A range of the host's user and group ids that stands for the ids from 0 in a sandbox (`user_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IdMap {
    /// The host's id that is 0 inside.
    pub first: u32,
    /// How many ids there are inside.
    pub count: u32,
}

impl IdMap {
    /// The host's id that stands for an id of the sandbox; none where the sandbox has no such id.
    #[must_use]
    pub fn on_host(self, id: u32) -> Option<u32> {
        let id = Some(id).filter(|id| *id < self.count)?;
        self.first.checked_add(id)
    }
}

/// What the payload, and all that comes from it, may not do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Confinement {
    /// Capabilities that it cannot have, as `CAP_SYS_MODULE`. One that the kernel does not have is no matter.
    pub dropped: Vec<String>,
    /// What becomes of its system calls; all are made if absent.
    pub filter: Option<Program>,
    /// Files of the kernel's that show nothing, and directories that are empty: paths below `/proc` and `/sys`.
    pub masked: Vec<PathBuf>,
    /// What is to be read only there.
    pub read_only: Vec<PathBuf>,
}

/// What runs in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Payload {
    /// A program that becomes PID 1.
    Init {
        /// The program with its arguments. Never empty.
        command: Vec<String>,
        /// All of its environment.
        environment: Vec<(String, String)>,
    },
    /// A command that PID 1 starts and watches, over the [channel](crate::channel::wire).
    Command(Command),
}

/// Something that is mounted in the staging root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Staged {
    /// A directory of the host.
    Share {
        /// How it gets here.
        transport: Transport,
        /// Its name on the device.
        tag: String,
        /// Path in the staging root.
        path: PathBuf,
        /// Whether it is mounted read-only.
        read_only: bool,
    },
    /// The filesystem of an image.
    Image {
        /// The device it is on.
        device: BlockDevice,
        /// The partition, from 1. Without it the whole device, or its only partition with a filesystem that is known.
        partition: Option<u32>,
        /// Path in the staging root.
        path: PathBuf,
        /// Whether it is mounted read-only.
        read_only: bool,
    },
}

/// How a directory of the host gets into a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// 9p over virtio.
    Plan9,
    /// virtiofs.
    Virtiofs,
}

/// A block device as the guest finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockDevice {
    /// By its node.
    Node(PathBuf),
    /// By the serial number of a virtio disk.
    Serial(String),
}

/// A block device with a name of the user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The name: a link in `/dev/disk/by-tag`.
    pub tag: String,
    /// The device. Its node is given to the command's user.
    pub device: BlockDevice,
}

/// What the root of a sandbox begins as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Root {
    /// An empty, writable tmpfs.
    Empty,
    /// A tree of the staging root, with all that is mounted below it.
    Tree {
        /// Path in the staging root.
        source: PathBuf,
        /// What may become of it.
        access: Access,
    },
}

/// What a sandbox may do to the tree that is its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read it. Mount points that it lacks are made beside it.
    ReadOnly,
    /// Read it through overlays, so that no lock, socket, pipe or notification is shared with others who have it. Where
    /// the kernel has no overlay for it this is as `ReadOnly`, and said.
    Isolated,
    /// Change it.
    Writable,
    /// Change what it sees of it; the changes are thrown away.
    Volatile,
}

/// Something that is copied into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Include {
    /// Path in the staging root: a file, a link or a directory with all below it.
    pub source: PathBuf,
    /// Path in the sandbox; parents are made.
    pub target: PathBuf,
}

/// One step in assembling the root. Targets are absolute paths in the sandbox; they are created
/// where they are missing, as what their source is (directory or file).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Mount {
    /// A directory or file, bound with its submounts.
    Bind {
        /// Where it is.
        source: Source,
        /// Path in the sandbox.
        target: PathBuf,
        /// Whether the sandbox may only read it.
        read_only: bool,
    },
    /// A fresh tmpfs, always nosuid and nodev.
    Tmpfs {
        /// Path in the sandbox.
        target: PathBuf,
        /// Permission bits of its root.
        mode: u32,
        /// Size in bytes; [`GuestConfig::tmpfs_size`] if absent.
        size: Option<u64>,
    },
    /// An empty directory of the root's own; one that is there stays.
    Directory {
        /// Path in the sandbox.
        target: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// What the link says.
        points_to: PathBuf,
        /// Path of the link in the sandbox.
        target: PathBuf,
    },
}

impl Mount {
    /// Path in the sandbox.
    #[must_use]
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Directory { target }
            | Self::Symlink { target, .. } => target,
        }
    }

    /// With this size in bytes, if it is a tmpfs that has none.
    #[must_use]
    pub fn with_size(mut self, usual: Option<u64>) -> Self {
        if let Self::Tmpfs { size, .. } = &mut self {
            *size = size.or(usual);
        }
        self
    }
}

/// Where something that is bound is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Path in the staging root.
    Stage(PathBuf),
    /// Path in the sandbox.
    Sandbox(PathBuf),
}

/// Units that `/usr` pulls into every boot by `*.wants` directories. Those not kept are masked
/// under `/run/systemd/system`, so that what an admin enables in the sandbox's `/etc` still wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StaticUnits {
    /// Unit names that stay.
    pub keep: Vec<String>,
}

/// A network interface of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Nic {
    /// Interface name, `eth0`…
    pub name: String,
    /// Its Ethernet address, if it is to be a certain one.
    pub mac: Option<[u8; 6]>,
    /// How it gets its addresses.
    pub addressing: Addressing,
    /// With DHCP, an address that the server may well give: it is asked for that one first.
    pub hint: Option<Ipv4Addr>,
}

/// How a NIC gets its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Addressing {
    /// The interface is raised and otherwise left alone.
    None,
    /// Asked for by DHCP and renewed as long as the sandbox runs.
    Dhcp,
    /// Given.
    Static {
        /// Addresses of the interface; never empty.
        addresses: Vec<Address>,
        /// Routes through it.
        routes: Vec<Route>,
    },
}
