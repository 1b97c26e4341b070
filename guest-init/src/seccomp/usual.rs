//! Default policy of a sandbox.
//!
//! The policy refuses calls that reach past the namespaces, that only the administrator of the host needs, or that have a history of
//! vulnerabilities. All others are allowed, up to the highest known number. The lists of systemd-nspawn and podman were compared. As
//! there, a refused call fails with `EPERM`, or with `ENOSYS` if programs then use another call.

use super::{Action, Comparison, Condition, Policy, Rule};

const EPERM: Action = Action::Errno(1);
const ENOSYS: Action = Action::Errno(38);
const EPROTONOSUPPORT: Action = Action::Errno(93);
const EAFNOSUPPORT: Action = Action::Errno(97);

/// Calls that are useless in a sandbox, and refused even to those with the capability.
const REFUSED: [&str; 39] = [
    // Modules, kernels, the machine.
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "kexec_load",
    "kexec_file_load",
    "iopl",
    "ioperm",
    "vm86",
    "vm86old",
    // Devices and firmware of POWER, IBM Z and ARM.
    "pciconfig_read",
    "pciconfig_write",
    "pciconfig_iobase",
    "rtas",
    "spu_create",
    "spu_run",
    "s390_pci_mmio_read",
    "s390_pci_mmio_write",
    // The host's clock, swap, accounts, log.
    "clock_settime",
    "clock_settime64",
    "settimeofday",
    "stime",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "quotactl_fd",
    "syslog",
    // Files of the host by number.
    "open_by_handle_at",
    // Programs in the kernel, and looks into it.
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "kcmp",
    "lookup_dcookie",
    "nfsservctl",
    "uselib",
    "ustat",
    "sysfs",
    "_sysctl",
];

/// Calls that programs can do without, as on a kernel that lacks them: keys are not in namespaces, and io_uring bypasses the filter.
const MISSING: [&str; 6] = [
    "add_key",
    "keyctl",
    "request_key",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
];

/// Calls that a process without privileges cannot use, or that would give it those of a user namespace.
const FOR_PRIVILEGED: [&str; 16] = [
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "setns",
    "open_tree",
    "open_tree_attr",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "fanotify_init",
    "vhangup",
    "chroot",
];

/// Flags of `clone(2)` and `unshare(2)` that make namespaces.
const NAMESPACES: u64 = 0x7e02_0080;

/// `TIOCSTI`, `TIOCLINUX` and `TIOCCONS`: input for a terminal as if typed, and redirection of the output of the host's
/// console (`ioctl_tty(2)`, `ioctl_console(2)`).
const TERMINALS: [u64; 3] = [0x5412, 0x541c, 0x541d];

/// Allowed families of sockets: `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK` and `AF_PACKET` (linux/socket.h). `AF_VSOCK`
/// is in no namespace and reaches virtual machines and their host. Any other family makes the kernel load a module,
/// and most of these are old, seldom used and full of vulnerabilities (`AF_ALG`, `AF_RDS`, `AF_TIPC`, `AF_KEY`), or for hardware.
const FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// `AF_INET` and `AF_INET6` with `IPPROTO_SMC` are `AF_SMC` by another name.
const INET: [u64; 2] = [2, 10];
const SMC: u64 = 256;

/// `AF_NETLINK` and `NETLINK_AUDIT`, of the host's audit.
const AUDIT: (u64, u64) = (16, 9);

/// `MS_RDONLY` and `MS_REMOUNT`.
const READ_ONLY: u64 = 1;
const REMOUNT: u64 = 32;

/// Privileges of the processes that a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    /// Root in a user namespace of its own, where mounts are locked.
    OwnRoot,
    /// Root of the host. It may not make a mount writable again.
    HostsRoot,
    /// No privileges, and no way to gain any.
    Unprivileged,
}

/// Returns the default policy.
#[must_use]
pub fn policy(confined: Confined) -> Policy {
    let always = |names: &[&str], action: Action| -> Vec<Rule> {
        let rule = |name: &&str| refuse(name, action, vec![]);
        names.iter().map(rule).collect()
    };
    let mut rules = always(&REFUSED, EPERM);
    rules.extend(always(&MISSING, ENOSYS));
    let word = |argument, value| is(argument, 0xffff_ffff, value);
    rules.extend(TERMINALS.map(|request| refuse("ioctl", EPERM, vec![word(1, request)])));
    let other = |family| not(word(0, family));
    for name in ["socket", "socketpair"] {
        rules.push(refuse(name, EAFNOSUPPORT, FAMILIES.map(other).to_vec()));
    }
    let audit = vec![word(0, AUDIT.0), word(2, AUDIT.1)];
    rules.push(refuse("socket", EAFNOSUPPORT, audit));
    let smc = |family| vec![word(0, family), word(2, SMC)];
    rules.extend(INET.map(|family| refuse("socket", EPROTONOSUPPORT, smc(family))));
    match confined {
        Confined::OwnRoot => {}
        Confined::HostsRoot => {
            // By the flags of mount(2). The arguments of the newer calls are in memory, which a filter cannot read.
            let writable = vec![is(3, REMOUNT | READ_ONLY, REMOUNT)];
            rules.push(refuse("mount", EPERM, writable));
            rules.extend(always(
                &["mount_setattr", "open_tree_attr", "fspick"],
                ENOSYS,
            ));
        }
        Confined::Unprivileged => {
            rules.extend(always(&FOR_PRIVILEGED, EPERM));
            let some = not(is(0, NAMESPACES, 0));
            rules.push(refuse("unshare", EPERM, vec![some]));
            rules.push(refuse("clone", EPERM, vec![some]));
            // A filter cannot read its flags, which are in memory. The C library falls back to clone.
            rules.push(refuse("clone3", ENOSYS, vec![]));
        }
    }
    Policy {
        rules,
        otherwise: Action::Allow,
    }
}

fn refuse(name: &str, action: Action, conditions: Vec<Condition>) -> Rule {
    Rule {
        syscall: name.to_owned(),
        conditions,
        action,
    }
}

fn is(argument: u8, mask: u64, value: u64) -> Condition {
    Condition {
        argument,
        mask,
        comparison: Comparison::Equal,
        negated: false,
        value,
    }
}

fn not(condition: Condition) -> Condition {
    Condition {
        negated: !condition.negated,
        ..condition
    }
}
