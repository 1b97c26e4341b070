//! Completion of command lines in a shell.
//!
//! The installed script only queries the program, which knows its options and the names on the host.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use clap::{Command, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;

use crate::error::{Error, Result};
use crate::facts::unit::UnitName;
use crate::service::Sandboxes;
use crate::service::store::Store;

/// Variable that a shell sets to request completions.
const VARIABLE: &str = "_VIRT_SANDBOX_COMPLETE";

/// Shells whose command lines can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// For /usr/share/bash-completion/completions
    Bash,
    /// For /usr/share/zsh/site-functions
    Zsh,
    /// For /usr/share/fish/vendor_completions.d
    Fish,
}

/// Answers a request for completions and exits; returns if there is none.
pub fn answer(command: fn() -> Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Returns the script that makes a shell query `program`.
///
/// # Errors
/// The shell is not supported.
pub fn registration(shell: Shell, program: &str) -> Result<String> {
    let doing = format!("completing '{program}'");
    let shells = Shells::builtins();
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let completer = shells
        .completer(name)
        .ok_or_else(|| Error::refused(format!("no command lines are completed in {name}")))?;
    let mut text = Vec::new();
    completer
        .write_registration(VARIABLE, program, program, program, &mut text)
        .map_err(Error::step(doing.clone()))?;
    String::from_utf8(text).map_err(Error::step(doing))
}

/// Returns the names of all sandboxes.
pub fn sandboxes() -> Vec<CompletionCandidate> {
    let names = Store::default().names().unwrap_or_default();
    names
        .iter()
        .map(|name| CompletionCandidate::new(name.as_str()))
        .collect()
}

/// Returns the snapshots of all sandboxes: the sandbox on the command line is not known here.
pub fn snapshots() -> Vec<CompletionCandidate> {
    let sandboxes = Sandboxes::new("");
    let names = sandboxes.store.names().unwrap_or_default();
    let snapshots: BTreeSet<String> = names
        .iter()
        .filter_map(|name| sandboxes.get(name).ok())
        .flat_map(|sandbox| sandbox.snapshots().unwrap_or_default())
        .map(|snapshot| snapshot.name.to_string())
        .collect();
    snapshots
        .into_iter()
        .map(CompletionCandidate::new)
        .collect()
}

/// Returns units of the host that could run in a sandbox.
pub fn units(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else {
        return vec![];
    };
    let mut names = BTreeSet::new();
    for dir in [
        "/etc/systemd/system",
        "/run/systemd/system",
        "/lib/systemd/system",
    ] {
        let entries = fs::read_dir(Path::new(dir)).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_one = UnitName::exact(&name).is_ok();
            (is_one && name.starts_with(typed) && RUNNABLE.iter().any(|kind| name.ends_with(kind)))
                .then_some(name)
        }));
    }
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Suffixes of units that a sandbox can run.
const RUNNABLE: [&str; 4] = [".service", ".socket", ".timer", ".path"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_whom_to_ask() {
        for shell in Shell::value_variants() {
            let text = registration(*shell, "virt-sandbox-service").unwrap();
            assert!(
                text.contains(VARIABLE) && text.contains("virt-sandbox-service"),
                "{text}"
            );
        }
    }
}
