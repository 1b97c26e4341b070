//! Helpers of tests on the host: run a program, wait for a condition, compare with a [`Snapshot`].

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::libvirtd::PID_VARIABLE;
use crate::snapshot::Snapshot;

/// Exit status and output of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Exit status; -1 if a signal ended the command.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end, with `input` as standard input.
///
/// # Errors
/// The command cannot be run.
pub fn finish(mut command: Command, input: &[u8]) -> Result<Done> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // The command may not read its input.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().context("waiting for a command")?;
    Ok(Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Returns the standard output of a command, which must succeed.
///
/// # Errors
/// The command fails; the message has its standard error.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let done = finish(command, b"")?;
    match done.code {
        0 => Ok(done.stdout),
        code => bail!(
            "{program} {arguments:?} ended with {code}: {}",
            done.stderr.trim_end()
        ),
    }
}

/// Waits until `is_so` returns true; returns `false` after a long time-out.
#[must_use]
pub fn becomes_so(mut is_so: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > Duration::from_secs(30) {
            return false;
        }
        sleep(Duration::from_millis(50));
    }
    true
}

/// Time that libvirt and the kernel may take to finish after a command.
const GRACE: Duration = Duration::from_secs(10);

/// Waits until no line that `is_ours` accepts is new since `before`.
///
/// # Errors
/// Something is left over; the message names it.
pub fn assert_clean(before: &Snapshot, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut left = Snapshot::take()?.since(before);
        left.retain(|line| is_ours(line));
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > GRACE {
            bail!("left behind:\n  {}", left.join("\n  "));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Returns whether a line of a snapshot belongs to the private libvirtd: a process below it, a link in its network or a domain.
/// Others may come and go on the host meanwhile. Returns `None` if the line is of another kind.
#[must_use]
pub fn is_of_daemon(line: &str) -> Option<bool> {
    if let Some(rest) = line.strip_prefix("process ") {
        let pid = rest.split(' ').next().and_then(|pid| pid.parse().ok());
        // The daemon's parent is a subreaper.
        let ancestor = std::env::var(PID_VARIABLE).ok()?.parse().ok()?;
        return Some(pid.is_some_and(|pid| is_below(pid, ancestor)));
    }
    if let Some(link) = line.strip_prefix("network link ") {
        let master = fs::read_link(format!("/sys/class/net/{link}/master"));
        let bridge = bridge().unwrap_or_default();
        return Some(master.is_ok_and(|master| master.ends_with(bridge)));
    }
    line.starts_with("domain ").then_some(true)
}

/// Returns whether a line of a snapshot is of a kind that other test runs on the host make, too: their state directories are
/// private, these are not.
fn is_shared(line: &str) -> bool {
    const KINDS: [&str; 4] = [
        "cgroup ",
        "file /etc/logrotate.d/",
        "file /etc/systemd/system/",
        "loop device ",
    ];
    KINDS.iter().any(|kind| line.starts_with(kind))
}

/// Prefixes of the names that suites give to sandboxes and units. The first one that matches counts.
const PREFIXES: [&str; 5] = ["t-esc", "t-", "r-", "zoo-", "harness-"];

/// Returns whether a line of a snapshot is of a suite with another prefix than `own`, which may run at the same time. A suite
/// whose names have no prefix gives an empty one.
#[must_use]
pub fn is_of_other_suite(line: &str, own: &str) -> bool {
    let is_named = |prefix: &&&str| {
        ['/', '-', '@']
            .iter()
            .any(|before| line.contains(&format!("{before}{prefix}")))
    };
    let prefix = PREFIXES.iter().find(is_named);
    is_shared(line) && prefix.is_some_and(|prefix| *prefix != own)
}

/// Returns whether a line of a snapshot is of this test run, whose sandbox is `name`.
#[must_use]
pub fn is_of_run(line: &str, name: &str) -> bool {
    is_of_daemon(line).unwrap_or_else(|| line.contains(name) || !is_shared(line))
}

fn is_below(mut pid: u32, ancestor: u32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        let Ok(status) =
            fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))
        else {
            return false;
        };
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|pid| pid.trim().parse().ok()).unwrap_or(0);
    }
    false
}

/// Returns the first three numbers of the subnet of the network `default`, such as "192.168.150".
///
/// # Errors
/// There is no such network.
pub fn subnet() -> Result<String> {
    let address = of_network("ip address='")?;
    let (subnet, _) = address.rsplit_once('.').context("reading the subnet")?;
    Ok(subnet.to_owned())
}

fn bridge() -> Result<String> {
    of_network("bridge name='")
}

fn of_network(attribute: &str) -> Result<String> {
    let xml = output("virsh", &["--quiet", "net-dumpxml", "default"])?;
    let rest = xml.split(attribute).nth(1).context("reading the network")?;
    Ok(rest.split('\'').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_told_apart_by_their_prefix() {
        let unit = "file /etc/systemd/system/t-esc.service";
        assert!(is_of_other_suite(unit, "t-"));
        assert!(!is_of_other_suite(unit, "t-esc"));
        assert!(is_of_other_suite(unit, ""));
        assert!(!is_of_other_suite(
            "file /etc/systemd/system/web1.service",
            ""
        ));
        assert!(!is_of_other_suite("file /etc/libvirt-sandbox/t-esc", "t-"));
        let cgroup = "cgroup /sys/fs/cgroup/machine/lxc-4711-t-web.libvirt-lxc";
        assert!(is_of_other_suite(cgroup, "t-esc"));
        assert!(!is_of_other_suite(cgroup, "t-"));
    }
}
