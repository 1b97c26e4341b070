//! A command as what runs in a sandbox: its program and its account are looked up on the host, and a unit is made of it.
//!
//! With a unit all that works for units works for it: what belongs to it is found in the same way, and logs, status, failures
//! and restarts are systemd's.

mod account;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::{Command, Mount};
use crate::error::{Error, Result};
use crate::facts::accounts::Accounts;
use crate::facts::discover::{Fact, Service};

/// Where systemd has commands look for programs.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories of the root of every sandbox that are its own and begin empty.
const EMPTY: [&str; 5] = ["/tmp", "/run", "/dev", "/proc", "/sys"];

/// A command with what was found of it on the host.
#[derive(Debug)]
pub(crate) struct Found {
    /// The command, with the program's path and the account's name.
    pub command: Command,
    /// The program, what links lead to, and the interpreter if it is a script.
    pub programs: Vec<PathBuf>,
}

/// Looks up program and account of a command on the host. An account that is asked for by its number and is not
/// there is added to `accounts`.
///
/// # Errors
/// Where there is no such program or account, or a sandbox could not see the program.
pub(crate) fn find(command: &Command, accounts: &mut Accounts) -> Result<Found> {
    command.check().map_err(Error::refused)?;
    let program = program(command.program())?;
    let mut found = command.clone();
    if let Some(first) = found.argv.first_mut() {
        *first = program.to_str().map(str::to_owned).ok_or_else(|| {
            Error::refused(format!(
                "the path of the program is not UTF-8: '{}'",
                program.display()
            ))
        })?;
    }
    account::settle(&mut found, accounts)?;
    let mut programs = vec![program.clone()];
    programs.extend(fs::canonicalize(&program).ok());
    programs.extend(interpreter(&program));
    programs.sort();
    programs.dedup();
    for program in &programs {
        if EMPTY.iter().any(|dir| program.starts_with(dir)) {
            return Err(Error::refused(format!(
                "the program '{}' lies where a sandbox has files of its own; put it into /usr/local/bin or /opt",
                program.display()
            )));
        }
    }
    Ok(Found {
        command: found,
        programs,
    })
}

/// The path of a program, which is searched for as a shell would.
fn program(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        let path = std::path::absolute(name).map_err(Error::io("finding", Path::new(name)))?;
        let metadata = fs::metadata(&path).map_err(Error::io("looking at the program", &path))?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            return Err(Error::refused(format!(
                "'{}' is not a program: it is no executable file",
                path.display()
            )));
        }
        return Ok(path);
    }
    // What the sandbox would find comes first: a directory of the caller's may be out of its sight.
    let mut search = OsString::from(SEARCH);
    if let Some(own) = env::var_os("PATH") {
        search.push(":");
        search.push(own);
    }
    let is_program = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&search)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(is_program)
        .ok_or_else(|| {
            Error::refused(format!(
                "there is no program '{name}' in {}",
                search.to_string_lossy()
            ))
        })
}

/// What the kernel starts for a script (`execve(2)`).
fn interpreter(program: &Path) -> Option<PathBuf> {
    /// `BINPRM_BUF_SIZE` of the kernel.
    const LONGEST: u64 = 256;
    let mut first = Vec::new();
    let file = File::open(program).ok()?;
    file.take(LONGEST).read_to_end(&mut first).ok()?;
    let line = first
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let text = std::str::from_utf8(line).ok()?;
    let path = PathBuf::from(text.split_whitespace().next()?);
    path.is_absolute().then_some(path)
}

/// Read-only mounts of the directories in `/srv` that programs and files of the command are in, with all that is beside these.
/// A directory that the command names itself is copied.
pub(crate) fn programs_in_srv(service: &Service) -> Vec<Mount> {
    let mut tops: Vec<PathBuf> = service
        .paths
        .iter()
        .filter(|(path, fact)| {
            matches!(fact, Fact::Unit(..)) && path.starts_with("/srv") && path.is_file()
        })
        .filter_map(|(path, _)| {
            let top = path.strip_prefix("/srv").ok()?.components().next()?;
            Some(Path::new("/srv").join(top))
        })
        .collect();
    tops.dedup();
    for path in service.paths.keys() {
        if let Some(top) = tops
            .iter()
            .find(|top| path.starts_with(top) && path.is_dir())
        {
            log::warn!(
                "'{}' is seen read-only with '{}', where the program is; -m host-bind:{}=DIR makes it writable",
                path.display(),
                top.display(),
                path.display()
            );
        }
    }
    tops.iter()
        .filter_map(|top| Mount::read_only_view(top).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::account::tests::accounts;
    use super::*;

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            ..Command::default()
        }
    }

    #[test]
    fn programs_are_found_as_by_a_shell() {
        let mut accounts = accounts();
        let found = find(&command(&["sh", "-c", "x"]), &mut accounts).unwrap();
        assert!(
            found.command.program().ends_with("/sh") && found.command.program().starts_with('/')
        );
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let script = dir.path().join("x");
        fs::write(&script, "#! /bin/sh -e\n").unwrap();
        assert_eq!(interpreter(&script), Some("/bin/sh".into()));
        let mut refused = |program: &str| {
            find(&command(&[program]), &mut accounts)
                .unwrap_err()
                .to_string()
        };
        let path = script.to_str().unwrap();
        assert!(refused(path).contains("no executable file"));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refused(path).contains("files of its own"));
        assert!(refused("no-such-program").contains("no program 'no-such-program'"));
        assert!(refused("/no/such").contains("/no/such"));
    }
}
