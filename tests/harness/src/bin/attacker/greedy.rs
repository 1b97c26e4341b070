//! Exhaustion of kernel resources that are limited per user or for the whole system.
//!
//! `attacker greedy` takes all it can and holds it until its standard input ends; `attacker modest` asks for one of each.

use std::io::{Write, stdin};
use std::os::fd::{FromRawFd, OwnedFd};

use super::*;

/// Most objects to take of one resource, so that an unlimited one ends, too.
const MOST: usize = 300_000;

/// Name of a resource, the most to take, and the function that takes one.
type Resource = (
    &'static str,
    usize,
    fn(&mut Vec<OwnedFd>) -> Result<(), String>,
);

/// Resources to exhaust. An object without a descriptor lasts as long as the
/// sandbox.
const RESOURCES: [Resource; 9] = [
    // Before the instances, since it needs one of them.
    ("watches of files", MOST, |held| {
        // Each watch needs another file: watching a file again makes no new watch.
        let at =
            std::env::temp_dir().join(format!("watched-{}-{}", std::process::id(), held.len()));
        let file = File::create(&at).map_err(io)?;
        if held.is_empty() {
            own(held, call(libc::SYS_inotify_init1, [0; 5]))?;
        }
        let path = text(&at.to_string_lossy());
        let watch = [
            held[0].as_raw_fd() as usize,
            path.as_ptr() as usize,
            1,
            0,
            0,
        ];
        let done = call(libc::SYS_inotify_add_watch, watch);
        let _ = fs::remove_file(&at);
        held.push(file.into());
        done.map(drop)
    }),
    ("inotify instances", 20_000, |held| {
        own(held, call(libc::SYS_inotify_init1, [0; 5]))
    }),
    ("terminals", 20_000, |held| {
        let path = text("/dev/ptmx");
        let flags = (libc::O_RDWR | libc::O_NOCTTY) as usize;
        let opened = call(
            libc::SYS_openat,
            [HERE, path.as_ptr() as usize, flags, 0, 0],
        );
        own(held, opened)
    }),
    ("segments of shared memory", MOST, |_| {
        // IPC_PRIVATE, one page, for its owner
        call(libc::SYS_shmget, [0, 4096, 0o600, 0, 0]).map(drop)
    }),
    ("queues of messages", MOST, |_| {
        call(libc::SYS_msgget, [0, 0o600, 0, 0, 0]).map(drop)
    }),
    ("POSIX queues of messages", 20_000, |held| {
        let name = text(&format!("t-attack-{}-{}", std::process::id(), held.len()));
        let flags = (libc::O_RDWR | libc::O_CREAT) as usize;
        let made = call(
            libc::SYS_mq_open,
            [name.as_ptr() as usize, flags, 0o600, 0, 0],
        );
        own(held, made)?;
        // The queue is removed when it is closed.
        call(libc::SYS_mq_unlink, [name.as_ptr() as usize, 0, 0, 0, 0]).map(drop)
    }),
    ("timers", MOST, |_| {
        let mut timer = 0_u64;
        let at = std::ptr::from_mut(&mut timer) as usize;
        call(libc::SYS_timer_create, [1, 0, at, 0, 0]).map(drop)
    }),
    ("user namespaces", 500, |held| {
        let (read, write) = nix::unistd::pipe().map_err(said)?;
        // SAFETY: the program has one thread.
        match unsafe { fork() }.map_err(said)? {
            ForkResult::Child => {
                drop(read);
                let made = unshare(CloneFlags::CLONE_NEWUSER);
                let mut told = File::from(write);
                let _ = told.write_all(&[u8::from(made.is_err())]);
                drop(told);
                loop {
                    nix::unistd::pause();
                }
            }
            ForkResult::Parent { .. } => {
                drop(write);
                let mut failed = [1];
                let mut told = File::from(read);
                told.read_exact(&mut failed).map_err(io)?;
                held.push(told.into());
                match failed {
                    [0] => Ok(()),
                    _ => Err("refused".to_owned()),
                }
            }
        }
    }),
    ("files", MOST * 2, |held| {
        let path = text("/dev/null");
        let opened = call(libc::SYS_openat, [HERE, path.as_ptr() as usize, 0, 0, 0]);
        own(held, opened)
    }),
];

fn own(held: &mut Vec<OwnedFd>, opened: Result<i64, String>) -> Result<(), String> {
    let number = i32::try_from(opened?).map_err(|error| error.to_string())?;
    // SAFETY: the kernel has just opened this descriptor for us.
    held.push(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(())
}

/// Takes as much as it can of each resource, prints how much, and holds it.
pub fn greedy() {
    // A session of its own, so that only its children end with it.
    let _ = nix::unistd::setsid();
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    // One process per resource, so that descriptors of one do not count against another.
    for (name, most, take) in RESOURCES {
        let Ok((read, write)) = nix::unistd::pipe() else {
            return;
        };
        // SAFETY: the program has one thread.
        if let Ok(ForkResult::Child) = unsafe { fork() } {
            drop(read);
            let (mut held, mut count) = (Vec::new(), 0);
            let stopped = loop {
                match take(&mut held) {
                    Ok(()) if count + 1 < most => count += 1,
                    Ok(()) => break "it was not refused more".to_owned(),
                    Err(error) => break error,
                }
            };
            println!("{name}\t{count}\t{stopped}");
            // A byte instead of a close: children of this process have the descriptor, too.
            let _ = nix::unistd::write(&write, &[1]);
            loop {
                nix::unistd::pause();
            }
        }
        drop(write);
        let _ = File::from(read).read(&mut [0]);
    }
    println!("all taken");
    let _ = stdin().read(&mut [0]);
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(0),
        nix::sys::signal::Signal::SIGKILL,
    );
}

/// Asks for one of each resource, and prints those it did not get.
pub fn modest() {
    let _ = nix::unistd::setsid();
    for (name, _, take) in RESOURCES {
        if let Err(error) = take(&mut Vec::new()) {
            println!("{name}\t{error}");
        }
    }
    println!("all asked");
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(0),
        nix::sys::signal::Signal::SIGTERM,
    );
}

/// Uses up memory, its own or that of a tmpfs, until it is stopped.
pub fn hungry(place: Option<&str>) {
    let Some(place) = place else {
        let mut eaten = Vec::new();
        loop {
            eaten.push(vec![1_u8; 16 << 20]);
        }
    };
    let mut file = File::create(place).unwrap_or_else(|error| panic!("{place}: {error}"));
    let chunk = vec![1_u8; 1 << 20];
    while file.write_all(&chunk).is_ok() {}
    println!("full");
}

/// Prints that it begins, then exchanges each pair of names without end.
pub fn restless(pairs: &[String]) {
    println!("exchanging");
    let pairs: Vec<_> = pairs.iter().map(|name| text(name)).collect();
    loop {
        for pair in pairs.chunks_exact(2) {
            let [a, b] = [0, 1].map(|of| pair[of].as_ptr() as usize);
            // RENAME_EXCHANGE
            let _ = call(libc::SYS_renameat2, [HERE, a, HERE, b, 2]);
        }
    }
}
