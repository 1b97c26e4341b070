//! The journal of a sandbox, read from the host.
//!
//! It lies in the sandbox's tree, where the sandbox can put links: it is opened without following any, and journalctl
//! is given a view of the open directory in which none is followed either.

pub mod turns;

use std::fs;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use uuid::Uuid;

use crate::config::SandboxConfig;
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Store;
use crate::sys::command;

/// How a journal is read: a program, its first arguments, and what has to be open for it.
struct Reading {
    program: String,
    arguments: Vec<String>,
    directory: Option<OwnedFd>,
}

impl Reading {
    /// On the host; or inside, where the tree cannot be reached from outside, because another kernel has mounted its image.
    fn new(sandboxes: &Sandboxes, config: &SandboxConfig) -> Result<Self> {
        let inside = inside(config.uuid);
        if config.image.is_some()
            && sandboxes.keeper(config)?.has_own_kernel()
            && sandboxes
                .hypervisor(config)?
                .state(config.name.as_str())?
                .is_active()
        {
            let name = config.name.as_str();
            let directory = format!("--directory={}", inside.display());
            let words = [
                "execute",
                name,
                "--",
                "journalctl",
                &directory,
                "--no-pager",
            ];
            return Ok(Self {
                program: own_program()?,
                arguments: words.map(str::to_owned).to_vec(),
                directory: None,
            });
        }
        let view = sandboxes.plain_view(config, &inside)?;
        // A duplicate is not closed when a program is started (dup(2)).
        let view = nix::unistd::dup(&view).map_err(Error::step("opening the journal"))?;
        let directory = format!("--directory=/proc/self/fd/{}", view.as_raw_fd());
        Ok(Self {
            program: "journalctl".into(),
            arguments: vec![directory, "--no-pager".to_owned()],
            directory: Some(view),
        })
    }

    /// Whether a program of the sandbox reads it: all that it says is the sandbox's.
    fn is_inside(&self) -> bool {
        self.directory.is_none()
    }

    /// Runs it by `how`, with more arguments.
    fn run<'a, T>(
        &'a self,
        more: &'a [String],
        how: impl FnOnce(&'a str, Vec<&'a str>) -> io::Result<T>,
    ) -> Result<T> {
        let words = self.arguments.iter().chain(more).map(String::as_str);
        how(&self.program, words.collect()).map_err(Error::step("running journalctl"))
    }
}

/// Shows the journal on standard output until the process is ended: what was written since `begin`, counted from the
/// beginning of 1970, and what will be.
///
/// # Errors
/// Where there is no journal or no journalctl.
pub fn follow(sandboxes: &Sandboxes, config: &SandboxConfig, begin: Duration) -> Result<Child> {
    let since = format!("--since=@{}", begin.as_secs());
    let more = [since.as_str(), "--follow", "--output=cat"];
    let reading = Reading::new(sandboxes, config)?;
    let is_seen = io::stdout().is_terminal() || io::stderr().is_terminal();
    if is_seen || reading.is_inside() || turns::are_needed(sandboxes, config)? {
        let words = ["logs"].iter().chain(&more).copied();
        return command::spawn(&own_program()?, words.chain([config.name.as_str()]))
            .map_err(Error::step("following the journal"));
    }
    let more = [&more[..], &["--quiet"]].concat();
    let more: Vec<String> = more.into_iter().map(str::to_owned).collect();
    reading.run(&more, command::spawn)
}

fn own_program() -> Result<String> {
    let program = command::own().map_err(Error::step("finding this program"))?;
    Ok(program.to_string_lossy().into_owned())
}

/// Starts journalctl with `arguments` to show a journal. Its standard error is for us to read: it names files as the sandbox has named
/// them. So is its standard output where that is a terminal, or where the sandbox's own journalctl writes it.
///
/// # Errors
/// Where there is no journal or no journalctl.
pub fn show(sandboxes: &Sandboxes, config: &SandboxConfig, arguments: &[String]) -> Result<Child> {
    let reading = Reading::new(sandboxes, config)?;
    let stdout = match reading.is_inside() || io::stdout().is_terminal() {
        true => Stdio::piped(),
        false => Stdio::inherit(),
    };
    reading.run(arguments, |program, words| {
        command::spawn_heard(program, words, stdout)
    })
}

/// Starts journalctl with `arguments`, with its standard output for us to read.
///
/// # Errors
/// Where there is no journal or no journalctl.
pub fn read(sandboxes: &Sandboxes, config: &SandboxConfig, arguments: &[String]) -> Result<Child> {
    Reading::new(sandboxes, config)?.run(arguments, command::spawn_piped)
}

/// Where journald of a sandbox keeps what it writes, seen from inside.
fn inside(uuid: Uuid) -> PathBuf {
    Path::new("/var/log/journal").join(uuid.simple().to_string())
}

impl Store {
    /// Has `journalctl -m` of the host find the journal of a sandbox, where the host keeps one.
    pub(super) fn link_journal(&self, config: &SandboxConfig) {
        // What is in an image the host does not see.
        if !self.journals.is_dir() || config.image.is_some() {
            return;
        }
        let link = self.journal_link(config.uuid);
        let target = config.path.join(
            inside(config.uuid)
                .strip_prefix("/")
                .unwrap_or(Path::new("")),
        );
        match fs::read_link(&link) {
            Ok(there) if there == target => return,
            // Of the name that the tree had before.
            Ok(_) => drop(fs::remove_file(&link)),
            // Perhaps a directory that a host of this identity has left: it is nobody's to remove.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::debug!("'{}' is no link and stays", link.display());
                return;
            }
            Err(_) => {}
        }
        if let Err(error) = symlink(&target, &link) {
            log::warn!(
                "linking the journal of '{}' to '{}': {error}",
                config.name,
                link.display()
            );
        }
    }

    /// Undoes [`link_journal`](Self::link_journal).
    pub(super) fn unlink_journal(&self, uuid: Uuid) {
        let link = self.journal_link(uuid);
        if link.is_symlink() {
            let _ = fs::remove_file(link);
        }
    }

    fn journal_link(&self, uuid: Uuid) -> PathBuf {
        self.journals.join(uuid.simple().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_journal_has_a_link_as_long_as_the_sandbox_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store {
            journals: dir.path().join("journal"),
            ..Store::default()
        };
        let config = SandboxConfig::example();
        let link = store.journals.join(config.uuid.simple().to_string());
        store.link_journal(&config);
        assert!(!store.journals.exists(), "the host keeps no journal");

        fs::create_dir(&store.journals).unwrap();
        for name in ["web1", "web2"] {
            let path = Path::new("/var/lib/libvirt/filesystems").join(name);
            let config = SandboxConfig {
                path: path.clone(),
                ..config.clone()
            };
            for _ in 0..2 {
                store.link_journal(&config);
                assert!(fs::read_link(&link).unwrap().starts_with(&path));
            }
        }
        store.unlink_journal(config.uuid);
        assert!(link.symlink_metadata().is_err());

        fs::create_dir(&link).unwrap();
        store.link_journal(&config);
        store.unlink_journal(config.uuid);
        assert!(link.is_dir());
    }
}
