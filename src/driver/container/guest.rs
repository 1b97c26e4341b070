//! A container that runs: entered through its namespaces, looked at through the host's `/proc`.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest_init::sys::first_process::ProcDir;

use crate::config::SandboxName;
use crate::driver::guest::{ANSWER, Entrance, Guest, GuestUsage};
use crate::driver::proc::{self, Mapped};
use crate::error::{Error, Result};
use crate::guest;
use crate::host::cgroup;
use crate::hypervisor::Limit;
use crate::sys::process::command::Captured;
use crate::sys::process::enter::{ExecOptions, SealedInit};
use crate::sys::process::first_process::{self, FirstProcess, Stage};

/// Clock ticks a second in what `/proc` tells programs: `USER_HZ` of every architecture that Rust has.
const TICKS: f64 = 100.0;

/// Most bytes that are read of a table of the kernel's, which are thousands of addresses.
const TABLE: u64 = 1 << 20;

/// Interval between two looks whether a sandbox has booted.
const POLL: Duration = Duration::from_millis(20);

/// Time that a sandbox may take to boot until a limit is changed.
const BOOT: Duration = Duration::from_secs(5);

/// A container that runs.
#[derive(Debug)]
pub(in crate::driver) struct Container {
    name: SandboxName,
    /// Process of libvirt_lxc, the parent of the container's first.
    controller: u32,
    /// Staging root of the container, with the guest config from its start and what it hands over.
    stage: PathBuf,
    program: OnceCell<SealedInit>,
}

impl Container {
    /// Returns the container of the libvirt_lxc process `controller`, with the staging root `stage`.
    pub(in crate::driver) fn new(name: &SandboxName, controller: u32, stage: &Path) -> Self {
        Self {
            name: name.clone(),
            controller,
            stage: stage.to_owned(),
            program: OnceCell::new(),
        }
    }

    /// Returns the container's first process once it has booted; waits for that no longer than `limit`.
    fn first_within(&self, limit: Duration) -> Result<FirstProcess> {
        let begin = Instant::now();
        loop {
            match first_process::find(self.controller, &self.stage)? {
                Stage::Runs(first) => return Ok(first),
                Stage::Ended => {
                    return Err(Error::not_running(format!(
                        "the sandbox '{}' has ended meanwhile",
                        self.name
                    )));
                }
                Stage::Boots if begin.elapsed() >= limit => {
                    return Err(Error::not_ready(format!(
                        "the sandbox '{}' is still booting; try again in a moment",
                        self.name
                    )));
                }
                Stage::Boots => sleep(POLL),
            }
        }
    }

    fn first(&self) -> Result<FirstProcess> {
        self.first_within(Duration::ZERO)
    }

    /// Returns the program that enters the container.
    fn program(&self) -> Result<&SealedInit> {
        if let Some(program) = self.program.get() {
            return Ok(program);
        }
        let config = self.stage.join(guest::CONFIG);
        let program = SealedInit::new(&guest::find_init()?, config)?;
        Ok(self.program.get_or_init(|| program))
    }
}

impl Guest for Container {
    fn is_alive(&self) -> bool {
        is_alive(self.controller)
    }

    fn answers(&self) -> bool {
        self.first().is_ok()
    }

    fn share_controllers(&self) {
        // It may just have ended, which others notice; without it only limits that units have for themselves are missed.
        if let Err(error) = cgroup::delegate_controllers(self.controller) {
            log::debug!("giving cgroup controllers to '{}': {error}", self.name);
        }
    }

    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>> {
        let begin = Instant::now();
        let first = self.first_within(limit)?;
        let left = limit.saturating_sub(begin.elapsed());
        (self.program()?.capture(&first, command, left)).map_err(Error::io(
            "running",
            Path::new(command.first().unwrap_or(&"")),
        ))
    }

    fn execute(&self, how: &ExecOptions, command: &[String]) -> Result<u8> {
        let first = self.first_within(ANSWER)?;
        let error = self.program()?.exec(&first, how, command);
        Err(Error::step("running guest-init")(error))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let Ok(FirstProcess { process, .. }) = self.first() else {
            return vec![];
        };
        let (ipv4, ipv6) = ("net/fib_trie", "net/if_inet6");
        proc::addresses(&table(&process, ipv4), &table(&process, ipv6))
    }

    fn entrance(&self) -> Result<Entrance> {
        let failed = || Error::step("entering the network of the sandbox");
        let namespace = self.first()?.process.file("ns/net").map_err(failed())?;
        let own = fs::metadata("/proc/self/ns/net").map_err(failed())?;
        let its = namespace.metadata().map_err(failed())?;
        if (its.dev(), its.ino()) == (own.dev(), own.ino()) {
            return Err(Error::refused("the network of the sandbox is the host's"));
        }
        Ok(Entrance::Network(namespace))
    }

    fn usage(&self) -> Result<GuestUsage> {
        let first = self.first()?;
        let (net_received, net_sent) = proc::parse_net_dev(&table(&first.process, "net/dev"));
        let since_boot = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let since_boot = proc::parse_uptime(&since_boot).unwrap_or_default();
        let processes = cgroup::pids_group(self.controller, &self.name)
            .and_then(|group| fs::read_to_string(group.join("pids.current")).ok())
            .and_then(|text| text.trim().parse().ok());
        Ok(GuestUsage {
            net_received,
            net_sent,
            processes,
            uptime: (since_boot - first.identity.started as f64 / TICKS).max(0.0),
        })
    }

    /// Reads the host's own tables. After `limit` it says that there is more.
    fn replaced_files(&self, limit: Duration) -> Result<BTreeSet<PathBuf>> {
        let begin = Instant::now();
        self.first()?;
        let mut mapped = Mapped::new();
        for group in cgroup::of_sandbox(self.controller, &self.name) {
            for pid in cgroup::members(&group) {
                if begin.elapsed() > limit {
                    return Err(Error::not_ready(format!(
                        "the sandbox '{}' has too many processes to look at their files within {} s",
                        self.name,
                        limit.as_secs()
                    )));
                }
                // The process may have ended.
                let Ok(maps) = fs::File::open(format!("/proc/{pid}/maps")) else {
                    continue;
                };
                let maps = whole_lines(maps);
                let lines = maps.lines().filter_map(|line| line.splitn(5, ' ').nth(4));
                proc::add_mapped(&mut mapped, lines);
            }
        }
        let inode_of = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.ino());
        Ok(proc::replaced(&mapped, inode_of))
    }

    /// Writes to the cgroup itself: libvirt has no limit of processes.
    fn limit_processes(&self, most: u64) -> Result<()> {
        // While it boots the group need not be there yet.
        self.first_within(BOOT)?;
        let group = cgroup::pids_group(self.controller, &self.name)
            .ok_or_else(|| Error::unsupported("no group of the sandbox counts processes"))?;
        let file = group.join("pids.max");
        fs::write(&file, most.to_string()).map_err(Error::io("writing", &file))
    }

    fn apply_limit(&self, limit: &Limit) -> Result<()> {
        let Limit::Memory(kib) = limit else {
            return Ok(());
        };
        cgroup::limit_sockets(self.controller, kib.saturating_mul(1024))
            .map_err(Error::step("limiting the memory of sockets"))
    }

    /// Does nothing: the kernel is the host's.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing: the clock is the host's.
    fn set_clock(&self) -> Result<()> {
        Ok(())
    }
}

/// Returns whether a process runs, and is no zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    // The state follows the name, which has brackets around it and may have some of its own.
    stat.as_deref()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1))
        .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Reads a table of a sandbox below `/proc/PID`; it is empty if the sandbox has just ended.
fn table(first: &ProcDir, name: &str) -> String {
    first.file(name).map(whole_lines).unwrap_or_default()
}

/// Reads the whole lines of a table, [`TABLE`] bytes at most: root inside makes the tables of its network as long as it likes.
fn whole_lines(source: impl Read) -> String {
    let mut text = Vec::new();
    // What was read before a failure is good.
    let _ = source.take(TABLE).read_to_end(&mut text);
    if text.len() as u64 == TABLE {
        let end = text.iter().rposition(|byte| *byte == b'\n');
        text.truncate(end.map_or(0, |at| at + 1));
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_end_is_read_in_part() {
        let lines = whole_lines(&b"eth0: 1\nlo: 2\n".repeat(1 << 20)[..]);
        assert!(
            lines.len() as u64 <= TABLE && lines.ends_with('\n'),
            "{}",
            lines.len()
        );
        assert_eq!(whole_lines(std::io::repeat(b'x')), "");
        assert_eq!(whole_lines(&b"one\ntwo"[..]), "one\ntwo");
    }
}
