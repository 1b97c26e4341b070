//! A command as the workload of a sandbox: its program and its account are looked up on the host, and it becomes a unit.
//!
//! A unit gets all that units have: discovery of its files, logs, status, failures
//! and restarts by systemd.

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

/// Search path for programs that systemd gives to commands.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories that are private and initially empty in every sandbox.
const EMPTY: [&str; 5] = ["/tmp", "/run", "/dev", "/proc", "/sys"];

/// Command, resolved on the host.
#[derive(Debug)]
pub(crate) struct ResolvedCommand {
    /// Command with the path of the program and the name of the account.
    pub command: Command,
    /// Paths of the program, of the targets of its links, and of the interpreter if it is a script.
    pub programs: Vec<PathBuf>,
}

/// Looks up the program and account of a command on the host. A missing account that is given by its number
/// is added to `accounts`.
///
/// # Errors
/// No such program or account, or a sandbox could not see the program.
pub(crate) fn resolve(command: &Command, accounts: &mut Accounts) -> Result<ResolvedCommand> {
    command.check()?;
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
    account::resolve(&mut found, accounts)?;
    let mut programs = vec![program.clone()];
    programs.extend(fs::canonicalize(&program).ok());
    programs.extend(interpreter(&program));
    programs.sort();
    programs.dedup();
    for program in &programs {
        if EMPTY.iter().any(|dir| program.starts_with(dir)) {
            return Err(Error::refused(format!(
                "the program '{}' is in a directory where a sandbox has files of its own; move it to /usr/local/bin or /opt",
                program.display()
            )));
        }
    }
    Ok(ResolvedCommand {
        command: found,
        programs,
    })
}

/// Returns the path of a program, found as a shell would.
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
    // The search path of the sandbox comes first: it may not see the caller's directories.
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
            Error::not_found(format!(
                "there is no program '{name}' in {}",
                search.to_string_lossy()
            ))
        })
}

/// Returns the interpreter that the kernel starts for a script (execve(2)).
fn interpreter(program: &Path) -> Option<PathBuf> {
    /// The kernel's `BINPRM_BUF_SIZE`.
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

/// Returns read-only mounts of the directories in `/srv` that contain the programs and files of the command.
/// A directory that is itself an argument of the command is copied instead.
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
    fn programs_are_found_as_a_shell_does() {
        let mut accounts = accounts();
        let found = resolve(&command(&["sh", "-c", "x"]), &mut accounts).unwrap();
        assert!(
            found.command.program().ends_with("/sh") && found.command.program().starts_with('/')
        );
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let script = dir.path().join("x");
        fs::write(&script, "#! /bin/sh -e\n").unwrap();
        assert_eq!(interpreter(&script), Some("/bin/sh".into()));
        let mut refused = |program: &str| {
            resolve(&command(&[program]), &mut accounts)
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
