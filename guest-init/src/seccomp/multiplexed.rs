//! System calls that stand for others: `socketcall(2)` and `ipc(2)` of 32-bit x86. Their first argument says which one is meant.
//! The arguments of that call lie in memory, which no filter can read.

use super::{Action, Comparison, Condition, Policy, Rule};

const ENOSYS: Action = Action::Errno(38);

/// A system call that stands for others.
struct Multiplexer {
    name: &'static str,
    /// The bits of its first argument that the kernel looks at.
    mask: u64,
    /// Values of the first argument, each with the call that it means.
    calls: &'static [(u64, &'static str)],
}

const MULTIPLEXERS: [Multiplexer; 2] = [
    // net/socket.c and linux/net.h; a program that may not `send` has no other way to it than `sendto`.
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

/// The rules that a policy needs before its own, so that nothing is reached through a multiplexer that is refused when it is called
/// by its own number. Where its arguments decide, it is as if it were not there: the C library may then take the other way.
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

/// How a call is refused whose arguments nobody sees; `None` where no argument gets it refused.
fn refusal(possible: &[Action]) -> Option<Action> {
    let refused = *possible.iter().find(|action| !action.is_made())?;
    let is_certain = possible.iter().all(|action| *action == refused);
    Some(if is_certain { refused } else { ENOSYS })
}
