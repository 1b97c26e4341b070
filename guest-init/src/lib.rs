//! PID 1 of a sandbox, and the contract between it and the host.
//!
//! The host writes a [`config::GuestConfig`] beside the init program in the staging root; the init
//! reads it once and *assembles* the sandbox from it. Both sides compile the same types, so the
//! contract cannot drift.
//!
//! Modules that both sides compile:
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`] | the guest config: all that the host tells the guest |
//! | [`channel`] | the channel between host and guest: frames, requests to the agent, the channel on a file descriptor |
//! | `tunnel` | connections carried over a channel |
//! | [`seccomp`] | system calls that a sandbox may not make |
//! | [`sys`] | facts of the kernel: mounts, cgroups, filesystems, the first process of a container |
//! | `stdio` | standard streams and terminals |
//!
//! Modules of PID 1, with feature `init`:
//!
//! | module | what it owns |
//! |---|---|
//! | `boot` | PID 1: the plan of the boot, its steps, and the host that waits for it |
//! | `machine` | what a virtual machine needs before and after; its devices; the agent |
//! | `root` | the root filesystem, and changing over to it |
//! | `namespaces` | the namespaces of a sandbox, and going down into them |
//! | `network` | the NICs and their leases; a DHCPv4 client; rtnetlink; resolv.conf |
//! | `power` | requests of the host to shut down or to reboot |
//! | `process` | starting processes: accounts, labels, confinement |
//! | `session` | a command that PID 1 starts and watches |
//! | `enter` | a command in a running sandbox |
//! | `console_log` | the log of all of these |

pub mod channel;
pub mod config;
pub mod seccomp;
#[cfg(feature = "link")]
pub mod stdio;
pub mod sys;
#[cfg(feature = "link")]
pub mod tunnel;

#[cfg(feature = "init")]
pub mod boot;
#[cfg(feature = "init")]
mod console_log;
#[cfg(feature = "init")]
pub mod enter;
#[cfg(feature = "init")]
pub mod machine;
#[cfg(feature = "init")]
pub mod namespaces;
#[cfg(feature = "init")]
pub mod network;
#[cfg(feature = "init")]
mod power;
#[cfg(feature = "init")]
mod process;
#[cfg(feature = "init")]
pub mod root;
#[cfg(feature = "init")]
mod session;

/// Directory of the staging root in which the new root is assembled.
pub const NEW_ROOT: &str = "/newroot";

/// Directory of the staging root with the sources of the user's mounts, placed by libvirt.
pub const STAGED_MOUNTS: &str = "/mnt";

/// Directory of the staging root with the sources of files that are copied to the sandbox.
pub const STAGED_INCLUDES: &str = "/include";

/// Directory of the payload's credentials. systemd imports them from `$CREDENTIALS_DIRECTORY` (CONTAINER_INTERFACE).
pub const CREDENTIALS: &str = "/run/virt-sandbox/credentials";

/// Variable with the directory of the payload's credentials.
pub const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Prefix of numbered variables that pass the environment of a command to `enter`. Every user can read the arguments of a process, but
/// only its own user can read its environment.
pub const ENTER_VARIABLE: &str = "VIRT_SANDBOX_ENTER_";

/// Id of the journal entry that a sandbox was asked to shut down or to reboot by the host (`MESSAGE_ID=` of systemd.journal-fields(7)).
pub const POWER_REQUEST: &str = "23bcba1a3c3b468e80d68c630201cb84";

/// Exit status of `guest-init try-ids` if the kernel or a filesystem does not support ids of a sandbox's own. Other failures may be
/// temporary.
pub const IDS_UNSUPPORTED: u8 = 77;
