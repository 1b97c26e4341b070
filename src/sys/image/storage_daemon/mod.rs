//! Images that are not raw, seen as raw ones: QEMU's storage daemon shows them over FUSE.
//!
//! The daemon reads what a stranger may have made, so it has nothing else. The FUSE filesystem is one file, and
//! is mounted here at no path, so that it is gone with this process.

mod broker;
mod confine;
mod daemon;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::sys::image::references;
use crate::sys::mount::detached::Mounted;
use crate::sys::process::pidfd::Process;

/// A raw view of an image, for as long as this lives.
#[derive(Debug)]
pub struct Export {
    mounted: Mounted,
    daemon: Process,
    deadline: Deadline,
    /// Answers the daemon until that has ended; gives what it said.
    answering: Option<JoinHandle<io::Result<String>>>,
}

/// An image to show.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Absolute path of the image.
    pub path: &'a Path,
    /// QEMU's name of its format.
    pub format: &'a str,
    /// Whether it is only read.
    pub read_only: bool,
    /// Whether files of the host that it names are opened for it.
    pub backing: bool,
}

/// When the daemon is killed, if it is to end at all.
type Deadline = Arc<Mutex<Option<Instant>>>;

/// How long the daemon may take to show the image, and for the first looks at it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to write what it holds back.
const FLUSH: Duration = Duration::from_secs(120);

impl Export {
    /// Shows an image, for 20 s unless the [deadline is lifted](Self::lift_deadline).
    ///
    /// # Errors
    /// Where it names other files that are not to be opened, cannot be opened itself, the daemon is not installed, or there is no FUSE.
    pub fn new(image: Image<'_>) -> io::Result<Self> {
        let file = open(&image)?;
        Self::show(image, file)
    }

    /// Shows an image that is open in `file`.
    fn show(image: Image<'_>, file: File) -> io::Result<Self> {
        let host = match image.backing {
            true => Some(File::open("/")?),
            false => None,
        };
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device =
            device.map_err(|error| io::Error::new(error.kind(), format!("/dev/fuse: {error}")))?;
        let mounted = Mounted::fuse_file(&device)?;
        let arguments = daemon::Arguments::new(&image, device)?;
        let given = broker::Given {
            path: image.path.to_owned(),
            image: file,
            host,
        };
        let deadline = Deadline::new(Mutex::new(Some(Instant::now() + PATIENCE)));
        let (sender, started) = mpsc::channel();
        let until = Arc::clone(&deadline);
        let answering = std::thread::Builder::new()
            .name("image".to_owned())
            .spawn(move || daemon::run(arguments, &given, &until, &sender))?;
        let Ok(daemon) = started.recv() else {
            return Err(failure(answering));
        };
        let view = mounted.path();
        let export = Self {
            mounted,
            daemon,
            deadline,
            answering: Some(answering),
        };
        // Waits for the daemon's first answer, or for its end.
        export.first_look(&view)
    }

    fn first_look(mut self, view: &Path) -> io::Result<Self> {
        match File::open(view) {
            Ok(_) => Ok(self),
            Err(error) => Err(self.answering.take().map_or(error, failure)),
        }
    }

    /// The raw view, for this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.mounted.path()
    }

    /// Lets reading and writing take the time that they take. Until then a daemon that does not answer is killed.
    pub fn lift_deadline(&self) {
        self.end_at(None);
    }

    fn end_at(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let Some(answering) = self.answering.take() else {
            return;
        };
        // It writes what it holds back.
        self.end_at(Some(Instant::now() + FLUSH));
        let _ = self.daemon.signal(Signal::SIGTERM);
        let _ = answering.join();
    }
}

/// Opens an image that names no other file, unless these are to be opened, too.
fn open(image: &Image<'_>) -> io::Result<File> {
    let file = references::open(image.path, image.read_only)?;
    match references::find(&file, image.format)? {
        Some(found) if !image.backing => Err(io::Error::other(format!(
            "it names another file, {found}, which is not opened"
        ))),
        Some(_) | None => Ok(file),
    }
}

/// Why there is no view.
fn failure(answering: JoinHandle<io::Result<String>>) -> io::Error {
    match answering.join() {
        Ok(Ok(said)) => io::Error::other(said),
        Ok(Err(error)) => error,
        Err(_) => io::Error::other("the thread that serves the storage daemon has failed"),
    }
}

#[cfg(test)]
mod tests;
