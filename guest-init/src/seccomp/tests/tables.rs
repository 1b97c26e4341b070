//! Tests of every number of a system call, by the tables of the kernel (Debian's `linux-libc-dev`) and beyond them.

use std::collections::BTreeMap;
use std::fs;

use super::*;

const X32: u32 = 0x4000_0000;

/// Numbers that are tested: all with a name, and as many after them.
const NUMBERS: u32 = 1024;

const POLICIES: [Confined; 3] = [
    Confined::OwnRoot,
    Confined::HostsRoot,
    Confined::Unprivileged,
];

/// Every architecture with its `AUDIT_ARCH_*`.
const ARCHES: [(Arch, u32); 8] = [
    (Arch::X86_64, X86_64),
    (Arch::I386, I386),
    (Arch::Aarch64, 0xc000_00b7),
    (Arch::Arm, 0x4000_0028),
    (Arch::Ppc64le, 0xc000_0015),
    (Arch::S390x, S390X),
    (Arch::Riscv64, 0xc000_00f3),
    (Arch::Loongarch64, 0xc000_0102),
];

/// Returns the arguments of a call as its architecture passes them.
fn passed(arch: Arch, name: Option<&str>, mut arguments: [u64; 6]) -> [u64; 6] {
    if (arch, name) == (Arch::S390x, Some("clone")) {
        arguments.swap(0, 1);
    }
    arguments
}

/// Returns arguments that rules depend on, and others. The kernel reads only the lower half of most.
fn probes() -> Vec<[u64; 6]> {
    let mut probes = vec![[0; 6], [u64::MAX; 6]];
    for upper in [0, 0xdead_0000_0000] {
        for request in [0x5412, 0x541c, 0x541d, 0x5413] {
            probes.push([0, request | upper, 0, 0, 0, 0]);
        }
        for family in 0..64 {
            probes.push([family | upper, 1, 0, 0, 0, 0]);
        }
        for protocol in [0, 9, 256, 262] {
            for family in [2, 10, 16] {
                probes.push([family | upper, 3, protocol | upper, 0, 0, 0]);
            }
        }
        for flags in [0, 1, 32, 33, 4096, 4096 | 32, 4096 | 33, 0xc0ed_0020] {
            probes.push([0, 0, 0, flags | upper, 0, 0]);
        }
        for bit in 0..32 {
            probes.push([1 << bit | upper, 0, 0, 0, 0, 0]);
        }
    }
    probes
}

/// Returns the action that a policy takes on a call, worked out from its rules.
fn judge(policy: &Policy, name: &str, arguments: [u64; 6]) -> Action {
    let holds = |condition: &Condition| {
        let argument = arguments[usize::from(condition.argument)] & condition.mask;
        let holds = match condition.comparison {
            Comparison::Equal => argument == condition.value,
            Comparison::Greater => argument > condition.value,
            Comparison::GreaterEqual => argument >= condition.value,
        };
        holds != condition.negated
    };
    let mut rules = policy.rules.iter().filter(|rule| rule.syscall == name);
    let rule = rules.find(|rule| rule.conditions.iter().all(holds));
    rule.map_or(policy.otherwise, |rule| rule.action)
}

fn code(action: Action) -> u32 {
    match action {
        Action::Allow => ALLOW,
        Action::Errno(number) => 0x0005_0000 | u32::from(number),
        Action::Log | Action::Notify | Action::Trap | Action::KillThread | Action::KillProcess => {
            panic!("{action:?} is in no usual policy")
        }
    }
}

/// Parses the names and numbers in a header of the kernel.
fn header(file: &str) -> Option<BTreeMap<String, u32>> {
    let places = ["x86_64-linux-gnu/asm", "asm", "linux"];
    let paths = places.map(|place| format!("/usr/include/{place}/{file}"));
    let text = paths.iter().find_map(|path| fs::read_to_string(path).ok());
    if text.is_none() {
        println!("skipped '{file}': install linux-libc-dev for x86");
    }
    let defined = |line: &str| {
        let (name, value) = line
            .strip_prefix("#define ")?
            .split_once(char::is_whitespace)?;
        let value = value.trim().trim_start_matches("(__X32_SYSCALL_BIT + ");
        let end = value.find(|c: char| !c.is_ascii_digit());
        let number = value[..end.unwrap_or(value.len())].parse().ok()?;
        Some((name.to_owned(), number))
    };
    Some(text?.lines().filter_map(defined).collect())
}

/// Returns the system calls of a header.
fn calls(file: &str) -> BTreeMap<String, u32> {
    let all = header(file).unwrap_or_default().into_iter();
    let calls = all.filter_map(|(name, number)| Some((name.strip_prefix("__NR_")?.into(), number)));
    calls.collect()
}

#[test]
fn the_table_has_the_numbers_of_the_kernel() {
    for (file, arch) in [("unistd_64.h", Arch::X86_64), ("unistd_32.h", Arch::I386)] {
        let ours = arch.numbers();
        for (name, number) in calls(file) {
            // Calls newer than our table are refused by their numbers.
            if number <= 462 {
                assert_eq!(ours.get(name.as_str()), Some(&number), "{file}: {name}");
            }
        }
    }
}

#[test]
fn every_number_has_the_verdict_of_its_name_on_every_architecture() {
    let probes = probes();
    for confined in POLICIES {
        let policy = usual::policy(confined);
        for (arch, audit) in ARCHES {
            let program = policy.compile(&[arch]).unwrap();
            let names: BTreeMap<u32, &str> = arch
                .numbers()
                .into_iter()
                .map(|(name, number)| (number, name))
                .collect();
            for number in 0..NUMBERS {
                for arguments in &probes {
                    let name = names.get(&number).copied();
                    let arguments = passed(arch, name, *arguments);
                    let found = run(&program, audit, number, arguments);
                    let arguments = passed(arch, name, arguments);
                    let expected = match name {
                        None => NOSYS,
                        Some("socketcall" | "ipc") => continue,
                        Some(name) => code(judge(&policy, name, arguments)),
                    };
                    assert_eq!(
                        found, expected,
                        "{confined:?} {arch:?} {number} {name:?} {arguments:x?}"
                    );
                }
            }
        }
    }
}

#[test]
fn x32_is_not_there() {
    let named = calls("unistd_x32.h").into_values();
    let numbers: Vec<u32> = (0..NUMBERS).chain(named).map(|it| it | X32).collect();
    for confined in POLICIES {
        let all = Arch::of_host("x86_64");
        let program = usual::policy(confined).compile(all).unwrap();
        for number in &numbers {
            for arguments in probes() {
                let found = run(&program, X86_64, *number, arguments);
                assert_eq!(found, NOSYS, "{confined:?} {number:#x} {arguments:x?}");
            }
        }
    }
}

/// Returns another name of the same call: `chown32`, `clock_settime64`, `oldumount`.
fn twin(name: &str) -> Option<&str> {
    let endings = ["_time64", "64", "32", "_time32"];
    let base = endings.iter().find_map(|ending| name.strip_suffix(ending));
    base.or_else(|| name.strip_prefix("old"))
        .filter(|base| is_known(base))
}

/// Pairs of calls that do the same.
const TWINS: [(&str, &str); 14] = [
    ("umount", "umount2"),
    ("vm86old", "vm86"),
    ("stime", "clock_settime"),
    ("settimeofday", "clock_settime"),
    ("finit_module", "init_module"),
    ("create_module", "init_module"),
    ("kexec_file_load", "kexec_load"),
    ("quotactl_fd", "quotactl"),
    ("ioperm", "iopl"),
    ("request_key", "keyctl"),
    ("add_key", "keyctl"),
    ("io_uring_register", "io_uring_setup"),
    ("fsmount", "move_mount"),
    ("move_mount", "open_tree"),
];

/// Pairs of calls that do the same, of which one has its arguments in memory.
const BLIND: [(&str, &str); 4] = [
    ("open_tree_attr", "mount"),
    ("clone3", "clone"),
    ("mount_setattr", "mount"),
    ("fspick", "mount"),
];

#[test]
fn twins_have_one_verdict() {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<&str> = lines.filter_map(|line| line.split(' ').next()).collect();
    let found: Vec<(&str, &str)> = names
        .iter()
        .filter_map(|name| Some((*name, twin(name)?)))
        .collect();
    assert!(found.contains(&("clock_settime64", "clock_settime")) && found.len() > 40);
    for confined in POLICIES {
        let policy = usual::policy(confined);
        for (one, other) in found.iter().chain(&TWINS) {
            for arguments in probes() {
                let [one_is, other_is] =
                    [one, other].map(|name| judge(&policy, name, arguments).is_made());
                assert_eq!(one_is, other_is, "{confined:?}: {one}, {other}");
            }
        }
        for (blind, seen) in BLIND {
            let is_limited = policy.possible(seen).iter().any(|action| !action.is_made());
            let is_made = judge(&policy, blind, [0; 6]).is_made();
            assert_eq!(is_made, !is_limited, "{confined:?}: {blind}, {seen}");
        }
    }
}

/// Returns the calls that `socketcall` and `ipc` select, by the headers of the kernel.
fn behind(file: &str, prefix: &str) -> Vec<(u64, String)> {
    let all = header(file).unwrap_or_default().into_iter();
    let all = all.filter_map(|(name, number)| {
        let name = name.strip_prefix(prefix)?.to_lowercase();
        let name = match name.as_str() {
            "send" => "sendto",
            "recv" => "recvfrom",
            other => other,
        };
        is_known(name).then(|| (u64::from(number), name.to_owned()))
    });
    all.collect()
}

#[test]
fn nothing_that_is_refused_is_behind_a_multiplexer() {
    let sockets = behind("net.h", "SYS_");
    let ipc = behind("ipc.h", "");
    if !sockets.is_empty() {
        assert_eq!((sockets.len(), ipc.len()), (20, 12), "{sockets:?} {ipc:?}");
    }
    let mut policies = POLICIES.map(usual::policy).to_vec();
    // An allow-list, as in profiles of containers, and a policy that refuses each call.
    let allow = |name: &str, conditions: Vec<Condition>| Rule {
        syscall: name.to_owned(),
        conditions,
        action: Action::Allow,
    };
    let not_vsock = Condition {
        argument: 0,
        mask: u64::MAX,
        comparison: Comparison::Equal,
        negated: true,
        value: 40,
    };
    policies.push(Policy {
        rules: vec![
            allow("socketcall", vec![]),
            allow("ipc", vec![]),
            allow("socket", vec![not_vsock]),
            allow("connect", vec![]),
            allow("shmat", vec![]),
        ],
        otherwise: Action::Errno(1),
    });
    for (_, name) in sockets.iter().chain(&ipc) {
        let refusing = Rule {
            action: Action::Errno(1),
            ..allow(name, vec![])
        };
        policies.push(Policy {
            rules: vec![refusing],
            otherwise: Action::Allow,
        });
    }
    let numbers = Arch::I386.numbers();
    for policy in &policies {
        let program = policy.compile(&[Arch::X86_64, Arch::I386]).unwrap();
        for (multiplexer, behind, version) in
            [("socketcall", &sockets, 0), ("ipc", &ipc, 0x0001_0000)]
        {
            for (value, name) in behind {
                for first in [*value, value | version, value | 0xdead_0000_0000] {
                    let arguments = [first, 0xffff_0000, 0, 0, 0, 0];
                    let found = run(&program, I386, numbers[multiplexer], arguments);
                    let is_open = policy.possible(name).iter().all(|action| action.is_made());
                    assert_eq!(found == ALLOW, is_open, "{multiplexer} {name}: {found:#x}");
                }
            }
        }
    }
    // An inherited socket can be used, but no new one can be made.
    let own = usual::policy(Confined::OwnRoot)
        .compile(&[Arch::I386])
        .unwrap();
    for (value, expected) in [(1, NOSYS), (8, NOSYS), (3, ALLOW), (5, ALLOW), (16, ALLOW)] {
        let found = run(&own, I386, 102, [value, 0, 0, 0, 0, 0]);
        assert_eq!(found, expected, "socketcall {value}");
    }
}

#[test]
fn only_some_families_of_sockets_are_there() {
    let [unix, inet, inet6, netlink, packet] = [1, 2, 10, 16, 17];
    for (arch, audit) in ARCHES {
        let program = usual::policy(Confined::OwnRoot).compile(&[arch]).unwrap();
        for name in ["socket", "socketpair"] {
            let number = arch.numbers()[name];
            for family in 0..=100 {
                let found = run(&program, audit, number, [family, 1, 0, 0, 0, 0]);
                let is_there = [unix, inet, inet6, netlink, packet].contains(&family);
                let expected = if is_there { ALLOW } else { 0x0005_0061 };
                assert_eq!(found, expected, "{arch:?} {name} {family}");
            }
        }
        let number = arch.numbers()["socket"];
        let smc = run(&program, audit, number, [inet6, 1, 256, 0, 0, 0]);
        assert_eq!(smc, 0x0005_005d, "{arch:?}");
    }
}
