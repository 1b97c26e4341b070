//! What the host tells the guest: one JSON document, read once by PID 1.
//!
//! The host has resolved every choice before; the guest only carries it out.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::net::{Address, Route};

/// Version of the contract. Host and guest must agree on it exactly: the init is staged together
/// with its config, so a difference means a damaged staging root.
pub const VERSION: u32 = 1;

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
    /// The root filesystem, assembled on an empty tmpfs in this order.
    pub mounts: Vec<Mount>,
    /// The user's mounts, made in the finished root, where links on the way to them lead where they should. Sources of the host are
    /// below [`CARRIED_MOUNTS`](crate::CARRIED_MOUNTS).
    pub user_mounts: Vec<Mount>,
    /// Files written below `/run` before the payload starts.
    pub files: Vec<File>,
    /// Where static dependencies of `/usr` are masked, and which are kept.
    pub static_units: Option<StaticUnits>,
    /// Highest number of processes and threads, if limited.
    pub max_pids: Option<u64>,
    /// NICs in the order `eth0`, `eth1`…
    pub network: Vec<Nic>,
    /// The program that becomes PID 1, with its arguments. Never empty.
    pub command: Vec<String>,
    /// Environment of that program; nothing is inherited.
    pub environment: Vec<(String, String)>,
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
    /// A directory or file of the staging root, bound with its submounts.
    Bind {
        /// Path in the staging root.
        source: PathBuf,
        /// Path in the sandbox.
        target: PathBuf,
        /// Whether the sandbox may write to it.
        read_only: bool,
    },
    /// A fresh tmpfs, always nosuid and nodev.
    Tmpfs {
        /// Path in the sandbox.
        target: PathBuf,
        /// Permission bits of its root.
        mode: u32,
        /// Size in bytes; the kernel's default (half the memory) if absent.
        size: Option<u64>,
    },
    /// A symbolic link.
    Symlink {
        /// What the link says.
        points_to: PathBuf,
        /// Path of the link in the sandbox.
        target: PathBuf,
    },
}

/// A file to write before the payload starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// Absolute path in the sandbox; parents are created.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// All of its content.
    pub content: String,
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
