//! Raw views of images in other formats, shown over FUSE by QEMU's storage daemon.
//!
//! The daemon parses untrusted data, so it is confined. The FUSE filesystem is a single file on a detached
//! mount, so it ends with this process.

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
use crate::sys::mount::detached::DetachedMount;
use crate::sys::process::pidfd::Process;

/// Raw view of an image, removed on drop.
#[derive(Debug)]
pub struct RawView {
    mounted: DetachedMount,
    daemon: Process,
    deadline: Deadline,
    /// Thread that answers the daemon until its end, and returns its error output.
    answering: Option<JoinHandle<io::Result<String>>>,
}

/// Image to show.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Absolute path of the image.
    pub path: &'a Path,
    /// Name of the format in QEMU.
    pub format: &'a str,
    /// Whether it is only read.
    pub read_only: bool,
    /// Whether files of the host that the image names are opened.
    pub backing: bool,
}

/// Time at which the daemon is killed, if any.
type Deadline = Arc<Mutex<Option<Instant>>>;

/// Time for the daemon to show the image and answer the first reads.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time for the daemon to write its caches.
const FLUSH: Duration = Duration::from_secs(120);

impl RawView {
    /// Shows an image, for 20 s unless the [deadline is lifted](Self::lift_deadline).
    ///
    /// # Errors
    /// If the image names files without permission, cannot be opened, the daemon is not installed, or
    /// there is no FUSE.
    pub fn new(image: Image<'_>) -> io::Result<Self> {
        let file = open(&image)?;
        Self::show(image, file)
    }

    /// Shows an image that is already open as `file`.
    fn show(image: Image<'_>, file: File) -> io::Result<Self> {
        let host = match image.backing {
            true => Some(File::open("/")?),
            false => None,
        };
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device =
            device.map_err(|error| io::Error::new(error.kind(), format!("/dev/fuse: {error}")))?;
        let mounted = DetachedMount::fuse_file(&device)?;
        let arguments = daemon::DaemonCommand::new(&image, device)?;
        let given = broker::BrokeredFiles {
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

    /// Returns the path of the raw view, valid in this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.mounted.path()
    }

    /// Removes the time limit. Until then a daemon that does not answer is killed.
    pub fn lift_deadline(&self) {
        self.end_at(None);
    }

    fn end_at(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

impl Drop for RawView {
    fn drop(&mut self) {
        let Some(answering) = self.answering.take() else {
            return;
        };
        // The daemon writes its caches.
        self.end_at(Some(Instant::now() + FLUSH));
        let _ = self.daemon.signal(Signal::SIGTERM);
        let _ = answering.join();
    }
}

/// Opens an image that names no other file, unless these may be opened as well.
fn open(image: &Image<'_>) -> io::Result<File> {
    let file = references::open(image.path, image.read_only)?;
    match references::find(&file, image.format)? {
        Some(found) if !image.backing => Err(io::Error::other(format!(
            "it names another file, {found}, which is not opened"
        ))),
        Some(_) | None => Ok(file),
    }
}

/// Returns why there is no view.
fn failure(answering: JoinHandle<io::Result<String>>) -> io::Error {
    match answering.join() {
        Ok(Ok(said)) => io::Error::other(said),
        Ok(Err(error)) => error,
        Err(_) => io::Error::other("the thread that serves the storage daemon has failed"),
    }
}

#[cfg(test)]
mod tests;
