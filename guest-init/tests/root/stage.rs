//! Staging root of a test.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;

use guest_init::config::{Access, Include, Mount, Root};
use guest_init::root::{self, Place};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Path of the staging root. The namespace of the test covers the directory, so nothing is written to it.
const AT: &str = "/mnt";

/// Runs a test in a mount namespace of its own.
pub fn in_stage(test: impl FnOnce(Stage) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: not root");
        return;
    }
    let outcome = thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            println!("SKIP: no mount namespaces: {error}");
            return;
        }
        test(Stage::new());
    });
    if let Err(panic) = outcome.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A staging root with `/proc`, `/sys` and `/dev`, and the place of the steps.
pub struct Stage {
    place: Option<Place>,
    /// Keeps the root of the host open.
    held: Vec<File>,
}

impl Stage {
    fn new() -> Self {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        tmpfs(Path::new(AT));
        for kernels in ["/proc", "/sys", "/dev"] {
            let at = Path::new(AT).join(&kernels[1..]);
            fs::create_dir(&at).unwrap();
            bind(Path::new(kernels), &at);
        }
        Self {
            place: Some(Place::assembling(Path::new(AT)).unwrap()),
            held: Vec::new(),
        }
    }

    /// Returns a path in the staging root, valid until the sandbox is entered.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(AT).join(&inside[1..])
    }

    /// Returns a path in the staging root that stays valid after the sandbox is entered.
    pub fn outside(&mut self, inside: &str) -> PathBuf {
        self.held.push(File::open(self.path(inside)).unwrap());
        let fd = self.held.last().unwrap().as_raw_fd();
        format!("/proc/self/fd/{fd}").into()
    }

    /// Makes the tree at `/host` the new root.
    pub fn root(&mut self, access: Access, targets: &[&str]) {
        let kernels = ["/proc", "/sys", "/dev"];
        let targets: Vec<PathBuf> = targets.iter().chain(&kernels).map(PathBuf::from).collect();
        let root = Root::Tree {
            source: "/host".into(),
            access,
        };
        root::new_root(self.place.as_mut().unwrap(), &root, &targets).unwrap();
    }

    /// Makes the new root the root of this process.
    pub fn enter(&mut self) {
        let place = self.place.as_mut().unwrap();
        for filesystem in ["/proc", "/sys", "/dev"] {
            root::move_mount(place, Path::new(filesystem)).unwrap();
        }
        root::enter(place).unwrap();
    }

    fn place(&self) -> &Place {
        self.place.as_ref().unwrap()
    }

    pub fn add(&self, wanted: &Mount) -> anyhow::Result<()> {
        root::add(self.place(), wanted)
    }

    pub fn overlay_file(&self, path: &str) -> anyhow::Result<File> {
        root::overlay_file(self.place(), Path::new(path))
    }

    pub fn include(&self, wanted: &Include) -> anyhow::Result<()> {
        root::include(self.place(), wanted)
    }
}

/// Returns whether a visible mount is an overlay of guest-init.
pub fn has_overlay() -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.contains(" - overlay virt-sandbox ")
}

pub fn tmpfs(at: &Path) {
    let none = MsFlags::empty();
    mount(Some("tmpfs"), at, Some("tmpfs"), none, None::<&str>).unwrap();
}

pub fn bind(source: &Path, target: &Path) {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>).unwrap();
}
