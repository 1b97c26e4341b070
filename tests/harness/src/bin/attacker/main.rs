//! Tries to escape from the sandbox that it runs in. Prints a line for each attempt: its name, `stopped` or `escaped`, and the
//! kernel's answer.
//!
//! `attacker MARKER SECRET PID PORT ABSTRACT`: the text in a secret file of the host, that file, a process of the host, a port on
//! its loopback, and the name of one of its abstract sockets. With `shares` in front: the attempts that only a machine makes.
//! `liar`, `greedy`, `modest`, `hungry [FILE]` and `restless A B…` call the functions of these names.
//!
//! `unsafe` is for system calls without a safe function.
#![allow(unsafe_code)]

mod around;
mod compat;
mod files;
mod greedy;
mod kernel;
mod liar;
mod netlink;
mod shares;
mod usr;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, chroot, symlink};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, chdir, fork};

/// Targets on the host.
struct Host {
    marker: String,
    secret: PathBuf,
    pid: i32,
    port: u16,
    socket: String,
}

/// Function that makes one attempt: `Ok` is an escape and says what was done, `Err` says what stopped it.
type AttemptFn = fn(&Host) -> Result<String, String>;

/// Name of an attempt, the protection it is against, and the function that makes it.
type Attempt = (&'static str, Against, AttemptFn);

/// Makes a system call by number.
fn call(number: i64, arguments: [usize; 5]) -> Result<i64, String> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: every caller passes numbers, or addresses of objects that outlive the call; the kernel may refuse, which is
    // the point.
    let done = unsafe { libc::syscall(number, a, b, c, d, e) };
    Errno::result(done).map_err(said)
}

fn said(error: Errno) -> String {
    error.desc().to_owned()
}

fn io(error: std::io::Error) -> String {
    error.to_string()
}

fn address<T>(of: &T) -> usize {
    std::ptr::from_ref(of) as usize
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn reads_secret(path: &Path, host: &Host) -> Result<String, String> {
    let found = fs::read_to_string(path).map_err(io)?;
    match found.contains(&host.marker) {
        true => Ok(format!("read {}", path.display())),
        false => Err("another file".to_owned()),
    }
}

fn writes(path: &str, content: &str) -> Result<String, String> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(io)?;
    file.write_all(content.as_bytes()).map_err(io)?;
    Ok(format!("wrote {path}"))
}

/// Writes a file's own content back.
fn rewrites(path: &str) -> Result<String, String> {
    let content = fs::read_to_string(path).map_err(io)?;
    writes(path, &content)
}

fn touches(path: &str) -> Result<String, String> {
    let made = File::create_new(path).map_err(io);
    made.map(|_| {
        let _ = fs::remove_file(path);
        format!("made {path}")
    })
}

/// Makes a new directory of our own.
fn place() -> Result<PathBuf, String> {
    let path = std::env::temp_dir().join(format!("attack-{}", std::process::id()));
    fs::create_dir_all(&path).map_err(io)?;
    Ok(path)
}

fn mounts(kind: &str, options: Option<&str>) -> Result<PathBuf, String> {
    let at = place()?;
    mount(Some("x"), &at, Some(kind), MsFlags::empty(), options).map_err(said)?;
    Ok(at)
}

/// Enters a new mount namespace: a privileged user may mount in its own namespaces, and the mounts must not affect the later
/// attempts in the sandbox.
fn own_mounts() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(said)?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(said)
}

fn remounted(flags: MsFlags, at: &str) -> Result<(), String> {
    let none = None::<&str>;
    mount(none, at, none, MsFlags::MS_REMOUNT | flags, none).map_err(said)
}

/// Returns the device number of a block device that the kernel has.
fn disk() -> Result<(u64, u64), String> {
    let table = fs::read_to_string("/proc/partitions").map_err(io)?;
    let numbers = table.lines().skip(2).find_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    numbers.ok_or_else(|| "no disk is seen".to_owned())
}

fn node(
    kind: nix::sys::stat::SFlag,
    (major, minor): (u64, u64),
    dir: &Path,
) -> Result<String, String> {
    let path = dir.join(format!("node-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::sys::stat::mknod(&path, kind, mode, nix::sys::stat::makedev(major, minor))
        .map_err(said)?;
    let opened = File::open(&path).and_then(|mut file| file.read_exact(&mut [0; 16]));
    let _ = fs::remove_file(&path);
    opened
        .map_err(io)
        .map(|()| "read a device by number".to_owned())
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

fn clears_read_only(file: usize, path: &CString, flags: usize) -> Result<i64, String> {
    let attributes = MountAttributes {
        set: 0,
        clear: 1,
        propagation: 0,
        namespace: 0,
    };
    let size = size_of::<MountAttributes>();
    let at = address(&attributes);
    call(
        libc::SYS_mount_setattr,
        [file, path.as_ptr() as usize, flags, at, size],
    )
}

const HERE: usize = libc::AT_FDCWD as usize;

fn nested(map: &str) -> Result<String, String> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(said)?;
    fs::write("/proc/self/uid_map", map).map_err(io)?;
    Ok(format!("mapped {map}"))
}

fn joins(path: &str) -> Result<String, String> {
    let file = File::open(path).map_err(io)?;
    setns(&file, CloneFlags::empty()).map_err(said)?;
    Ok(format!("entered {path}"))
}

/// Returns whether this pid is visible and is the process of the host, not one of ours.
fn is_hosts(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim() == "test-harness" || name.trim() == "sleep"
}

fn reaches(pid: i32, done: Result<i64, String>) -> Result<String, String> {
    done?;
    match is_hosts(pid) {
        true => Ok(format!("reached process {pid}")),
        false => Err("a process of the sandbox".to_owned()),
    }
}

/// Protection that an attempt is against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    /// Every sandbox.
    All,
    /// Sandboxes on the host's kernel: in a machine the attempt reaches only its own kernel.
    Kernel,
    /// User namespaces: without ids of its own, root inside is not stopped (see SECURITY.md). Implies `Kernel`.
    OwnIds,
    /// A root filesystem of its own: a one-shot command sees the host's.
    OwnRoot,
    /// Nothing: the file is left in the sandbox's tree, which only the host's root can enter.
    Tree,
}
use Against::{All, Kernel, OwnIds, OwnRoot, Tree};

fn is_mapped(id: u32) -> bool {
    nix::unistd::setuid(id.into()).is_ok()
}

/// Makes an attempt in a child process, whose state it may destroy.
fn attempt(way: AttemptFn, host: &Host) -> (bool, String) {
    let Ok((read, write)) = nix::unistd::pipe() else {
        return (false, "no pipe".to_owned());
    };
    // SAFETY: the program has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(read);
            let line = match way(host) {
                Ok(done) => format!("+{done}"),
                Err(stopped) => format!("-{stopped}"),
            };
            let _ = File::from(write).write_all(line.as_bytes());
            std::process::exit(0);
        }
        Ok(ForkResult::Parent { child }) => {
            drop(write);
            let mut line = String::new();
            let _ = File::from(read).read_to_string(&mut line);
            let _ = nix::sys::wait::waitpid(child, None);
            match line.strip_prefix('+') {
                Some(done) => (true, done.to_owned()),
                None => (false, line.trim_start_matches('-').to_owned()),
            }
        }
        Err(error) => (false, said(error)),
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["liar"] => return liar::liar(),
        ["greedy"] => return greedy::greedy(),
        ["modest"] => return greedy::modest(),
        ["hungry"] => return greedy::hungry(None),
        ["hungry", place] => return greedy::hungry(Some(place)),
        ["restless", ..] => return greedy::restless(&words[1..]),
        _ => {}
    }
    let (is_of_machine, words) = match words.split_first() {
        Some((first, rest)) if first == "shares" => (true, rest),
        _ => (false, words.as_slice()),
    };
    let [marker, secret, pid, port, socket] = words else {
        eprintln!("attacker [shares] MARKER SECRET PID PORT ABSTRACT");
        std::process::exit(2);
    };
    let host = Host {
        marker: marker.clone(),
        secret: secret.into(),
        pid: pid.parse().unwrap_or(0),
        port: port.parse().unwrap_or(0),
        socket: socket.clone(),
    };
    let all = match is_of_machine {
        true => vec![usr::attempts(), shares::attempts()],
        false => vec![
            files::attempts(),
            kernel::attempts(),
            compat::attempts(),
            around::attempts(),
            netlink::attempts(),
        ],
    };
    for (name, against, what) in all.into_iter().flatten() {
        let (is_out, detail) = attempt(what, &host);
        let against = match against {
            All => "all",
            Kernel => "kernel",
            OwnIds => "ids",
            OwnRoot => "root",
            Tree => "tree",
        };
        let verdict = if is_out { "escaped" } else { "stopped" };
        println!(
            "{name}\t{against}\t{verdict}\t{}",
            detail.replace(['\n', '\t'], " ")
        );
    }
}
