//! Images that are not raw as block devices which outlive the process that asked for them.
//!
//! A process of its own holds the device: it has the image shown raw, and attaches a loop device to that. Once nobody has that open
//! any more it is released, and all of it is gone. Were the process killed, QEMU's daemon would end with it, and the view with that.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::image::loopdev::{Extent, LoopDevice, is_attached};
use crate::sys::image::storage_daemon::{self, Export};

/// Files of one held image.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// A directory for the files that the holder keeps.
    pub directory: &'a Path,
}

/// How long another holder of the image may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Status of a holder that has found another.
const HELD: i32 = 75;

impl Places<'_> {
    fn lock(&self) -> PathBuf {
        self.directory.join("image.lock")
    }

    fn device(&self) -> PathBuf {
        self.directory.join("image.device")
    }

    /// Whether somebody holds the image.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(
            Lock::try_acquire(&self.lock(), Sharing::Exclusive),
            Ok(Err(_))
        )
    }
}

/// A device of a held image.
#[derive(Debug)]
pub struct Held {
    device: LoopDevice,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    child: Child,
    /// Closed when we have the device no more.
    _leash: ChildStdin,
}

impl Held {
    /// The device of the image at `image`, of QEMU's `format`: the one that is there already, or a new one. `program` with the
    /// arguments `how` and the image, the format and the directory becomes its holder, by calling [`hold`].
    ///
    /// # Errors
    /// Where the image cannot be opened, or somebody does not let go of it.
    pub fn new(
        program: &Path,
        how: &str,
        (image, format): (&Path, &str),
        places: Places<'_>,
    ) -> io::Result<Self> {
        fs::create_dir_all(places.directory)?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if places.is_held() {
                let known = fs::read_to_string(places.device()).unwrap_or_default();
                if let Ok(device) = LoopDevice::open(Path::new(known.trim())) {
                    let holder = None;
                    return Ok(Self { device, holder });
                }
            } else if let Some(held) = start(program, how, (image, format), places)? {
                return Ok(held);
            }
            sleep(LOOK);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Its node.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.device.path()
    }

    /// Lets go of the device, and waits until all is written unless somebody else has it open.
    pub fn release(self) {
        let Self { device, holder } = self;
        let path = device.path().to_owned();
        drop(device);
        let Some(Holder { mut child, _leash }) = holder else {
            return;
        };
        drop(_leash);
        // What is mounted elsewhere keeps it.
        sleep(Duration::from_millis(5));
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match child.try_wait() {
                Ok(None) if begin.elapsed() > PATIENCE / 10 && is_attached(&path) => return,
                Ok(None) => sleep(LOOK / 5),
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}

fn start(
    program: &Path,
    how: &str,
    (image, format): (&Path, &str),
    places: Places<'_>,
) -> io::Result<Option<Held>> {
    let mut child = Command::new(program)
        .arg(how)
        .arg(image)
        .arg(format)
        .arg(places.directory)
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
            Some(HELD) => Ok(None),
            _ => Err(io::Error::other(reason.trim().to_owned())),
        };
    }
    let device = LoopDevice::open(Path::new(said.trim()))?;
    Ok(Some(Held {
        device,
        holder: Some(Holder {
            child,
            _leash: leash,
        }),
    }))
}

/// Holds an image until nobody has its device open any more: what a process does that [`Held::new`] starts.
///
/// # Errors
/// Where the image cannot be opened.
pub fn hold(image: &Path, format: &str, places: Places<'_>) -> io::Result<()> {
    let Ok(_lock) = Lock::try_acquire(&places.lock(), Sharing::Exclusive)
        .map_err(|error| io::Error::other(error.to_string()))?
    else {
        std::process::exit(HELD);
    };
    // Not to be ended with the terminal of whoever was first.
    nix::unistd::setsid()?;
    leave_group();
    let image = storage_daemon::Image {
        path: image,
        format,
        read_only: false,
        backing: false,
    };
    let export = Export::new(image).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{error} (this takes qemu-storage-daemon, and FUSE in the kernel)"),
        )
    })?;
    let device = LoopDevice::attach(&export.path(), Extent::default(), false)?;
    export.lift_deadline();
    let path = device.path().to_owned();
    fs::write(places.device(), path.as_os_str().as_encoded_bytes())?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", path.display())?;
    stdout.flush()?;
    // Whoever asked has the device by now, or is gone.
    let _ = io::stdin().read(&mut [0; 1]);
    drop(device);
    while is_attached(&path) {
        sleep(LOOK);
    }
    drop(export);
    let _ = fs::remove_file(places.device());
    Ok(())
}

/// Goes to the top of the hierarchy that systemd tells its units' processes by: with a unit that asked for the image all that is
/// left of it may be killed, while the sandbox runs on.
fn leave_group() {
    for top in ["", "systemd", "unified"] {
        let file = Path::new("/sys/fs/cgroup").join(top).join("cgroup.procs");
        // Where that is not ours to do nobody tells us by it.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut file| file.write_all(b"0"));
    }
}
