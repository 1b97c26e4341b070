//! Shared code of the tests: running the program, temporary files of the host, leftovers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_harness::host;
pub use test_harness::host::Done;
use test_harness::libvirtd::require;
use test_harness::programs;
use test_harness::snapshot::Snapshot;

/// Directory of the sandboxes' trees.
pub const TREES: &str = "/var/lib/libvirt/filesystems";
const CONFIGS: &str = "/etc/libvirt-sandbox/services";
/// Prefix of the names of test sandboxes: others on the host are left alone.
const PREFIX: &str = "t-";
/// Name of the suite that this file is part of.
const SUITE: &str = env!("CARGO_CRATE_NAME");
/// Prefix of this suite's own sandboxes and units.
const SUITE_PREFIX: &str = match SUITE.as_bytes() {
    b"escape" => "t-esc",
    _ => PREFIX,
};

/// A test with a libvirtd. Removes the test's sandboxes on drop, even after a panic.
#[must_use]
pub struct Test {
    before: Snapshot,
    /// Lock held during the test: two runs of one suite on a host share files outside of the state directories.
    _turn: Flock<fs::File>,
}

impl Test {
    /// Takes a snapshot of the host for [`Test::end`] to compare; returns `None` without a libvirtd.
    pub fn begin(name: &str) -> Option<Self> {
        require(name)?;
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(install);
        let lock = fs::File::create(format!("/run/virt-sandbox-tests-{SUITE}.lock")).unwrap();
        let turn = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error);
        Some(Self {
            _turn: turn.unwrap(),
            before: Snapshot::take().unwrap(),
        })
    }

    /// Checks that the host is as it was at the beginning.
    pub fn assert_clean(&self) {
        if let Err(left) = host::assert_clean(&self.before, is_of_tests) {
            panic!("{left}");
        }
    }

    /// Ends the test, and checks that nothing is left.
    pub fn end(self) {
        self.assert_clean();
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        for entry in fs::read_dir(CONFIGS).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str()
                && name.starts_with(PREFIX)
            {
                let done = run(&["delete", "--force", name]);
                eprintln!("removed {name}: {}", done.stderr);
            }
        }
    }
}

fn install() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup/packages.sh");
    let status = Command::new("bash")
        .arg(script)
        .args(["install", "apache2", "curl", "python3"])
        .status();
    assert!(status.unwrap().success(), "installing apache2 failed");
}

/// Returns whether a line of a snapshot is of this suite: other sandboxes may come and go at other daemons.
fn is_of_tests(line: &str) -> bool {
    if let Some(is_ours) = host::is_of_daemon(line) {
        return is_ours;
    }
    if let Some(mount) = line.strip_prefix("mount ") {
        return mount.contains("t-") || mount.contains("libvirt-sandbox");
    }
    !host::is_of_other_suite(line, SUITE_PREFIX) && (line.contains("/t-") || line.contains("-t-"))
}

/// Returns the first three numbers of the subnet of the network `default`, such as "192.168.150".
pub fn subnet() -> String {
    host::subnet().unwrap()
}

/// Returns the standard output of a command, which must succeed.
pub fn output(program: &str, arguments: &[&str]) -> String {
    host::output(program, arguments).unwrap()
}

/// Returns the path of `virt-sandbox-service`.
pub fn service_program() -> PathBuf {
    programs::stage(Path::new(env!("CARGO_BIN_EXE_virt-sandbox-service"))).unwrap()
}

/// Returns a command that runs `virt-sandbox-service`.
pub fn program() -> Command {
    let mut command = Command::new(service_program());
    // Independent of the caller and of the checkout's path.
    command.current_dir("/");
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Done {
    run_with_input(arguments, "")
}

/// Runs the program to its end, with `input` as standard input.
pub fn run_with_input(arguments: &[&str], input: &str) -> Done {
    let mut command = program();
    command.args(arguments);
    finish(command, input)
}

/// Runs a command to its end.
pub fn finish(command: Command, input: &str) -> Done {
    host::finish(command, input.as_bytes()).unwrap()
}

/// Runs the program, which must succeed, and returns its standard output.
pub fn ok(arguments: &[&str]) -> String {
    let done = run(arguments);
    assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
    done.stdout
}

/// Runs a script inside.
pub fn inside(name: &str, script: &str) -> Done {
    run(&["execute", name, "--", "sh", "-c", script])
}

/// Runs a script inside and returns its output.
pub fn says(name: &str, script: &str) -> String {
    let done = inside(name, script);
    assert_eq!(done.code, 0, "{script}: {done:?}");
    done.stdout.trim().to_owned()
}

/// Returns the entry of a sandbox in `list`.
pub fn listed(name: &str) -> Option<serde_json::Value> {
    let all: Vec<serde_json::Value> =
        serde_json::from_str(&ok(&["list", "--format", "json"])).unwrap();
    all.into_iter().find(|one| one["name"] == name)
}

/// Returns the first IPv4 address of a running sandbox.
pub fn address(name: &str) -> String {
    let one = listed(name).expect("the sandbox is listed");
    let addresses = one["addresses"].as_array().unwrap();
    addresses[0].as_str().unwrap().to_owned()
}

/// Returns the answer of a web server.
pub fn get(url: &str) -> Done {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"]);
    curl.args(["--noproxy", "*", url]);
    finish(curl, "")
}

/// Returns the path on the host of a path inside.
pub fn in_tree(name: &str, path: &str) -> PathBuf {
    Path::new(TREES).join(name).join(path)
}

/// Sends a signal to a running program.
pub fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Waits until `is_so` returns true.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    assert!(host::becomes_so(is_so), "{what}");
}

/// A temporary file of the host; removed on drop.
pub struct HostFile {
    path: PathBuf,
    /// Topmost directory that was made for the file.
    made: Option<PathBuf>,
}

impl HostFile {
    /// Writes a file, and makes its parent directories.
    pub fn new(path: &str, content: &str) -> Self {
        let path = PathBuf::from(path);
        let parent = path.parent().unwrap();
        let missing = parent.ancestors().take_while(|dir| !dir.exists()).last();
        let made = missing.map(Path::to_owned);
        fs::create_dir_all(parent).unwrap();
        fs::write(&path, content).unwrap();
        Self { path, made }
    }

    /// Writes a unit of the administrator, which belongs to no package.
    pub fn unit(name: &str, content: &str) -> Self {
        Self::new(&format!("/etc/systemd/system/{name}"), content)
    }

    /// Writes an executable script.
    pub fn script(path: &str, content: &str) -> Self {
        let file = Self::new(path, content);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&file.path, mode).unwrap();
        file
    }

    /// Makes a symbolic link.
    pub fn link(path: &str, target: &str) -> Self {
        let file = Self::new(path, "");
        fs::remove_file(&file.path).unwrap();
        std::os::unix::fs::symlink(target, &file.path).unwrap();
        file
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Some(made) = &self.made {
            let _ = fs::remove_dir_all(made);
        }
    }
}
