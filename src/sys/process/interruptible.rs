//! Blocking streams, such as pipes, whose reads and writes can be interrupted.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that a writable pipe accepts without blocking: `PIPE_BUF` (pipe(7)).
const AT_ONCE: usize = 4096;

/// Interval between two interruption checks, in milliseconds.
const PAUSE: u8 = 100;

/// Stream whose reads and writes fail once `interrupted` returns true.
pub struct Interruptible<'i, F> {
    file: F,
    interrupted: &'i dyn Fn() -> bool,
}

impl<F: std::fmt::Debug> std::fmt::Debug for Interruptible<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interruptible")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl<'i, F: AsFd> Interruptible<'i, F> {
    /// Wraps `file`.
    pub fn new(file: F, interrupted: &'i dyn Fn() -> bool) -> Self {
        Self { file, interrupted }
    }

    fn wait(&self, for_what: PollFlags) -> io::Result<()> {
        loop {
            if (self.interrupted)() {
                return Err(io::Error::other("interrupted"));
            }
            let mut fds = [PollFd::new(self.file.as_fd(), for_what)];
            match poll(&mut fds, PollTimeout::from(PAUSE)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<F: AsFd + Read> Read for Interruptible<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN)?;
        self.file.read(buffer)
    }
}

impl<F: AsFd + Write> Write for Interruptible<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLOUT)?;
        self.file.write(&bytes[..bytes.len().min(AT_ONCE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn nobody_waits_for_ever() {
        let (reader, writer) = io::pipe().unwrap();
        let asked = Cell::new(0);
        let interrupted = || {
            asked.set(asked.get() + 1);
            asked.get() > 2
        };
        let error = Interruptible::new(reader, &interrupted)
            .read(&mut [0; 8])
            .unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        drop(writer);
        asked.set(0);
        let (_reader, writer) = io::pipe().unwrap();
        let soon = || {
            asked.set(asked.get() + 1);
            asked.get() > 200
        };
        let written = Interruptible::new(writer, &soon).write_all(&vec![0; 1 << 20]);
        assert!(written.is_err());
    }
}
