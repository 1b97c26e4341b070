//! Confinement of the storage daemon: it can reach its program and libraries, `/dev/null` and the image, and
//! nothing else.
//!
//! The daemon has a user of its own that owns nothing, no capabilities, and private namespaces for mounts,
//! processes, network, IPC and host names. It cannot even open the image by name: its seccomp filter asks
//! this process, which passes a descriptor (see [`broker`](super::broker)).
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use guest_init::seccomp::{Action, Arch, Comparison, Condition, Rule, usual};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{pivot_root, setsid};

use crate::sys::arch::Arch as HostArch;

/// Path of the program in the daemon's root.
pub const PROGRAM: &str = "/qemu-storage-daemon";
/// Mount point of the private root; nothing of the directory itself becomes part of it.
const ROOT: &str = "/run";
/// Directories of libraries.
const LIBRARIES: [&str; 4] = ["usr/lib", "usr/lib64", "lib", "lib64"];

/// First id of the daemons of this host. Nobody else has it: it is above the ids that systemd and this
/// program give to containers (systemd's docs/UIDS-GIDS.md).
const FIRST_ID: u32 = 0x7000_0000;
/// `nobody`, for a user namespace without such ids.
const NOBODY: u32 = 65534;

/// Memory limit: the tables of an image may claim any size.
const MOST_MEMORY: u64 = 1 << 30;
/// Thread limit: QEMU uses 64 for I/O.
const MOST_THREADS: u64 = 256;

const EPERM: Action = Action::Errno(1);
/// `CLONE_THREAD` of `clone(2)`.
const THREAD: u64 = 0x0001_0000;
/// System calls that the daemon does not need, in addition to those that the default filter refuses.
const REFUSED: [&str; 15] = [
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "fork",
    "vfork",
    "execveat",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_open",
    "memfd_create",
];

/// Returns the filter, which forwards the opening of files to the listener.
///
/// # Errors
/// If there is none for this architecture.
pub fn filter() -> io::Result<Vec<libc::sock_filter>> {
    let rule = |name: &str, action, conditions| Rule {
        syscall: name.to_owned(),
        conditions,
        action,
    };
    let not_a_thread = Condition {
        argument: 0,
        mask: THREAD,
        comparison: Comparison::Equal,
        negated: false,
        value: 0,
    };
    let mut policy = usual::policy(usual::Confined::Unprivileged);
    let mut rules = vec![
        rule("openat", Action::Notify, vec![]),
        rule("clone", EPERM, vec![not_a_thread]),
    ];
    rules.extend(REFUSED.iter().map(|name| rule(name, EPERM, vec![])));
    rules.append(&mut policy.rules);
    policy.rules = rules;
    // 32-bit programs are not needed.
    let Some(arch) = Arch::of_host(HostArch::HOST.name()).first() else {
        return Err(io::Error::other(format!(
            "images that are not raw need a filter of system calls, and there is none for {}",
            HostArch::HOST
        )));
    };
    let program = policy.compile(&[*arch]).map_err(io::Error::other)?;
    Ok(guest_init::seccomp::instructions(&program))
}

/// Moves this thread, and what it starts, to empty namespaces and a root with only `program`, its libraries,
/// and the file behind the descriptor `fuse`.
///
/// # Errors
/// If the process lacks the privileges.
pub fn leave_host(program: &Path, fuse: RawFd) -> io::Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    // The thread has a filesystem context of its own from here on.
    umask(Mode::from_bits_truncate(0o022));
    let (none, root) = (None::<&str>, Path::new(ROOT));
    let program = program.canonicalize()?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let own = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        root,
        Some("tmpfs"),
        own,
        Some("mode=0755,size=1m"),
    )?;
    for name in LIBRARIES {
        let (from, to) = (Path::new("/").join(name), root.join(name));
        let Ok(metadata) = from.symlink_metadata() else {
            continue;
        };
        if metadata.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else {
            fs::create_dir_all(&to)?;
            bind(&from, &to, own)?;
        }
    }
    File::create(root.join("qemu-storage-daemon"))?;
    bind(&program, &root.join("qemu-storage-daemon"), own)?;
    fs::create_dir_all(root.join("dev/fd"))?;
    File::create(root.join("dev/fd").join(fuse.to_string()))?;
    File::create(root.join("dev/null"))?;
    bind(
        Path::new("/dev/null"),
        &root.join("dev/null"),
        MsFlags::MS_NOSUID,
    )?;
    let sealed = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | own;
    mount(none, root, none, sealed, none)?;
    nix::unistd::chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// Binds `from` at `to`, read-only.
fn bind(from: &Path, to: &Path, flags: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    let step = |errno: Errno| {
        let error = io::Error::from(errno);
        io::Error::new(
            error.kind(),
            format!("mounting '{}': {error}", from.display()),
        )
    };
    mount(Some(from), to, none, MsFlags::MS_BIND, none).map_err(step)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    mount(none, to, none, read_only, none).map_err(step)
}

/// Makes `command` keep its descriptor `fuse`, drop all privileges and install `filter` before exec. The
/// listener is sent to the returned socket; see [`receive_listener`].
///
/// # Errors
/// If there is no socket.
pub fn confine(
    command: &mut Command,
    filter: Vec<libc::sock_filter>,
    fuse: RawFd,
) -> io::Result<OwnedFd> {
    let kind = SockType::Datagram;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    let id = FIRST_ID + std::process::id();
    let closure = move || {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        // Detaches from the caller's terminal.
        setsid()?;
        close_all_but(fuse)?;
        match drop_privileges(id) {
            Ok(()) => setrlimit(Resource::RLIMIT_NPROC, MOST_THREADS, MOST_THREADS)?,
            Err(_) => drop_privileges(NOBODY)?,
        }
        setrlimit(Resource::RLIMIT_DATA, MOST_MEMORY, MOST_MEMORY)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        set_no_new_privs()?;
        // The daemon ends, and flushes, with the thread that started it. The change of user clears
        // the setting, so this comes after it.
        set_pdeathsig(Signal::SIGTERM)?;
        let listener = install(&filter)?;
        send(&theirs, listener)
    };
    // SAFETY: the closure makes only system calls without a lock or an allocation, as a child of fork(2)
    // may.
    unsafe {
        command.pre_exec(closure);
    }
    Ok(ours)
}

/// Sets close-on-exec on all descriptors except the standard streams and `kept`.
fn close_all_but(kept: RawFd) -> io::Result<()> {
    // SAFETY: the calls take numbers.
    unsafe {
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        Errno::result(libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags))?;
        Errno::result(libc::fcntl(kept, libc::F_SETFD, 0))?;
    }
    Ok(())
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Changes to the user `id`, without groups and capabilities.
fn drop_privileges(id: u32) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapabilityHeader {
        version: VERSION_3,
        pid: 0,
    };
    // Effective, permitted and inheritable sets, in two halves.
    let none = [[0_u32; 3]; 2];
    // SAFETY: the calls take numbers and null, except capset(2), which reads structures of the sizes of
    // its version.
    unsafe {
        for capability in 0..64 as libc::c_ulong {
            // The kernel returns an error for a capability that does not exist.
            libc::prctl(libc::PR_CAPBSET_DROP, capability);
        }
        Errno::result(libc::setgroups(0, ptr::null()))?;
        Errno::result(libc::setresgid(id, id, id))?;
        Errno::result(libc::setresuid(id, id, id))?;
        let done = libc::syscall(libc::SYS_capset, &raw const header, &raw const none);
        Errno::result(done)?;
    }
    Ok(())
}

/// Installs the filter, and returns the descriptor of its listener.
fn install(filter: &[libc::sock_filter]) -> io::Result<RawFd> {
    let program = libc::sock_fprog {
        // Fits: the compiler keeps to the kernel's limit.
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions, which outlive the call.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    i32::try_from(Errno::result(listener)?).map_err(|_| Errno::EBADF.into())
}

/// Buffer for the header of a control message and a descriptor.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

// SAFETY: the macro only computes.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;

/// Sends a descriptor without an allocation.
fn send(socket: &OwnedFd, descriptor: RawFd) -> io::Result<()> {
    message(|message| {
        // SAFETY: the message has room for one header and a descriptor behind it, all zeros.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), descriptor);
            Errno::result(libc::sendmsg(socket.as_raw_fd(), message, 0))?;
        }
        Ok(())
    })
}

/// Receives the listener of the confined process.
///
/// # Errors
/// If the process did not send it.
pub fn receive_listener(socket: &OwnedFd) -> io::Result<OwnedFd> {
    message(|message| {
        // SAFETY: the message has room for one header and a descriptor, written by the kernel.
        unsafe {
            let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
            Errno::result(libc::recvmsg(socket.as_raw_fd(), message, flags))?;
            let header = libc::CMSG_FIRSTHDR(message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
                return Err(Errno::EPROTO.into());
            }
            let descriptor = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<RawFd>());
            Ok(OwnedFd::from_raw_fd(descriptor))
        }
    })
}

fn message<T>(act: impl FnOnce(&mut libc::msghdr) -> io::Result<T>) -> io::Result<T> {
    let mut control = Control([0; CONTROL]);
    let mut byte = 0_u8;
    let mut data = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: all zeros are a valid empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL;
    act(&mut message)
}
