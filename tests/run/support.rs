//! Shared code of the cases: drivers, running the program, leftovers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;
use test_harness::host;
pub use test_harness::host::Done;
use test_harness::libvirtd::{qemu_uri, require};
use test_harness::programs::{self, GUEST_INIT_VARIABLE};
use test_harness::snapshot::Snapshot;
use test_harness::user::{self, UserDirectory};

/// Driver of a test's sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Containers.
    Lxc,
    /// Virtual machines of the system's daemon.
    System,
    /// Virtual machines of an ordinary user's daemon.
    Session,
    /// Virtual machines of root without a daemon.
    Embedded,
    /// Virtual machines of an ordinary user without a daemon.
    UserEmbedded,
}

impl Driver {
    /// Returns whether an ordinary user runs the program.
    pub fn is_users(self) -> bool {
        match self {
            Self::Session | Self::UserEmbedded => true,
            Self::Lxc | Self::System | Self::Embedded => false,
        }
    }
}

/// Makes a test of each case for each driver. Cases in `containers` apply to containers only, and those in
/// `machines` to virtual machines only. A virtual machine takes seconds to start, so its tests are for `make test-machines`, except the
/// [`chosen!`] ones.
macro_rules! cases {
    (@always $module:ident $driver:ident: $($case:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $case() {
                    let name = concat!(module_path!(), "::", stringify!($case));
                    crate::support::on(crate::support::Driver::$driver, name, super::$case);
                }
            )*
        }
    };
    (@slow $module:ident $driver:ident: $($case:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                #[ignore = "slow: make test-machines"]
                fn $case() {
                    let name = concat!(module_path!(), "::", stringify!($case));
                    crate::support::on(crate::support::Driver::$driver, name, super::$case);
                }
            )*
        }
    };
    (every: $($every:ident),* ; containers: $($container:ident),* ; machines: $($machine:ident),* $(;)?) => {
        cases! { @always lxc Lxc: $($every,)* $($container),* }
        cases! { @slow system System: $($every,)* $($machine),* }
        cases! { @slow session Session: $($every,)* $($machine),* }
    };
    (every: $($every:ident),* ; containers: $($container:ident),* $(;)?) => {
        cases! { every: $($every),* ; containers: $($container),* ; machines: }
    };
    (every: $($every:ident),* $(;)?) => {
        cases! { every: $($every),* ; containers: ; machines: }
    };
    (containers: $($container:ident),* $(;)?) => {
        cases! { @always lxc Lxc: $($container),* }
    };
}

/// Makes tests of cases in virtual machines that always run.
macro_rules! chosen {
    ($($module:ident $driver:ident: $($case:ident),*);* $(;)?) => {
        mod chosen {
            $(
                mod $module {
                    use super::super::*;
                    cases! { @always on $driver: $($case),* }
                }
            )*
        }
    };
}

/// Runs a case, and checks that it leaves nothing behind.
pub fn on(driver: Driver, name: &str, case: fn(&Test)) {
    if let Some(test) = Test::begin(driver, name) {
        case(&test);
        test.assert_clean();
    }
}

/// A test with a libvirtd and a directory of its own.
pub struct Test {
    /// Driver of its sandboxes.
    pub driver: Driver,
    uri: String,
    directory: TempDir,
    before: Snapshot,
    _turn: MutexGuard<'static, ()>,
}

/// Serialises the tests, since each checks the host for leftovers.
static TURN: Mutex<()> = Mutex::new(());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Returns the prefix of names of sandboxes and directories: others on the host are left alone. Sockets of an embedded driver are
/// in a directory with this name, and their paths must be short.
fn prefix() -> String {
    format!("r-{}-", std::process::id() % 1000)
}

impl Test {
    fn begin(driver: Driver, name: &str) -> Option<Self> {
        let containers = require(name)?;
        let uri = match driver {
            Driver::Lxc => containers,
            Driver::System => qemu_uri().unwrap(),
            Driver::Session => "qemu:///session".to_owned(),
            Driver::Embedded | Driver::UserEmbedded => "qemu:///embed".to_owned(),
        };
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::Builder::new().prefix(&prefix()).tempdir();
        let directory = directory.unwrap();
        // Any user of a command may enter.
        open(directory.path(), 0o755);
        if driver.is_users() {
            let user = nix::unistd::User::from_name(user::NAME).unwrap().unwrap();
            nix::unistd::chown(directory.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        Some(Self {
            driver,
            uri,
            directory,
            before: Snapshot::take().unwrap(),
            _turn: turn,
        })
    }

    /// Checks that the host is as it was at the beginning.
    pub fn assert_clean(&self) {
        if let Err(left) = host::assert_clean(&self.before, is_of_tests) {
            panic!("{left}");
        }
    }

    /// Returns a temporary directory of the host, removed with the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a path in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Returns a path in the test's directory as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file in the test's directory, and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    /// Makes a directory in the test's directory, and returns its path.
    pub fn dir(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        self.text(name)
    }

    /// Returns a unique sandbox name.
    pub fn name(&self) -> String {
        format!("{}{:x}", prefix(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns a command that runs the program on the driver with a unique sandbox name.
    pub fn command(&self) -> Command {
        let name = self.name();
        let mut command = self.unnamed();
        command.args(["--name", &name]);
        command
    }

    /// Returns a command that runs the program on the driver.
    pub fn unnamed(&self) -> Command {
        let mut command = self.bare();
        command.args(["--connect", &self.uri]);
        command
    }

    /// Returns a command that runs the program as the driver's user, without a connection.
    pub fn bare(&self) -> Command {
        let program = program();
        let mut command = if self.driver.is_users() {
            UserDirectory::from_environment().unwrap().command(program)
        } else {
            Command::new(program)
        };
        // Independent of the driver's user and of the checkout's path.
        command.current_dir("/");
        if std::env::var_os(GUEST_INIT_VARIABLE).is_none() {
            command.env(GUEST_INIT_VARIABLE, guest_init());
        }
        command
    }

    /// Returns a command that runs the program with options and a shell script inside.
    pub fn shell(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.command();
        command.args(options).args(["--", "sh", "-c", script]);
        command
    }

    /// Runs a script inside, with `input` as standard input.
    pub fn run_with_input(&self, options: &[&str], script: &str, input: &[u8]) -> Done {
        host::finish(self.shell(options, script), input).unwrap()
    }

    /// Runs a script inside.
    pub fn run(&self, options: &[&str], script: &str) -> Done {
        self.run_with_input(options, script, b"")
    }

    /// Runs a script inside, which must succeed without output on standard error, and returns its standard output.
    pub fn says(&self, options: &[&str], script: &str) -> String {
        let done = self.run(options, script);
        let is_well = done.code == 0 && done.stderr.is_empty();
        assert!(is_well, "{options:?} {script}: {done:?}");
        done.stdout.trim_end().to_owned()
    }

    /// Returns the one-line error message for these arguments, and checks that nothing is left.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments);
        let done = host::finish(command, b"").unwrap();
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (125, ""),
            "{arguments:?}: {done:?}"
        );
        let (line, rest) = done.stderr.split_once('\n').unwrap();
        assert_eq!(rest, "", "{arguments:?} takes more than a line");
        line.to_owned()
    }

    /// Returns the usage error for arguments that conflict, and checks that nothing is left.
    pub fn refusal_of_usage(&self, arguments: &[&str]) -> String {
        let mut command = self.unnamed();
        command.args(arguments);
        let done = host::finish(command, b"").unwrap();
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (125, ""),
            "{arguments:?}: {done:?}"
        );
        assert!(
            done.stderr.starts_with("error: "),
            "{arguments:?}: {done:?}"
        );
        done.stderr
    }
}

/// Returns the path of `virt-sandbox`.
pub fn program() -> PathBuf {
    programs::stage(Path::new(env!("CARGO_BIN_EXE_virt-sandbox"))).unwrap()
}

/// Returns the path of the static guest-init.
pub fn guest_init() -> PathBuf {
    match std::env::var_os(GUEST_INIT_VARIABLE) {
        Some(path) => path.into(),
        None => {
            let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest-init/guest-init");
            programs::stage(&built).unwrap()
        }
    }
}

/// Changes the mode of a file.
pub fn open(path: impl AsRef<Path>, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, mode).unwrap();
}

/// Waits until `is_so` returns true.
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    assert!(host::becomes_so(is_so), "{what}");
}

fn is_of_tests(line: &str) -> bool {
    host::is_of_daemon(line) == Some(true) || line.contains(&prefix())
}
