//! Detection of state that a running service or process of the host is writing to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::facts::discover::Service;
use crate::facts::unit::name::UnitKind;
use crate::host;
use crate::sys::process::command;

/// Refuses to copy `state` while a unit of the service is active on the host, or while a
/// process of the host has a file of it open for writing (which also works without systemd).
///
/// # Errors
/// Names the unit or process and the two ways out.
pub fn refuse_live_state(service: &Service, state: &[PathBuf]) -> Result<()> {
    if state.is_empty() {
        return Ok(());
    }
    let who = match active_unit(service) {
        Some(unit) => {
            format!("'{unit}' is active on this host (stop it with 'systemctl stop {unit}')")
        }
        None => match writer(state) {
            Some((pid, name, file)) => format!(
                "process {pid} ({name}) has '{}' open for writing (stop it)",
                file.display()
            ),
            None => return Ok(()),
        },
    };
    let places: Vec<String> = state
        .iter()
        .map(|path| format!("'{}'", path.display()))
        .collect();
    Err(Error::refused(format!(
        "{who}, and its state in {} would be copied while it is written; stop it first, or say --state copy to copy it as it is, \
         or --state fresh to begin with empty directories",
        places.join(", ")
    )))
}

/// Returns a unit of the service that is active or activating. A listening socket does not count: nothing runs behind it yet.
fn active_unit(service: &Service) -> Option<String> {
    if !host::runs_systemd() {
        return None;
    }
    service
        .members()
        .filter(|facts| facts.name.kind() == UnitKind::Service)
        .map(|facts| facts.name.to_string())
        .find(|unit| {
            let answer = command::capture(
                "systemctl",
                ["show", "--property=ActiveState", "--value", "--", unit],
            );
            answer.is_ok_and(|answer| {
                matches!(
                    answer.stdout.trim(),
                    "active" | "activating" | "reloading" | "deactivating"
                )
            })
        })
}

/// Finds a process in our mount namespace that has a file below `paths` open for writing.
fn writer(paths: &[PathBuf]) -> Option<(u32, String, PathBuf)> {
    let namespace = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/mnt")).ok();
    let ours = namespace("self");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if namespace(&pid.to_string()) != ours {
            continue;
        }
        for (descriptor, file) in open_files(pid) {
            if paths.iter().any(|path| file.starts_with(path)) && is_writing(pid, &descriptor) {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                return Some((pid, name.trim().to_owned(), file));
            }
        }
    }
    None
}

fn open_files(pid: u32) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            Some((
                entry.file_name().into_string().ok()?,
                fs::read_link(entry.path()).ok()?,
            ))
        })
        .collect()
}

/// Checks the access mode in `fdinfo` (proc_pid_fdinfo(5)): the lowest two bits of the octal flags are
/// nonzero for `O_WRONLY` and `O_RDWR`.
fn is_writing(pid: u32, descriptor: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}"))
        .ok()
        .and_then(|text| {
            let flags = text
                .lines()
                .find_map(|line| line.strip_prefix("flags:"))?
                .trim()
                .to_owned();
            u64::from_str_radix(&flags, 8).ok()
        })
        .is_some_and(|flags| flags & 0b11 != 0)
}
