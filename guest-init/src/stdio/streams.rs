//! Which of a caller's standard streams a sandbox may have itself. Host and guest-init decide by this alone.
//!
//! Almost every open file is a way to more than its bytes: a terminal takes what is typed into the caller's session
//! (`TIOCSTI(2const)`) and gives the keys that are meant for others, a file can be written anywhere once `O_APPEND` is taken from it, a
//! directory is a way out of the root, a device can be configured, a socket stays in the network it was made in and may be connected
//! to something else there. Only a pipe without a name has nothing more to give, and that only in one direction. All else is relayed
//! through pipes that belong to the sandbox.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fchmod, fstat};
use nix::sys::statfs::{FsType, fstatfs};

/// Filesystem of pipes without a name (`PIPEFS_MAGIC` of statfs(2)); a FIFO is in the filesystem of its name.
const PIPES: FsType = FsType(0x5049_5045);

/// Which way the bytes of a stream go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the command.
    Input,
    /// From the command.
    Output,
}

/// Opens the pipe behind `stream` once more, for a sandbox to have it; `None` where the stream has to be relayed.
///
/// The sandbox gets an open file of its own, so that its flags (fcntl(2), `F_SETFL`) are not the caller's. The pipe keeps its
/// owner: the sandbox's users may open it again, as `/dev/stdout`, in this direction only.
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
    // Somebody else's pipe works as well, but for /dev/stdout.
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
    fn all_else_is_relayed() {
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
