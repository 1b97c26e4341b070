//! The host for the time of one page: the programs in the `PATH`, a directory to work in, and what is taken back.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;
use test_harness::host::{self, Done};
use test_harness::snapshot::Snapshot;
use test_harness::user::UserDirectory;
use test_harness::{libvirtd, programs};

use crate::output;
use crate::page::{Account, Planned, Shown, Step};

/// Packages that the pages run services of.
const PACKAGES: [&str; 4] = ["apache2", "curl", "python3", "redis-server"];

/// Longest time for one command, in seconds.
const PATIENCE: &str = "180";

const CONFIGS: &str = "/etc/libvirt-sandbox/services";

/// The host while a page is followed. What the page has made is removed on drop, also after a panic.
pub struct Host {
    before: Snapshot,
    sandboxes: BTreeSet<String>,
    work: TempDir,
    files: Vec<PathBuf>,
    _turn: Flock<File>,
}

impl Host {
    /// Returns `None` where there is no private libvirtd.
    pub fn begin(page: &str) -> Option<Self> {
        libvirtd::require(page)?;
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(install);
        let lock = File::create("/run/virt-sandbox-tests-docs.lock").unwrap();
        let turn = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error);
        let work = tempfile::Builder::new()
            .prefix("virt-sandbox-docs.")
            .tempdir_in("/var/tmp")
            .unwrap();
        fs::set_permissions(work.path(), Permissions::from_mode(0o755)).unwrap();
        Some(Self {
            before: Snapshot::take().unwrap(),
            sandboxes: sandboxes(),
            work,
            files: Vec::new(),
            _turn: turn.unwrap(),
        })
    }

    /// Takes the steps in their order; the first that is not as the page says ends it.
    pub fn follow(&mut self, page: &str, steps: &[Planned]) {
        let begin = Instant::now();
        for planned in steps {
            match &planned.step {
                Step::Write { path, content } => self.write(Path::new(path), content),
                Step::Run(shown) => self.run(page, shown),
            }
        }
        eprintln!(
            "{page}: {} steps in {} s",
            steps.len(),
            begin.elapsed().as_secs()
        );
    }

    fn write(&mut self, path: &Path, content: &str) {
        let path = self.work.path().join(path);
        assert!(!path.exists(), "'{}' is there already", path.display());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        if content.starts_with("#!") {
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        self.files.push(path);
    }

    fn run(&self, page: &str, shown: &Shown) {
        let place = format!("{page}:{}: {}", shown.line, shown.command);
        let begin = Instant::now();
        let done = host::finish(self.command(shown), b"").unwrap();
        assert_ne!(
            done.code, 124,
            "{place}\ntook longer than {PATIENCE} s: {done:?}"
        );
        let Done { code, stdout, .. } = &done;
        assert_eq!(
            *code != 0,
            shown.fails,
            "{place}\nended with {code}:\n{stdout}"
        );
        if let Some(difference) = output::difference(&shown.output, stdout) {
            panic!("{place}\n{difference}");
        }
        if begin.elapsed() > Duration::from_secs(10) {
            eprintln!("{place}\n  took {} s", begin.elapsed().as_secs());
        }
    }

    /// Returns the command in a shell, with standard error in its output as at a terminal. The user is in their home.
    fn command(&self, shown: &Shown) -> Command {
        let (mut command, directory) = match shown.account {
            Account::Root => (Command::new("timeout"), self.work.path().to_owned()),
            Account::User => {
                let user = UserDirectory::from_environment().unwrap();
                (user.command("timeout"), user.home())
            }
        };
        command.args(["--kill-after=10", PATIENCE, "bash", "-o", "pipefail", "-c"]);
        // The private daemon's QEMU has an URI of its own, unlike its containers, which are libvirt's default here.
        let text = shown
            .command
            .replace("qemu:///system", &libvirtd::qemu_uri().unwrap());
        command.arg(format!("exec 2>&1\n{text}"));
        let path = format!(
            "{}:{}",
            program_directory().display(),
            std::env::var("PATH").unwrap()
        );
        command
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .current_dir(directory);
        command
    }

    /// Fails where something of the page is left on the host.
    pub fn end(self) {
        assert_eq!(
            sandboxes(),
            self.sandboxes,
            "sandboxes are left: the page does not delete them"
        );
        let is_ours = |line: &str| {
            host::is_of_daemon(line).unwrap_or_else(|| !host::is_of_other_suite(line, ""))
        };
        // Files of the page go with it.
        let before = self.before.clone();
        drop(self);
        host::assert_clean(&before, is_ours).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in sandboxes().difference(&self.sandboxes) {
            let program = program_directory().join("virt-sandbox-service");
            let mut command = Command::new(program);
            command.args(["delete", "--force", name]);
            eprintln!("removed {name}: {:?}", host::finish(command, b""));
        }
        for path in &self.files {
            let _ = fs::remove_file(path);
        }
    }
}

fn sandboxes() -> BTreeSet<String> {
    let entries = fs::read_dir(CONFIGS).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().display().to_string())
        .collect()
}

fn program_directory() -> PathBuf {
    for program in [
        env!("CARGO_BIN_EXE_virt-sandbox"),
        env!("CARGO_BIN_EXE_virt-sandbox-service"),
    ] {
        programs::stage(Path::new(program)).unwrap();
    }
    std::env::var_os(programs::DIRECTORY_VARIABLE)
        .unwrap()
        .into()
}

fn install() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup/packages.sh");
    let status = Command::new("bash")
        .arg(script)
        .arg("install")
        .args(PACKAGES)
        .status();
    assert!(status.unwrap().success(), "installing {PACKAGES:?} failed");
}
