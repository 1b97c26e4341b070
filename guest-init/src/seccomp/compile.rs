//! Compiler from a policy to a program of classic BPF (the kernel's Documentation/userspace-api/seccomp_filter.rst).

use std::collections::BTreeMap;

use super::{
    Action, Arch, Comparison, Condition, Policy, Program, Rule, SeccompError, multiplexed,
};

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_EQUAL: u16 = 0x35;

// `struct seccomp_data`
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// First number of x32 (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

const ENOSYS: u16 = 38;

pub fn program(policy: &Policy, arches: &[Arch]) -> Result<Program, SeccompError> {
    let mut program = vec![instruction(LOAD, 0, 0, ARCH)];
    for arch in arches {
        let section = section(policy, *arch)?;
        // A conditional jump has 8 bits, too few for a section. An unconditional one has 32.
        let length = u32::try_from(section.len()).unwrap_or(u32::MAX);
        program.push(instruction(IF_EQUAL, 1, 0, arch.audit()));
        program.push(instruction(0x05, 0, 0, length));
        program.extend(section);
    }
    program.push(result(Action::KillProcess));
    Ok(program)
}

/// Compiles the section of an architecture, from loading the number to a result.
fn section(policy: &Policy, arch: Arch) -> Result<Program, SeccompError> {
    let numbers = arch.numbers();
    let mut section = vec![instruction(LOAD, 0, 0, NUMBER)];
    section.extend(unknown(&numbers));
    for rule in multiplexed::rules(policy).iter().chain(&policy.rules) {
        if let Some(number) = numbers.get(rule.syscall.as_str()) {
            section.extend(block(rule, arch, *number)?);
        }
    }
    section.push(result(policy.otherwise));
    Ok(section)
}

/// Refuses every number without a name: numbers above the highest, x32 among them, below the lowest, and between two others.
fn unknown(numbers: &BTreeMap<&'static str, u32>) -> Program {
    let mut known: Vec<u32> = numbers.values().copied().collect();
    known.sort_unstable();
    let highest = known.last().copied().unwrap_or(0);
    debug_assert!(highest < X32);
    let refused = result(Action::Errno(ENOSYS));
    let lowest = known.first().copied().unwrap_or(0);
    let mut program = vec![
        instruction(IF_GREATER, 0, 1, highest),
        refused,
        instruction(IF_GREATER_EQUAL, 1, 0, lowest),
        refused,
    ];
    for pair in known.windows(2) {
        let [below, above] = [pair[0], pair[1]];
        if above > below + 1 {
            program.push(instruction(IF_GREATER_EQUAL, 2, 0, above));
            program.push(instruction(IF_GREATER, 0, 1, below));
            program.push(refused);
        }
    }
    program
}

/// Compiles one rule. If it does not match, the program goes on after it with the number loaded.
fn block(rule: &Rule, arch: Arch, number: u32) -> Result<Program, SeccompError> {
    if rule.conditions.is_empty() {
        let skip = instruction(IF_EQUAL, 0, 1, number);
        return Ok(vec![skip, result(rule.action)]);
    }
    let conditions: Vec<Vec<Test>> = rule
        .conditions
        .iter()
        .map(|condition| {
            let argument = arch.place(&rule.syscall, condition.argument);
            tests(condition, argument, arch.is_big_endian())
        })
        .collect::<Result<_, _>>()?;
    let length: usize = conditions.iter().map(Vec::len).sum();
    // The number, the conditions, the result, and the number loaded again.
    let end = length + 2;
    let mut block = vec![instruction(IF_EQUAL, 0, jump(0, end + 1), number)];
    for tests in conditions {
        let begin = block.len();
        let pass = begin + tests.len();
        for test in tests {
            let here = block.len();
            let to = |target| match target {
                Target::Next => 0,
                Target::Pass => jump(here, pass),
                Target::Fail => jump(here, end),
            };
            block.push(instruction(test.code, to(test.yes), to(test.no), test.k));
        }
    }
    block.push(result(rule.action));
    block.push(instruction(LOAD, 0, 0, NUMBER));
    Ok(block)
}

/// Returns the offset of a jump. A rule has at most six conditions, each a few instructions long.
fn jump(from: usize, to: usize) -> u8 {
    u8::try_from(to.saturating_sub(from + 1)).unwrap_or(u8::MAX)
}

#[derive(Clone, Copy)]
enum Target {
    Next,
    Pass,
    Fail,
}

struct Test {
    code: u16,
    yes: Target,
    no: Target,
    k: u32,
}

/// Compiles a comparison of 64 bits of an argument, which BPF does in halves.
fn tests(
    condition: &Condition,
    argument: u8,
    is_big_endian: bool,
) -> Result<Vec<Test>, SeccompError> {
    if argument > 5 {
        return Err(SeccompError::Argument(argument));
    }
    let (pass, fail) = match condition.negated {
        false => (Target::Pass, Target::Fail),
        true => (Target::Fail, Target::Pass),
    };
    let [low, high] = halves(condition.value);
    let [low_mask, high_mask] = halves(condition.mask);
    let at = ARGUMENTS + 8 * u32::from(argument);
    let (at_low, at_high) = match is_big_endian {
        false => (at, at + 4),
        true => (at + 4, at),
    };
    let next = |code, k| Test {
        code,
        yes: Target::Next,
        no: Target::Next,
        k,
    };
    let test = |code, yes, no, k| Test { code, yes, no, k };
    let mut tests = vec![next(LOAD, at_high), next(AND, high_mask)];
    let last = match condition.comparison {
        Comparison::Equal => IF_EQUAL,
        Comparison::Greater => IF_GREATER,
        Comparison::GreaterEqual => IF_GREATER_EQUAL,
    };
    if condition.comparison != Comparison::Equal {
        tests.push(test(IF_GREATER, pass, Target::Next, high));
    }
    tests.push(test(IF_EQUAL, Target::Next, fail, high));
    tests.extend([next(LOAD, at_low), next(AND, low_mask)]);
    tests.push(test(last, pass, fail, low));
    Ok(tests)
}

fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// linux/seccomp.h
fn result(action: Action) -> u64 {
    let value = match action {
        Action::Allow => 0x7fff_0000,
        Action::Log => 0x7ffc_0000,
        Action::Notify => 0x7fc0_0000,
        Action::Errno(number) => 0x0005_0000 | u32::from(number),
        Action::Trap => 0x0003_0000,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
    };
    instruction(RETURN, 0, 0, value)
}

fn instruction(code: u16, yes: u8, no: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(yes) << 16 | u64::from(no) << 24 | u64::from(k) << 32
}
