//! Multiplexers: `socketcall(2)` and `ipc(2)` of 32-bit x86, POWER and IBM Z. Their first argument selects a system call, whose arguments are in memory,
//! which a filter cannot read.

use super::{Action, Comparison, Condition, Policy, Rule};

const ENOSYS: Action = Action::Errno(38);

/// System call that selects another one by its first argument.
struct Multiplexer {
    name: &'static str,
    /// Bits of the first argument that the kernel uses.
    mask: u64,
    /// Values of the first argument, and the calls they select.
    calls: &'static [(u64, &'static str)],
}

const MULTIPLEXERS: [Multiplexer; 2] = [
    // net/socket.c and linux/net.h. `send` is treated as `sendto`, and `recv` as `recvfrom`: they have no numbers of their own.
    Multiplexer {
        name: "socketcall",
        mask: 0xffff_ffff,
        calls: &[
            (1, "socket"),
            (2, "bind"),
            (3, "connect"),
            (4, "listen"),
            (5, "accept"),
            (6, "getsockname"),
            (7, "getpeername"),
            (8, "socketpair"),
            (9, "sendto"),
            (10, "recvfrom"),
            (11, "sendto"),
            (12, "recvfrom"),
            (13, "shutdown"),
            (14, "setsockopt"),
            (15, "getsockopt"),
            (16, "sendmsg"),
            (17, "recvmsg"),
            (18, "accept4"),
            (19, "recvmmsg"),
            (20, "sendmmsg"),
        ],
    },
    // ipc/syscall.c and linux/ipc.h: the upper half is a version.
    Multiplexer {
        name: "ipc",
        mask: 0xffff,
        calls: &[
            (1, "semop"),
            (2, "semget"),
            (3, "semctl"),
            (4, "semtimedop"),
            (11, "msgsnd"),
            (12, "msgrcv"),
            (13, "msgget"),
            (14, "msgctl"),
            (21, "shmat"),
            (22, "shmdt"),
            (23, "shmget"),
            (24, "shmctl"),
        ],
    },
];

/// Returns rules that come before those of a policy, so that a refused call is refused through a multiplexer as well. A call whose
/// arguments decide fails with `ENOSYS`: the C library may then call it by its own number.
pub fn rules(policy: &Policy) -> Vec<Rule> {
    let is_open = |name: &str| policy.possible(name).iter().any(|action| action.is_made());
    let open = MULTIPLEXERS.iter().filter(|one| is_open(one.name));
    open.flat_map(|one| {
        let rule = |&(value, call): &(u64, &str)| {
            Some(Rule {
                syscall: one.name.to_owned(),
                conditions: vec![Condition {
                    argument: 0,
                    mask: one.mask,
                    comparison: Comparison::Equal,
                    negated: false,
                    value,
                }],
                action: refusal(&policy.possible(call))?,
            })
        };
        one.calls.iter().filter_map(rule)
    })
    .collect()
}

/// Returns the refusal of a call with unknown arguments; `None` if no argument gets it refused.
fn refusal(possible: &[Action]) -> Option<Action> {
    let refused = *possible.iter().find(|action| !action.is_made())?;
    let is_certain = possible.iter().all(|action| *action == refused);
    Some(if is_certain { refused } else { ENOSYS })
}
