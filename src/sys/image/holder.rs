//! Block devices over images that are not raw, which outlive the process that asked for them.
//!
//! A holder process shows the image raw and attaches a loop device to that view. It ends, with the device,
//! once nobody has the device open. If the holder is killed, QEMU's storage daemon ends with it, and the view
//! with that.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest_init::sys::poll;

use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::image::loopdev::{Extent, LoopDevice, is_attached};
use crate::sys::image::storage_daemon::{self, RawView};

/// Files of one held image.
#[derive(Debug, Clone, Copy)]
pub struct HolderFiles<'a> {
    /// Directory of the holder's files.
    pub directory: &'a Path,
}

/// Time that another holder of the image may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Interval between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Exit status of a holder that found another one.
const ALREADY_HELD: i32 = 75;

impl HolderFiles<'_> {
    fn lock(&self) -> PathBuf {
        self.directory.join("image.lock")
    }

    fn device(&self) -> PathBuf {
        self.directory.join("image.device")
    }

    /// Returns whether a holder has the image.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(
            Lock::try_acquire(&self.lock(), Sharing::Exclusive),
            Ok(Err(_))
        )
    }
}

/// Command of a holder: `program` with the arguments `subcommand`, the image, its format and the directory of its
/// files. The process calls [`hold`].
#[derive(Debug, Clone, Copy)]
pub struct HolderCommand<'a> {
    /// Program.
    pub program: &'a Path,
    /// First argument.
    pub subcommand: &'a str,
    /// Image.
    pub image: &'a Path,
    /// Format of the image, in QEMU's words.
    pub format: &'a str,
    /// Files of the holder.
    pub files: HolderFiles<'a>,
}

/// Block device of a held image.
#[derive(Debug)]
pub struct HeldImage {
    device: LoopDevice,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    child: Child,
    /// Closing the pipe tells the holder that this process is done.
    _leash: ChildStdin,
}

impl HeldImage {
    /// Returns the device of an image: that of its holder, or of a new one.
    ///
    /// # Errors
    /// If the image cannot be opened, or another holder does not let go of it.
    pub fn open(command: &HolderCommand<'_>) -> io::Result<Self> {
        fs::create_dir_all(command.files.directory)?;
        let open = || match command.files.is_held() {
            true => Ok(Self::of_other(command.files)),
            false => start(command),
        };
        poll::find(PATIENCE, POLL_INTERVAL, || open().transpose())
            .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Returns the device of another holder, once that has one.
    fn of_other(files: HolderFiles<'_>) -> Option<Self> {
        let known = fs::read_to_string(files.device()).ok()?;
        let device = LoopDevice::open(Path::new(known.trim())).ok()?;
        let holder = None;
        Some(Self { device, holder })
    }

    /// Returns the path of the device node.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.device.path()
    }

    /// Releases the device, and waits until everything is written, unless another process has the device
    /// open.
    pub fn release(self) {
        let Self { device, holder } = self;
        let path = device.path().to_owned();
        drop(device);
        let Some(Holder { mut child, _leash }) = holder else {
            return;
        };
        drop(_leash);
        // A mount elsewhere keeps the device.
        sleep(Duration::from_millis(5));
        let begin = Instant::now();
        let is_used = || begin.elapsed() > PATIENCE / 10 && is_attached(&path);
        poll::until(PATIENCE, POLL_INTERVAL / 5, || {
            !matches!(child.try_wait(), Ok(None)) || is_used()
        });
    }
}

/// Starts a holder; returns `None` if the image has another one by now.
fn start(command: &HolderCommand<'_>) -> io::Result<Option<HeldImage>> {
    let mut child = Command::new(command.program)
        .arg(command.subcommand)
        .arg(command.image)
        .arg(command.format)
        .arg(command.files.directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (Some(leash), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("its holder has no standard streams"));
    };
    let mut said = String::new();
    BufReader::new(stdout).read_line(&mut said)?;
    if said.trim().is_empty() {
        let mut reason = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut reason)?;
        }
        return match child.wait()?.code() {
            Some(ALREADY_HELD) => Ok(None),
            _ => Err(io::Error::other(reason.trim().to_owned())),
        };
    }
    let device = LoopDevice::open(Path::new(said.trim()))?;
    Ok(Some(HeldImage {
        device,
        holder: Some(Holder {
            child,
            _leash: leash,
        }),
    }))
}

/// Holds an image until nobody has its device open; called by the process that [`HeldImage::open`] starts.
///
/// # Errors
/// If the image cannot be opened.
pub fn hold(image: &Path, format: &str, files: HolderFiles<'_>) -> io::Result<()> {
    let Ok(_lock) = Lock::try_acquire(&files.lock(), Sharing::Exclusive)
        .map_err(|error| io::Error::other(error.to_string()))?
    else {
        std::process::exit(ALREADY_HELD);
    };
    // Must not end with the terminal of the first user.
    nix::unistd::setsid()?;
    leave_unit_cgroup();
    let image = storage_daemon::Image {
        path: image,
        format,
        read_only: false,
        backing: false,
    };
    let export = RawView::new(image).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{error} (this takes qemu-storage-daemon, and FUSE in the kernel)"),
        )
    })?;
    let device = LoopDevice::attach(&export.path(), Extent::default(), false)?;
    export.lift_deadline();
    let path = device.path().to_owned();
    fs::write(files.device(), path.as_os_str().as_encoded_bytes())?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", path.display())?;
    stdout.flush()?;
    // Returns at the end of the leash: the user has the device open by now, or has ended.
    let _ = io::stdin().read(&mut [0; 1]);
    drop(device);
    while is_attached(&path) {
        sleep(POLL_INTERVAL);
    }
    drop(export);
    let _ = fs::remove_file(files.device());
    Ok(())
}

/// Moves to the root of the hierarchy by which systemd tracks the processes of units: otherwise stopping the
/// unit that asked for the image could kill the holder while the sandbox runs on.
fn leave_unit_cgroup() {
    for top in ["", "systemd", "unified"] {
        let file = Path::new("/sys/fs/cgroup").join(top).join("cgroup.procs");
        // Without permission to move, systemd does not track this process either.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut file| file.write_all(b"0"));
    }
}
