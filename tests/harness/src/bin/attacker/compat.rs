//! The kernel's other tables of system calls: those of 32-bit x86, by `int 0x80`, and of x32.

use super::*;

/// `AF_ALG`, `AF_VSOCK`, `AF_NETLINK` with `NETLINK_AUDIT`, `AF_INET` with `IPPROTO_SMC`.
const ALG: [u32; 3] = [38, 5, 0];
const VSOCK: [u32; 3] = [40, 1, 0];
const AUDIT: [u32; 3] = [16, 3, 9];
const SMC: [u32; 3] = [2, 1, 256];

/// Bit of the numbers of x32.
const X32: i64 = 0x4000_0000;

/// Makes a 32-bit system call.
#[cfg(target_arch = "x86_64")]
fn call32(number: u32, arguments: [u32; 5]) -> i32 {
    let [first, second, third, fourth, fifth] = arguments;
    let result: u64;
    // SAFETY: every caller passes numbers, or addresses below 4 GiB of memory that stays mapped; the kernel may refuse, which is
    // the point. The compiler reserves `rbx`, so it is restored.
    unsafe {
        std::arch::asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) u64::from(first) => _,
            inlateout("rax") u64::from(number) => result,
            in("rcx") u64::from(second),
            in("rdx") u64::from(third),
            in("rsi") u64::from(fourth),
            in("rdi") u64::from(fifth),
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    (result as u32).cast_signed()
}

#[cfg(not(target_arch = "x86_64"))]
fn call32(_number: u32, _arguments: [u32; 5]) -> i32 {
    -(Errno::ENOSYS as i32)
}

/// Returns an address below 4 GiB that holds these words.
#[cfg(target_arch = "x86_64")]
fn low(words: &[u32]) -> Result<u32, String> {
    let (access, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
    );
    let size = size_of_val(words);
    // SAFETY: a new anonymous mapping, which is never unmapped.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
    if place == libc::MAP_FAILED {
        return Err(said(Errno::last()));
    }
    // SAFETY: the mapping has room for all of them.
    unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), place.cast(), words.len()) };
    u32::try_from(place as usize).map_err(|error| error.to_string())
}

#[cfg(not(target_arch = "x86_64"))]
fn low(_words: &[u32]) -> Result<u32, String> {
    Err("there is no such table".to_owned())
}

/// Returns an error if the filter refused the call. Any other result means that the kernel handled it.
fn judge(result: i64) -> Result<String, String> {
    let refusals = [
        Errno::EPERM,
        Errno::ENOSYS,
        Errno::EAFNOSUPPORT,
        Errno::EPROTONOSUPPORT,
    ];
    let error = Errno::from_raw(i32::try_from(-result).unwrap_or_default());
    match (result < 0, refusals.contains(&error)) {
        (true, true) => Err(said(error)),
        (true, false) => Ok(format!("got past the filter: {}", said(error))),
        (false, _) => Ok(format!("was given {result}")),
    }
}

/// Makes a 32-bit call if the kernel supports them, and judges the result.
fn tries(number: u32, arguments: [u32; 5]) -> Result<String, String> {
    // getpid
    if call32(20, [0; 5]) <= 0 {
        return Err("the kernel runs no programs of 32 bits".to_owned());
    }
    judge(call32(number, arguments).into())
}

fn socket([family, kind, protocol]: [u32; 3]) -> Result<String, String> {
    let [family, kind, protocol] = [family, kind, protocol].map(|it| it as usize);
    call(libc::SYS_socket, [family, kind, protocol, 0, 0]).map(|_| "has a socket".to_owned())
}

/// Opens a socket by the number of `socket` and through `socketcall`.
fn socket32([family, kind, protocol]: [u32; 3]) -> Result<String, String> {
    tries(359, [family, kind, protocol, 0, 0])
}

fn socketcall(call: u32, words: &[u32]) -> Result<String, String> {
    tries(102, [call, low(words)?, 0, 0, 0])
}

fn x32(number: i64, arguments: [usize; 5]) -> Result<String, String> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: all arguments are numbers.
    let done = unsafe { libc::syscall(number | X32, a, b, c, d, e) };
    judge(match Errno::result(done) {
        Ok(value) => value,
        Err(error) => -(error as i64),
    })
}

/// Returns the first of these calls, given with their arguments, that gets past the filter.
fn any(calls: &[(&str, u32, [u32; 5])]) -> Result<String, String> {
    let mut last = Err("none".to_owned());
    for (name, number, arguments) in calls {
        last = tries(*number, *arguments);
        if let Ok(done) = last {
            return Ok(format!("{name}: {done}"));
        }
    }
    last
}

/// Lists the attempts to get past the filter.
pub fn attempts() -> Vec<Attempt> {
    vec![
        ("32 bits: talk to virtual machines by vsock", Kernel, |_| {
            socket32(VSOCK)
        }),
        ("the same by socketcall", Kernel, |_| socketcall(1, &VSOCK)),
        ("32 bits: speak to the host's audit", Kernel, |_| {
            socket32(AUDIT)
        }),
        ("the same by socketcall", Kernel, |_| socketcall(1, &AUDIT)),
        ("reach the kernel's ciphers", Kernel, |_| socket(ALG)),
        ("the same by socketcall", Kernel, |_| socketcall(1, &ALG)),
        ("reach shared memory of the network card", Kernel, |_| {
            socket(SMC)
        }),
        ("the same by socketcall", Kernel, |_| socketcall(1, &SMC)),
        ("pairs of sockets of other families", Kernel, |_| {
            // AF_TIPC, SOCK_SEQPACKET
            let mut pair = [0_i32; 2];
            let at = std::ptr::from_mut(&mut pair) as usize;
            call(libc::SYS_socketpair, [30, 5, 0, at, 0]).map(|_| "has a pair".to_owned())
        }),
        ("the same by socketcall", Kernel, |_| {
            let pair = low(&[0, 0])?;
            socketcall(8, &[30, 5, 0, pair])
        }),
        ("32 bits: set the host's clock", Kernel, |_| {
            let time = low(&[1, 0, 0, 0])?;
            any(&[
                ("stime", 25, [time, 0, 0, 0, 0]),
                ("settimeofday", 79, [time, 0, 0, 0, 0]),
                ("clock_settime", 264, [0, time, 0, 0, 0]),
                ("clock_settime64", 404, [0, time, 0, 0, 0]),
            ])
        }),
        (
            "32 bits: keys, rings, programs in the kernel",
            Kernel,
            |_| {
                any(&[
                    ("add_key", 286, [0; 5]),
                    ("request_key", 287, [0; 5]),
                    ("keyctl", 288, [0, u32::MAX - 3, 1, 0, 0]),
                    ("io_uring_setup", 425, [1, 0, 0, 0, 0]),
                    ("bpf", 357, [0; 5]),
                    ("perf_event_open", 336, [0; 5]),
                    ("userfaultfd", 374, [0; 5]),
                ])
            },
        ),
        ("32 bits: modules, kernels, ports, swap", Kernel, |_| {
            any(&[
                ("init_module", 128, [0; 5]),
                ("finit_module", 350, [u32::MAX, 0, 0, 0, 0]),
                ("delete_module", 129, [0; 5]),
                ("kexec_load", 283, [0; 5]),
                ("iopl", 110, [3, 0, 0, 0, 0]),
                ("ioperm", 101, [0x80, 1, 1, 0, 0]),
                ("vm86old", 113, [0; 5]),
                ("vm86", 166, [1, 0, 0, 0, 0]),
                ("uselib", 86, [0; 5]),
                ("_sysctl", 149, [0; 5]),
                ("swapon", 87, [0; 5]),
                ("swapoff", 115, [0; 5]),
                ("acct", 51, [0; 5]),
                ("quotactl", 131, [0; 5]),
                ("syslog", 103, [10, 0, 0, 0, 0]),
                ("open_by_handle_at", 342, [0; 5]),
            ])
        }),
        ("32 bits: type into its terminal", Kernel, |_| {
            let byte = low(&[u32::from(b'x')])?;
            any(&[
                ("TIOCSTI", 54, [0, 0x5412, byte, 0, 0]),
                ("TIOCLINUX", 54, [0, 0x541c, byte, 0, 0]),
                ("TIOCCONS", 54, [0, 0x541d, byte, 0, 0]),
            ])
        }),
        (
            "x32: vsock, keys, another kernel, its terminal",
            Kernel,
            |_| {
                let calls = [
                    (41, [40, 1, 0, 0, 0]),
                    (250, [0; 5]),
                    (528, [0; 5]),
                    (514, [0, 0x5412, 0, 0, 0]),
                ];
                let mut last = Err("none".to_owned());
                for (number, arguments) in calls {
                    last = x32(number, arguments);
                    if last.is_ok() {
                        break;
                    }
                }
                last
            },
        ),
        ("call by a number that has no name", Kernel, |_| {
            // Between those of x86-64 and those that all architectures have, and above those of the filter's table.
            let unnamed = (336..424).chain(469..600).skip(1);
            let mut numbers = unnamed.filter(|number| {
                // SAFETY: no call accepts these arguments.
                let done = unsafe { libc::syscall(*number, -1, -1, -1, -1, -1) };
                Errno::result(done) != Err(Errno::ENOSYS)
            });
            match numbers.next() {
                Some(number) => Ok(format!("{number} is there")),
                None => Err("there are none".to_owned()),
            }
        }),
    ]
}
