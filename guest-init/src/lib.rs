//! PID 1 of a sandbox, and the contract between it and the host.
//!
//! The host writes a [`config::GuestConfig`] beside the init program in the staging root; the init
//! reads it once and *assembles* the sandbox from it. Both sides compile the same types, so the
//! contract cannot drift.
//!
//! | module | what it owns |
//! |---|---|
//! | [`ask`] | what the host asks of a virtual machine that lives by itself |
//! | [`config`] | the guest config: what the host tells the guest |
//! | [`wire`] | what host and guest say to each other while a command runs |
//! | [`net`] | addresses and routes as they are written by people |
//! | [`membership`] | the cgroups of a process |
//! | [`mountinfo`] | the kernel's table of mounts |
//! | [`seccomp`] | system calls that a sandbox may not make |
//! | [`filesystem`] | which filesystem is on a device, and which partitions |
//! | [`first`] | the first process of a container, handed over to the host |
//!
//! With feature `link`, which both sides use: `link`, the channel on a file descriptor, `tunnel`,
//! connections carried over it, `targets`, where they lead to, `terminal`, the caller's, and `streams`, which of
//! the caller's standard streams a sandbox may have itself.
//!
//! With feature `init`, what PID 1 does:
//!
//! | module | what it owns |
//! |---|---|
//! | `plan` | what PID 1 will do, as data |
//! | `boot` | PID 1 |
//! | `machine` | what a virtual machine needs before and after |
//! | `block`, `root`, `cgroup`, `credentials`, `static_units`, `shell` | the steps of the boot |
//! | `network`, `keeper` | bringing up the NICs; keeping their leases |
//! | `netlink`, `dhcp`, `resolv` | links, addresses and routes of the kernel; a DHCPv4 client; resolv.conf |
//! | `namespaces`, `subordinate` | the namespaces of a sandbox, and going down into them |
//! | `handover` | telling the host which process is the first |
//! | `try_ids`, `unsupported` | whether a sandbox can have ids of its own; what is lacking, and what may pass |
//! | `confine`, `filter` | what the payload may not do |
//! | `mount_api` | mounts as files |
//! | `caller` | whoever started the sandbox and waits for word of it |
//! | `session` | a command that PID 1 starts and watches |
//! | `agent` | the process that answers the host while systemd is PID 1 of a machine |
//! | `account` | accounts of the sandbox |
//! | `enter`, `label`, `relay` | a command in a running sandbox |
//! | `process`, `pty` | starting processes, terminals |

pub mod ask;
pub mod config;
pub mod filesystem;
pub mod first;
pub mod membership;
pub mod mountinfo;
pub mod net;
pub mod seccomp;
pub mod wire;

/// Where the new root is assembled, in the staging root.
pub const NEW_ROOT: &str = "/newroot";

/// Where libvirt places the sources of the user's mounts, in the staging root.
pub const STAGED_MOUNTS: &str = "/mnt";

/// Where what is copied into the sandbox comes from, in the staging root.
pub const STAGED_INCLUDES: &str = "/include";

/// Where the payload has its credentials. systemd takes them from where `$CREDENTIALS_DIRECTORY` says (CONTAINER_INTERFACE).
pub const CREDENTIALS: &str = "/run/virt-sandbox/credentials";

/// Name of the variable that tells the payload where that is.
pub const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Prefix of the variables that carry what `enter` adds to the environment of a command; a number follows. Everybody can see the
/// arguments of a process, and only its user what is in its environment.
pub const ENTER_VARIABLE: &str = "VIRT_SANDBOX_ENTER_";

/// Exit status of `guest-init try-ids` where the kernel or a filesystem has no way to give a sandbox ids of its own. Any other
/// failure may pass.
pub const IDS_UNSUPPORTED: u8 = 77;

#[cfg(feature = "link")]
pub mod link;
#[cfg(feature = "link")]
pub mod streams;
#[cfg(feature = "link")]
pub mod targets;
#[cfg(feature = "link")]
pub mod terminal;
#[cfg(feature = "link")]
pub mod tunnel;

#[cfg(feature = "init")]
mod account;
#[cfg(feature = "init")]
mod agent;
#[cfg(feature = "init")]
pub mod block;
#[cfg(feature = "init")]
pub mod boot;
#[cfg(feature = "init")]
mod boot_id;
#[cfg(feature = "init")]
mod caller;
#[cfg(feature = "init")]
mod cgroup;
#[cfg(feature = "init")]
mod confine;
#[cfg(feature = "init")]
mod console_log;
#[cfg(feature = "init")]
mod credentials;
#[cfg(feature = "init")]
pub mod dhcp;
#[cfg(feature = "init")]
pub mod enter;
#[cfg(feature = "init")]
mod filter;
#[cfg(feature = "init")]
mod handover;
#[cfg(feature = "init")]
mod keeper;
#[cfg(feature = "init")]
mod label;
#[cfg(feature = "init")]
mod machine;
#[cfg(feature = "init")]
mod mount_api;
#[cfg(feature = "init")]
mod namespaces;
#[cfg(feature = "init")]
pub mod netlink;
#[cfg(feature = "init")]
pub mod network;
#[cfg(feature = "init")]
pub mod plan;
#[cfg(feature = "init")]
mod process;
#[cfg(feature = "init")]
mod pty;
#[cfg(feature = "init")]
mod relay;
#[cfg(feature = "init")]
pub mod resolv;
#[cfg(feature = "init")]
pub mod root;
#[cfg(feature = "init")]
mod session;
#[cfg(feature = "init")]
mod shell;
#[cfg(feature = "init")]
mod static_units;
#[cfg(feature = "init")]
mod subordinate;
#[cfg(feature = "init")]
pub mod try_ids;
#[cfg(feature = "init")]
mod unsupported;
