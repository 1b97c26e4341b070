//! System calls that a sandbox may not make: a policy by name, and the program of the kernel's that it becomes
//! (`seccomp(2)`). Pure: the host compiles it, the guest only installs it.

mod compile;
#[cfg(feature = "init")]
pub(crate) mod filter;
mod multiplexed;
pub mod usual;

use std::collections::BTreeMap;

/// The kernel's program: each instruction as `code`, `jt`, `jf` and `k`, from the lowest bits on (`struct sock_filter`).
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

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It is made, and the kernel's log says so.
    Log,
    /// Whoever has the filter's listener answers it (`seccomp_unotify(2)`).
    Notify,
    /// It fails with this number.
    Errno(u16),
    /// The process gets `SIGSYS`.
    Trap,
    /// The thread ends.
    KillThread,
    /// The process ends.
    KillProcess,
}

impl Action {
    /// Whether the kernel makes the call.
    #[must_use]
    pub fn is_made(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is the value.
    Equal,
    /// It is greater.
    Greater,
    /// It is greater, or the value.
    GreaterEqual,
}

/// What an argument of a system call has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which one, from 0 to 5.
    pub argument: u8,
    /// The bits of it that count.
    pub mask: u64,
    /// How these are compared to `value`.
    pub comparison: Comparison,
    /// Whether the comparison has to fail instead.
    pub negated: bool,
    /// What it is compared to.
    pub value: u64,
}

/// What becomes of one system call, if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, as `openat`. One that an architecture does not have is no matter there.
    pub syscall: String,
    /// All of them have to hold.
    pub conditions: Vec<Condition>,
    /// What becomes of it.
    pub action: Action,
}

/// What becomes of system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Of two rules that fit the first counts.
    pub rules: Vec<Rule>,
    /// What becomes of those with no rule that fits.
    pub otherwise: Action,
}

/// An architecture whose programs a kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `x86_64`, without its variant x32.
    X86_64,
    /// 32-bit programs of x86.
    I386,
    /// `aarch64`.
    Aarch64,
}

impl Arch {
    /// Those that run on a host of the architecture `name`, as Rust calls it; none where we have no numbers.
    #[must_use]
    pub fn of_host(name: &str) -> &'static [Self] {
        match name {
            "x86_64" => &[Self::X86_64, Self::I386],
            "aarch64" => &[Self::Aarch64],
            _ => &[],
        }
    }

    /// `AUDIT_ARCH_*` of linux/audit.h.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 1,
            Self::I386 => 2,
            Self::Aarch64 => 3,
        }
    }

    /// Numbers by name.
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

/// Whether there is a system call of this name on any architecture.
#[must_use]
pub fn is_known(name: &str) -> bool {
    let names = TABLE.lines().filter_map(|line| line.split(' ').next());
    names.into_iter().any(|known| known == name)
}

/// Why a policy cannot be a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// The kernel takes no longer one (`BPF_MAXINSNS`).
    #[error("it has {0} instructions, and the kernel takes {MOST}")]
    TooLong(usize),
    /// An argument that no system call has.
    #[error("system calls have no argument {0}")]
    Argument(u8),
}

/// Longest program (`BPF_MAXINSNS`).
const MOST: usize = 4096;

impl Policy {
    /// Every action that a call of this name may meet, by its arguments.
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

    /// The program for a host that runs programs of `arches`. A number that is in no table of ours fails as on a kernel
    /// that does not have it.
    ///
    /// # Errors
    /// Where it gets too long.
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
