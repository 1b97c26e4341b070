//! Images that are not raw, seen as raw ones: QEMU's storage daemon shows them as files over FUSE.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::Pid;

/// A raw view of an image, for as long as this lives.
#[derive(Debug)]
pub struct Export {
    path: PathBuf,
    daemon: Child,
}

const DAEMON: &str = "qemu-storage-daemon";
/// How long the daemon may take to show the image.
const PATIENCE: Duration = Duration::from_secs(20);

impl Export {
    /// Shows the image at `path`, which is of QEMU's `format`, as the file `at`. That is made here, and must not be there.
    ///
    /// # Errors
    /// Where the daemon is not installed, there is no FUSE, or the image cannot be opened.
    pub fn new(path: &Path, format: &str, read_only: bool, at: &Path) -> io::Result<Self> {
        let (Some(path_text), Some(at_text)) = (path.to_str(), at.to_str()) else {
            return Err(io::Error::other("its path is not UTF-8, which JSON is"));
        };
        std::fs::write(at, "")?;
        let json = |value: serde_json::Value| value.to_string();
        let file = json(serde_json::json!({
            "driver": "file", "filename": path_text, "node-name": "file", "read-only": read_only, "locking": "on",
        }));
        let image = json(serde_json::json!({
            "driver": format, "file": "file", "node-name": "image", "read-only": read_only,
        }));
        let export = json(serde_json::json!({
            "type": "fuse", "id": "export", "node-name": "image", "mountpoint": at_text, "writable": !read_only,
        }));
        let mut command = Command::new(DAEMON);
        command
            .args([
                "--blockdev",
                &file,
                "--blockdev",
                &image,
                "--export",
                &export,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: both calls are system calls without a lock or an allocation, as a child of fork(2) may make.
        unsafe {
            command.pre_exec(|| {
                // Signals that we hold back would be held back there, too.
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
                // It ends with us, however we end.
                set_pdeathsig(Signal::SIGTERM)?;
                Ok(())
            });
        }
        let mut daemon = command.spawn()?;
        let begin = Instant::now();
        while !is_mounted(at) {
            if let Some(status) = daemon.try_wait()? {
                let mut reason = String::new();
                if let Some(mut stderr) = daemon.stderr.take() {
                    io::Read::read_to_string(&mut stderr, &mut reason)?;
                }
                return Err(io::Error::other(match reason.trim() {
                    "" => format!("{DAEMON}: {status}"),
                    reason => reason.lines().collect::<Vec<_>>().join("; "),
                }));
            }
            if begin.elapsed() > PATIENCE {
                let _ = daemon.kill();
                let _ = daemon.wait();
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(Self {
            path: at.to_owned(),
            daemon,
        })
    }

    /// The raw view.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The view is a file system of its own.
fn is_mounted(at: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let parent = at.parent().and_then(device);
    device(at).is_some_and(|device| Some(device) != parent)
}

impl Drop for Export {
    fn drop(&mut self) {
        // It writes what it holds back, and lets go of the mount.
        let _ = kill(
            Pid::from_raw(self.daemon.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.daemon.wait();
    }
}
