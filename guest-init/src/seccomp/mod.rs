//! Filters of system calls: a policy by name, compiled to a program for the kernel (`seccomp(2)`).
//!
//! Pure: the host compiles the program, and the guest only installs it.

mod compile;
#[cfg(feature = "init")]
pub(crate) mod filter;
mod multiplexed;
pub mod usual;

use std::collections::BTreeMap;

/// Program for the kernel: each instruction as `code`, `jt`, `jf` and `k`, from the lowest bits on (`struct sock_filter`).
pub type Program = Vec<u64>;

/// Returns the instructions of a program as the kernel takes them.
#[cfg(feature = "link")]
#[must_use]
pub fn instructions(program: &Program) -> Vec<nix::libc::sock_filter> {
    program
        .iter()
        .map(|word| nix::libc::sock_filter {
            code: *word as u16,
            jt: (word >> 16) as u8,
            jf: (word >> 24) as u8,
            k: (word >> 32) as u32,
        })
        .collect()
}

/// Action for a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allowed.
    Allow,
    /// Allowed and logged by the kernel.
    Log,
    /// Answered by the listener of the filter (`seccomp_unotify(2)`).
    Notify,
    /// Failed with this errno.
    Errno(u16),
    /// Failed with `SIGSYS`.
    Trap,
    /// The thread is killed.
    KillThread,
    /// The process is killed.
    KillProcess,
}

impl Action {
    /// Returns whether the kernel makes the call.
    #[must_use]
    pub fn is_made(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }
}

/// Comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal to the value.
    Equal,
    /// Greater than the value.
    Greater,
    /// Greater than or equal to the value.
    GreaterEqual,
}

/// Condition on an argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Index of the argument, from 0 to 5, as most architectures count.
    pub argument: u8,
    /// Bits of the argument that are compared.
    pub mask: u64,
    /// Comparison with `value`.
    pub comparison: Comparison,
    /// Whether the condition holds if the comparison does not.
    pub negated: bool,
    /// Value to compare with.
    pub value: u64,
}

/// Action for one system call under conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name, as `openat`. The rule has no effect on an architecture without the call.
    pub syscall: String,
    /// Conditions, all of which have to hold.
    pub conditions: Vec<Condition>,
    /// Action if they hold.
    pub action: Action,
}

/// Policy for all system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Rules, of which the first that matches counts.
    pub rules: Vec<Rule>,
    /// Action for calls without a matching rule.
    pub otherwise: Action,
}

/// Architecture of programs that a kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `x86_64`, without its variant x32.
    X86_64,
    /// 32-bit programs of x86.
    I386,
    /// `aarch64`.
    Aarch64,
    /// 32-bit programs of ARM.
    Arm,
    /// `ppc64le`.
    Ppc64le,
    /// `s390x`.
    S390x,
    /// `riscv64`.
    Riscv64,
    /// `loongarch64`.
    Loongarch64,
}

impl Arch {
    /// Returns the architectures of programs that run on a host; `name` is what `uname -m` prints there. Empty if the numbers of its
    /// calls are unknown.
    #[must_use]
    pub fn of_host(name: &str) -> &'static [Self] {
        match name {
            "x86_64" => &[Self::X86_64, Self::I386],
            "i686" => &[Self::I386],
            "aarch64" => &[Self::Aarch64, Self::Arm],
            "armv7l" => &[Self::Arm],
            "ppc64le" => &[Self::Ppc64le],
            "s390x" => &[Self::S390x],
            "riscv64" => &[Self::Riscv64],
            "loongarch64" => &[Self::Loongarch64],
            _ => &[],
        }
    }

    /// Returns `AUDIT_ARCH_*` of linux/audit.h.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Ppc64le => 0xc000_0015,
            Self::S390x => 0x8000_0016,
            Self::Riscv64 => 0xc000_00f3,
            Self::Loongarch64 => 0xc000_0102,
        }
    }

    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 1,
            Self::I386 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
            Self::Ppc64le => 5,
            Self::S390x => 6,
            Self::Riscv64 => 7,
            Self::Loongarch64 => 8,
        }
    }

    /// Returns the place of an argument of a call, as [`Condition::argument`] counts: on s390x the first two of `clone(2)` are swapped
    /// (`CONFIG_CLONE_BACKWARDS2`).
    fn place(self, syscall: &str, argument: u8) -> u8 {
        match (self, syscall, argument) {
            (Self::S390x, "clone", 0) => 1,
            (Self::S390x, "clone", 1) => 0,
            (_, _, argument) => argument,
        }
    }

    /// Returns whether the upper half of an argument comes first in memory.
    const fn is_big_endian(self) -> bool {
        matches!(self, Self::S390x)
    }

    /// Returns the numbers of system calls by name.
    fn numbers(self) -> BTreeMap<&'static str, u32> {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                Some((*words.first()?, words.get(self.column())?.parse().ok()?))
            })
            .collect()
    }
}

const TABLE: &str = include_str!("syscalls.txt");

/// Returns whether any architecture has a system call of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    let names = TABLE.lines().filter_map(|line| line.split(' ').next());
    names.into_iter().any(|known| known == name)
}

/// Error in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// The program is longer than the kernel allows (`BPF_MAXINSNS`).
    #[error("it has {0} instructions, and the kernel takes {MOST}")]
    TooLong(usize),
    /// System calls have no such argument.
    #[error("system calls have no argument {0}")]
    Argument(u8),
}

/// Longest program (`BPF_MAXINSNS`).
const MOST: usize = 4096;

impl Policy {
    /// Returns all actions that a call of this name may get, depending on its arguments.
    fn possible(&self, name: &str) -> Vec<Action> {
        let mut possible = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.syscall == name) {
            possible.push(rule.action);
            if rule.conditions.is_empty() {
                return possible;
            }
        }
        possible.push(self.otherwise);
        possible
    }

    /// Compiles the policy for a host that runs programs of `arches`. Calls with an unknown number fail as on a kernel without them.
    pub fn compile(&self, arches: &[Arch]) -> Result<Program, SeccompError> {
        let program = compile::program(self, arches)?;
        match program.len() > MOST {
            true => Err(SeccompError::TooLong(program.len())),
            false => Ok(program),
        }
    }
}

#[cfg(test)]
mod tests;
