//! Process helpers that std lacks.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

/// Returns a command with no signals blocked: std passes on this thread's mask.
pub(crate) fn unblocked(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", "--", program]);
    command
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

pub(crate) fn ended(status: WaitStatus) -> Option<ExitStatus> {
    if let WaitStatus::Exited(_, code) = status {
        Some(ExitStatus::from_raw(code << 8))
    } else if let WaitStatus::Signaled(_, signal, _) = status {
        Some(ExitStatus::from_raw(signal as i32))
    } else {
        None
    }
}

/// Returns the living children of this process, from proc_pid_stat(5).
pub(crate) fn children() -> Result<Vec<(Pid, String)>> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading '/proc'")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name is in parentheses and may hold any character, even a parenthesis.
        let Some((name, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = rest.split(' ');
        if fields.next() != Some("Z")
            && fields.next().and_then(|parent| parent.parse().ok()) == Some(me)
        {
            let name = name.split_once('(').map_or(name, |(_, name)| name);
            found.push((Pid::from_raw(pid), name.to_owned()));
        }
    }
    Ok(found)
}
