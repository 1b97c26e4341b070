//! Interpreter of BPF, to run compiled programs.

mod tables;

use super::usual::{self, Confined};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const S390X: u32 = 0x8000_0016;

/// Runs a program on a call and returns its result, as in `linux/seccomp.h`.
fn run(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let is_big_endian = arch == S390X;
    let load = |at: u32| match at {
        0 => number,
        4 => arch,
        at => {
            let argument = arguments[((at - 16) / 8) as usize];
            if (at % 8 == 0) != is_big_endian {
                argument as u32
            } else {
                (argument >> 32) as u32
            }
        }
    };
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let word = program[at];
        let (code, yes, no, k) = (
            word as u16,
            (word >> 16) as u8,
            (word >> 24) as u8,
            (word >> 32) as u32,
        );
        at += 1;
        let mut jump = |is_so: bool| at += usize::from(if is_so { yes } else { no });
        match code {
            0x20 => accumulator = load(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            other => panic!("no instruction: {other:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const PERM: u32 = 0x0005_0001;
const NOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

#[test]
fn every_name_of_the_usual_policy_is_a_system_call() {
    for confined in [
        Confined::OwnRoot,
        Confined::HostsRoot,
        Confined::Unprivileged,
    ] {
        for rule in usual::policy(confined).rules {
            assert!(is_known(&rule.syscall), "{}", rule.syscall);
        }
    }
}

#[test]
fn the_usual_policy_refuses_on_every_architecture() {
    let all = Arch::of_host("x86_64");
    let own = usual::policy(Confined::OwnRoot).compile(all).unwrap();
    let hosts = usual::policy(Confined::HostsRoot).compile(all).unwrap();
    let none = usual::policy(Confined::Unprivileged).compile(all).unwrap();
    let flags = |flags: u64| [0, 0, 0, flags, 0, 0];
    for (program, arch, number, arguments, expected) in [
        // read, init_module, kexec_load, keyctl
        (&own, X86_64, 0, [0; 6], ALLOW),
        (&own, X86_64, 175, [0; 6], PERM),
        (&own, I386, 128, [0; 6], PERM),
        (&own, X86_64, 246, [0; 6], PERM),
        (&own, X86_64, 250, [0; 6], NOSYS),
        // x32, an unknown number, an architecture of another host
        (&own, X86_64, 0x4000_0000, [0; 6], NOSYS),
        (&own, X86_64, 700, [0; 6], NOSYS),
        (&own, 0x4000_0028, 3, [0; 6], KILL),
        // ioctl with TIOCSTI, also with a nonzero upper half, which the kernel ignores
        (&own, X86_64, 16, [0, 0x5412, 0, 0, 0, 0], PERM),
        (&own, X86_64, 16, [0, 0x541d, 0, 0, 0, 0], PERM),
        (&own, X86_64, 16, [0, 0xdead_0000_5412, 0, 0, 0, 0], PERM),
        (&own, X86_64, 16, [0, 0x5413, 0, 0, 0, 0], ALLOW),
        // socket of AF_VSOCK, of AF_INET, of audit, of routes
        (&own, X86_64, 41, [40, 1, 0, 0, 0, 0], 0x0005_0061),
        (&own, X86_64, 41, [2, 1, 0, 0, 0, 0], ALLOW),
        (&own, X86_64, 41, [16, 3, 9, 0, 0, 0], 0x0005_0061),
        (&own, X86_64, 41, [16, 3, 0, 0, 0, 0], ALLOW),
        // mount: anything; a remount, without read-only; a bind
        (&own, X86_64, 165, flags(32), ALLOW),
        (&hosts, X86_64, 165, flags(32 | 4096), PERM),
        (&hosts, X86_64, 165, flags(32 | 4096 | 1), ALLOW),
        (&hosts, X86_64, 165, flags(4096), ALLOW),
        (&hosts, X86_64, 442, [0; 6], NOSYS),
        (&none, X86_64, 165, flags(4096), PERM),
        // clone as fork(3) makes it, with a namespace; unshare of files
        (&none, X86_64, 56, [0x0120_0011, 0, 0, 0, 0, 0], ALLOW),
        (&none, X86_64, 56, [0x1000_0011, 0, 0, 0, 0, 0], PERM),
        (&none, X86_64, 272, [0x400, 0, 0, 0, 0, 0], ALLOW),
        (&none, X86_64, 272, [0x1000_0000, 0, 0, 0, 0, 0], PERM),
        (&none, X86_64, 435, [0; 6], NOSYS),
    ] {
        let found = run(program, arch, number, arguments);
        assert_eq!(
            found, expected,
            "{arch:#x} {number} {arguments:x?}: {found:#x}"
        );
    }
}

#[test]
fn comparisons_are_of_64_bits() {
    let value = 0x1_0000_0005_u64;
    for (comparison, below, same, above) in [
        (Comparison::Equal, false, true, false),
        (Comparison::Greater, false, false, true),
        (Comparison::GreaterEqual, false, true, true),
    ] {
        for negated in [false, true] {
            let condition = Condition {
                argument: 2,
                mask: u64::MAX,
                comparison,
                negated,
                value,
            };
            let policy = Policy {
                rules: vec![Rule {
                    syscall: "read".into(),
                    conditions: vec![condition],
                    action: Action::Allow,
                }],
                otherwise: Action::Errno(1),
            };
            let program = policy.compile(&[Arch::X86_64]).unwrap();
            for (argument, holds) in [
                (5, below),
                (value - 1, below),
                (value, same),
                (value + 1, above),
                (0x2_0000_0000, above),
            ] {
                let found = run(&program, X86_64, 0, [0, 0, argument, 0, 0, 0]);
                let expected = if holds != negated { ALLOW } else { PERM };
                assert_eq!(found, expected, "{condition:?} {argument:#x}");
            }
        }
    }
}
