//! Standard streams of a caller that a sandbox may get itself. Host and guest-init use the same rule.
//!
//! Almost every open file gives access to more than its bytes: a terminal accepts input for the caller's session (`TIOCSTI(2const)`)
//! and reads keys meant for others, a file can be written anywhere without `O_APPEND`, a directory leads out of the root, a device can
//! be configured, and a socket stays in the network namespace it was made in and can be connected anew there. Only an unnamed pipe
//! gives nothing more, and only in one direction. All other streams are relayed through pipes of the sandbox.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fchmod, fstat};
use nix::sys::statfs::{FsType, fstatfs};

/// Filesystem of unnamed pipes (`PIPEFS_MAGIC` of statfs(2)); a FIFO is in the filesystem of its name.
const PIPES: FsType = FsType(0x5049_5045);

/// Direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the command.
    Input,
    /// From the command.
    Output,
}

/// Opens the pipe of `stream` again for a sandbox; `None` if the stream has to be relayed.
///
/// The sandbox gets an open file of its own, so it does not share its flags (fcntl(2), `F_SETFL`) with the caller. The pipe keeps its
/// owner. Users of the sandbox may open it again, as `/dev/stdout`, in this direction only.
#[must_use]
pub fn hand_down(stream: BorrowedFd<'_>, direction: Direction) -> Option<OwnedFd> {
    let (access, others) = match direction {
        Direction::Input => (OFlag::O_RDONLY, Mode::S_IROTH),
        Direction::Output => (OFlag::O_WRONLY, Mode::S_IWOTH),
    };
    let status = fstat(stream).ok()?;
    let flags = OFlag::from_bits_retain(fcntl(stream, FcntlArg::F_GETFL).ok()?);
    let is_pipe = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO;
    if !is_pipe
        || fstatfs(stream).ok()?.filesystem_type() != PIPES
        || flags & OFlag::O_ACCMODE != access
    {
        return None;
    }
    let pipe = File::options()
        .read(direction == Direction::Input)
        .write(direction == Direction::Output)
        .custom_flags(libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", stream.as_raw_fd()))
        .ok()?;
    // Fails for a pipe of another user, which then cannot be opened as /dev/stdout.
    let mode = Mode::from_bits_truncate(status.st_mode);
    let _ = fchmod(pipe.as_fd(), mode | others);
    Some(pipe.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use nix::sys::stat::{Mode, mode_t};
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_pipe_is_handed_down_as_an_open_file_of_its_own() {
        let (mut reader, writer) = pipe().unwrap();
        let theirs = hand_down(writer.as_fd(), Direction::Output).unwrap();
        fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let ours = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!ours.contains(OFlag::O_NONBLOCK));
        let mode = fstat(&theirs).unwrap().st_mode;
        let others: mode_t = mode & 0o007;
        assert_eq!(others, 0o002, "nobody else may read it");
        File::from(theirs).write_all(b"said").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "said");
    }

    #[test]
    fn all_other_streams_are_relayed() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let open = |path: &str| -> OwnedFd { File::open(path).unwrap().into() };
        let by_name = File::options().read(true).write(true).open(&fifo).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (reader, writer) = pipe().unwrap();
        let twice = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", reader.as_raw_fd()))
            .unwrap();
        let terminal = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        let files: Vec<(&str, OwnedFd)> = vec![
            ("a FIFO", by_name.into()),
            ("a directory", open("/")),
            ("a file", open("/etc/passwd")),
            ("a device", open("/dev/null")),
            ("a terminal", terminal.as_fd().try_clone_to_owned().unwrap()),
            ("TCP", TcpStream::connect(address).unwrap().into()),
            ("TCP that listens", listener.into()),
            ("UDP", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
            ("a Unix stream", UnixStream::pair().unwrap().0.into()),
            ("Unix datagrams", UnixDatagram::unbound().unwrap().into()),
            ("a pipe for both", twice.into()),
        ];
        for (what, file) in &files {
            for direction in [Direction::Input, Direction::Output] {
                assert!(hand_down(file.as_fd(), direction).is_none(), "{what}");
            }
        }
        assert!(hand_down(reader.as_fd(), Direction::Output).is_none());
        assert!(hand_down(writer.as_fd(), Direction::Input).is_none());
    }
}
