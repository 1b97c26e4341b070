//! Journal of a sandbox, read from the host.
//!
//! The journal is in the sandbox's tree, where the sandbox can make links: it is opened without following links, and journalctl
//! gets a view of the open directory in which no links are followed either. A file need not be a journal at all: journalctl
//! runs confined, so that a bug in its parser is of no use ([`confined`]).

pub mod follow;

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::service::image;
use crate::service::sandbox::Sandbox;
use crate::service::store::Store;
use crate::sys::process::{command, confined};
use crate::sys::text::printable::printable_line;

/// Maximum size of journalctl's error output that is passed on, in bytes.
const MOST_ERRORS: u64 = 1 << 16;

/// Starts journalctl with `arguments` and pipes for its output and errors: confined on the host, or inside if the tree
/// cannot be read from outside because another kernel has mounted its image.
fn start(sandbox: &Sandbox<'_>, arguments: &[String]) -> Result<Child> {
    let config = sandbox.config();
    let inside = inside(config.uuid);
    let running = Error::step("running journalctl");
    let mut words = vec!["journalctl".to_owned(), "--no-pager".to_owned()];
    words.extend_from_slice(arguments);
    let name = config.name.as_str();
    if config.image.is_some() && sandbox.driver()?.has_own_kernel() && sandbox.state()?.is_active()
    {
        words.push(format!("--directory={}", inside.display()));
        let by = ["execute", name, "--"].map(str::to_owned);
        let words = by.iter().chain(&words).map(String::as_str);
        return command::spawn_piped(&own_program()?, words).map_err(running);
    }
    let (mount, directory) = image::plain_view(config, &inside, &sandbox.stage())?;
    let place = confined::ConfinedReader::path_inside(&directory);
    words.push(format!("--directory={}", place.display()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    confined::ConfinedReader::new(mount)
        .start(Path::new(&own_program()?), &words)
        .map_err(running)
}

/// Starts a process that shows entries since `begin` (since the epoch) and new ones until it is
/// ended. If it has a standard output, the caller must pass that on.
///
/// # Errors
/// There is no journal or no journalctl.
pub fn follow(sandbox: &Sandbox<'_>, begin: Duration) -> Result<Child> {
    let since = format!("--since=@{}", begin.as_secs());
    let more = [since.as_str(), "--follow", "--output=cat"];
    if follow::is_polled(sandbox)? {
        let words = ["logs"].iter().chain(&more).copied();
        return command::spawn(&own_program()?, words.chain([sandbox.name().as_str()]))
            .map_err(Error::step("following the journal"));
    }
    let more = [&more[..], &["--quiet"]].concat();
    let more: Vec<String> = more.into_iter().map(str::to_owned).collect();
    read(sandbox, &more)
}

fn own_program() -> Result<String> {
    let program = command::current_exe().map_err(Error::step("finding this program"))?;
    Ok(program.to_string_lossy().into_owned())
}

/// Runs journalctl with `arguments` and a pipe for its output. Its errors become errors of this function.
///
/// # Errors
/// There is no journal or no journalctl.
pub fn read(sandbox: &Sandbox<'_>, arguments: &[String]) -> Result<Child> {
    let mut child = start(sandbox, arguments)?;
    if let Some(stderr) = child.stderr.take() {
        thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            for line in (&mut stderr)
                .take(MOST_ERRORS)
                .lines()
                .map_while(io::Result::ok)
            {
                log::warn!("journalctl: {}", printable_line(&line));
            }
            let _ = io::copy(&mut stderr, &mut io::sink());
        });
    }
    Ok(child)
}

/// Returns the journal directory of a sandbox, as seen from inside.
fn inside(uuid: Uuid) -> PathBuf {
    Path::new("/var/log/journal").join(uuid.simple().to_string())
}

impl Store {
    /// Removes the link that earlier versions made for `journalctl -m` on the host. It leads through directories that the sandbox
    /// can replace by links, and `journalctl --vacuum-size=` removes files wherever it leads.
    pub(in crate::service) fn unlink_journal(&self, uuid: Uuid) {
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
    use crate::config::SandboxConfig;

    #[test]
    fn a_link_among_the_hosts_journals_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store {
            journals: dir.path().join("journal"),
            ..Store::default()
        };
        let config = SandboxConfig::example();
        let link = store.journals.join(config.uuid.simple().to_string());
        store.unlink_journal(config.uuid);
        fs::create_dir(&store.journals).unwrap();
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        store.unlink_journal(config.uuid);
        assert!(link.symlink_metadata().is_err());

        fs::create_dir(&link).unwrap();
        store.unlink_journal(config.uuid);
        assert!(link.is_dir());
    }
}
