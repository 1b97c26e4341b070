//! Guest config: one JSON document from the host, read once by PID 1.
//!
//! The host has made every choice; the guest only carries it out.
//!
//! A path of the staging root is where the guest boots: below the directory that libvirt made the `/` of the container, or in the
//! initramfs. A path of the sandbox is below the root that is assembled there.

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

/// Configuration of a guest, in the order in which PID 1 uses it.
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
    /// Container or virtual machine.
    pub platform: Platform,
    /// Ids of the sandbox's user namespace. Without them the sandbox has the ids of the host.
    pub idmap: Option<IdMap>,
    /// Restrictions of the payload.
    pub confinement: Confinement,
    /// Mounts in the staging root, made first and in this order. In a container only images: libvirt has mounted everything else.
    pub staged: Vec<Staged>,
    /// Tree that the root begins as.
    pub root: Root,
    /// Mounts of the new root, made in this order before it is entered. Links in targets are not followed.
    pub mounts: Vec<Mount>,
    /// Mounts of the user, made in the new root once it is entered. Links in targets are followed there.
    pub user_mounts: Vec<Mount>,
    /// Files and directories copied to the root after all mounts.
    pub includes: Vec<Include>,
    /// Block devices that get a link in `/dev/disk/by-tag`.
    pub disks: Vec<Disk>,
    /// Devices of the host in a container. libvirt has made their nodes, for root alone.
    pub devices: Vec<Device>,
    /// Files written below `/run` before the payload starts.
    pub files: Vec<File>,
    /// Credentials of the payload, written to [`CREDENTIALS`](crate::CREDENTIALS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Units that are not masked, if dependencies in `/usr` are masked.
    pub static_units: Option<StaticUnits>,
    /// Highest number of processes and threads, if limited.
    pub max_pids: Option<u64>,
    /// Default size of a tmpfs, in bytes; the kernel's default (half the memory) if absent.
    pub tmpfs_size: Option<u64>,
    /// NICs in the order `eth0`, `eth1`…
    pub network: Vec<Nic>,
    /// Number of ports on which the agent of a machine serves [requests](crate::channel::agent_request).
    #[serde(rename = "ways")]
    pub agent_ports: u32,
    /// Device with a root shell, as `/dev/tty2` or `/dev/hvc1`.
    pub shell: Option<PathBuf>,
    /// Variables of the payload, and of commands that the host runs beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<(String, String)>,
    /// Program that the sandbox runs.
    pub payload: Payload,
}

impl GuestConfig {
    /// Returns the configuration of a guest with nothing but its payload.
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
            agent_ports: 0,
            shell: None,
            environment: vec![],
            payload,
        }
    }
}

/// Platform of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// Namespaces of the host's kernel; libvirt has mounted `/proc`, `/sys` and `/dev` and what is shared.
    Container,
    /// A kernel of its own, which has started guest-init from an initramfs.
    Machine,
}

/// Device node, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Device {
    /// Path below `/dev`.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as a user id of the sandbox.
    pub uid: u32,
    /// Group, as a group id of the sandbox.
    pub gid: u32,
}

/// Range of user and group ids of the host that the ids from 0 in a sandbox map to (`user_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IdMap {
    /// Id of the host that is 0 in the sandbox.
    pub first: u32,
    /// Number of ids in the sandbox.
    pub count: u32,
}

impl IdMap {
    /// Returns the id of the host for an id of the sandbox; `None` if the sandbox has no such id.
    #[must_use]
    pub fn on_host(self, id: u32) -> Option<u32> {
        let id = Some(id).filter(|id| *id < self.count)?;
        self.first.checked_add(id)
    }
}

/// Restrictions of the payload and all its children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Confinement {
    /// Capabilities that the payload cannot have, as `CAP_SYS_MODULE`. Those that the kernel does not know are ignored.
    pub dropped: Vec<String>,
    /// Filter of system calls; all are allowed if absent.
    pub filter: Option<Program>,
    /// Paths below `/proc` and `/sys` that are covered by an empty file or directory.
    pub masked: Vec<PathBuf>,
    /// Paths below `/proc` and `/sys` that are read-only.
    pub read_only: Vec<PathBuf>,
}

/// Program that the sandbox runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Payload {
    /// Program that replaces guest-init as PID 1.
    Init {
        /// Program and arguments. Never empty.
        command: Vec<String>,
        /// Complete environment.
        environment: Vec<(String, String)>,
    },
    /// Command that PID 1 runs in a session on the [channel](crate::channel::wire).
    Command(Command),
}

/// Mount in the staging root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Staged {
    /// Directory of the host.
    Share {
        /// Protocol of the share.
        transport: Transport,
        /// Name of the share.
        tag: String,
        /// Path in the staging root.
        path: PathBuf,
        /// Whether it is mounted read-only.
        read_only: bool,
    },
    /// The filesystem of an image.
    Image {
        /// Device with the filesystem.
        device: BlockDevice,
        /// Partition, from 1. If absent: the whole device, or its only partition with a known filesystem.
        partition: Option<u32>,
        /// Path in the staging root.
        path: PathBuf,
        /// Whether it is mounted read-only.
        read_only: bool,
    },
}

/// Protocol of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// 9p over virtio.
    Plan9,
    /// virtiofs.
    Virtiofs,
}

/// Block device, by what identifies it in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockDevice {
    /// Device node.
    Node(PathBuf),
    /// Serial number of a virtio disk.
    Serial(String),
}

/// Block device with a tag of the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// Name of the link in `/dev/disk/by-tag`.
    pub tag: String,
    /// Device. The user of the command becomes the owner of its node.
    pub device: BlockDevice,
}

/// Tree that the root of a sandbox begins as.
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
        /// Access of the sandbox to the tree.
        access: Access,
    },
}

/// Access of a sandbox to the tree that is its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read-only. Missing mount points are made in an overlay.
    ReadOnly,
    /// Read-only through overlays, so that no lock, socket, pipe or notification is shared with other users of the tree. The same as
    /// `ReadOnly`, with a warning, if the kernel cannot make the overlay.
    Isolated,
    /// Changes go to the tree.
    Writable,
    /// Changes go to an overlay and are lost at the end.
    Volatile,
}

/// Copy of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Include {
    /// Path in the staging root of a file, a link or a directory.
    pub source: PathBuf,
    /// Path in the sandbox; parents are made.
    pub target: PathBuf,
}

/// Mount, directory or link of the root. Targets are absolute paths in the sandbox. A missing target is created as a directory or
/// file, like its source.
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
        /// Source of the bind mount.
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
    /// An empty directory, unless it exists.
    Directory {
        /// Path in the sandbox.
        target: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// Target of the link.
        points_to: PathBuf,
        /// Path of the link in the sandbox.
        target: PathBuf,
    },
}

impl Mount {
    /// Returns the path in the sandbox.
    #[must_use]
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Directory { target }
            | Self::Symlink { target, .. } => target,
        }
    }

    /// Sets the size of a tmpfs without a size, in bytes.
    #[must_use]
    pub fn with_size(mut self, usual: Option<u64>) -> Self {
        if let Self::Tmpfs { size, .. } = &mut self {
            *size = size.or(usual);
        }
        self
    }
}

/// Source of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Path in the staging root.
    Stage(PathBuf),
    /// Path in the sandbox.
    Sandbox(PathBuf),
}

/// Units that `/usr` starts in every boot, by `*.wants` directories. All but those to keep are masked in `/run/systemd/system`, which
/// units that an administrator enables in the `/etc` of the sandbox override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StaticUnits {
    /// Names of units that are not masked.
    pub keep: Vec<String>,
}

/// A network interface of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Nic {
    /// Interface name, `eth0`…
    pub name: String,
    /// Ethernet address to set.
    pub mac: Option<[u8; 6]>,
    /// Source of its addresses.
    pub addressing: Addressing,
    /// Address that DHCP requests first.
    pub hint: Option<Ipv4Addr>,
}

/// Source of the addresses of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum Addressing {
    /// No address; the interface is up.
    None,
    /// DHCP, with renewals as long as the sandbox runs.
    Dhcp,
    /// Fixed addresses.
    Static {
        /// Never empty.
        addresses: Vec<Address>,
        /// Routes through this interface.
        routes: Vec<Route>,
    },
}
