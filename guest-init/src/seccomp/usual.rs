//! The policy that a sandbox has unless said otherwise.
//!
//! It says what is refused: what reaches past the namespaces, what only the host's administrator needs, and what the kernel
//! had most holes in. All else is there, up to the newest number that is known. The lists of systemd-nspawn and of podman
//! were compared; where they refuse with `EPERM` so does this, and with `ENOSYS` what programs then do another way.

use super::{Action, Comparison, Condition, Policy, Rule};

const EPERM: Action = Action::Errno(1);
const ENOSYS: Action = Action::Errno(38);
const EPROTONOSUPPORT: Action = Action::Errno(93);
const EAFNOSUPPORT: Action = Action::Errno(97);

/// Of no use in any sandbox, and refused to those who may do it.
const REFUSED: [&str; 31] = [
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

/// What programs do without where the kernel does not have it: keys are not in namespaces, and rings go past what is
/// watched here.
const MISSING: [&str; 6] = [
    "add_key",
    "keyctl",
    "request_key",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
];

/// What those have no use for who cannot get privileges, and what would give them those of a user namespace.
const FOR_PRIVILEGED: [&str; 15] = [
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "setns",
    "open_tree",
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

/// `TIOCSTI`, `TIOCLINUX` and `TIOCCONS`: typing into a terminal for whoever is at it, and taking what is written to the host's
/// console (`ioctl_tty(2)`, `ioctl_console(2)`).
const TERMINALS: [u64; 3] = [0x5412, 0x541c, 0x541d];

/// Families of sockets that there are: `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK` and `AF_PACKET` (linux/socket.h). `AF_VSOCK`
/// is in no namespace and reaches virtual machines and their host. Asking for one of the others has the kernel load a module,
/// and most of these are old, seldom used and rich in holes (`AF_ALG`, `AF_RDS`, `AF_TIPC`, `AF_KEY`), or are of hardware.
const FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// `AF_INET` and `AF_INET6` with `IPPROTO_SMC` are `AF_SMC` by another name.
const INET: [u64; 2] = [2, 10];
const SMC: u64 = 256;

/// `AF_NETLINK` and `NETLINK_AUDIT`, of the host's audit.
const AUDIT: (u64, u64) = (16, 9);

/// `MS_RDONLY` and `MS_REMOUNT`.
const READ_ONLY: u64 = 1;
const REMOUNT: u64 = 32;

/// Whom a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    /// A root in a user namespace of its own: mounts are locked there.
    OwnRoot,
    /// A root that is the host's: it may not make anything writable again.
    HostsRoot,
    /// Somebody without privileges, who cannot get any.
    Unprivileged,
}

/// The policy.
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
            // As mount(2) reads its flags; what the newer calls are asked cannot be seen.
            let writable = vec![is(3, REMOUNT | READ_ONLY, REMOUNT)];
            rules.push(refuse("mount", EPERM, writable));
            rules.extend(always(&["mount_setattr", "fspick"], ENOSYS));
        }
        Confined::Unprivileged => {
            rules.extend(always(&FOR_PRIVILEGED, EPERM));
            let some = not(is(0, NAMESPACES, 0));
            rules.push(refuse("unshare", EPERM, vec![some]));
            rules.push(refuse("clone", EPERM, vec![some]));
            // Its flags cannot be seen, and the C library then takes the other.
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
