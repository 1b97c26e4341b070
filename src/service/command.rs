//! A command as what runs in a sandbox: its program and its account are looked up on the host, and a unit is made of it.
//!
//! With a unit all that works for units works for it: what belongs to it is found in the same way, and logs, status, failures
//! and restarts are systemd's.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::workload::{COMMAND_UNIT, Ready, Restart};
use crate::config::{Command, Mount};
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::service::accounts::{Accounts, NewUser};
use crate::service::discover::{Fact, Service};
use crate::service::unit::{Unit, UnitName};

/// The unit that ends the sandbox after its command.
pub(super) const END_UNIT: &str = "virt-sandbox-end.service";

/// Where units that are made for a sandbox are.
pub(super) const UNITS: &str = "/run/systemd/system";

/// Seconds between the end of a command and that of its sandbox, in which whoever waits for it sees how it ended.
const GRACE: u32 = 2;

/// Where systemd has commands look for programs.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories of the root of every sandbox that are its own and begin empty.
const EMPTY: [&str; 5] = ["/tmp", "/run", "/dev", "/proc", "/sys"];

/// A command with what was found of it on the host.
#[derive(Debug)]
pub(super) struct Found {
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
pub(super) fn find(command: &Command, accounts: &mut Accounts) -> Result<Found> {
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
    add_account(&mut found, accounts)?;
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

/// Settles which account a command runs as.
fn add_account(command: &mut Command, accounts: &mut Accounts) -> Result<()> {
    // A number is as good as a name, as for 'podman run --user'.
    if let Some(uid) = command.user.as_ref().and_then(|user| user.parse().ok()) {
        if command.uid.is_some_and(|other| other != uid) {
            return Err(Error::refused(format!(
                "--user {uid} and --uid say different numbers"
            )));
        }
        (command.user, command.uid) = (None, Some(uid));
    }
    let by_name = command
        .user
        .as_ref()
        .map(|name| (name, accounts.user(name)));
    match (by_name, command.uid) {
        (None, None) => {}
        (Some((_, Some(_))), None) => {}
        (Some((name, Some(user))), Some(uid)) if user.uid != uid => {
            return Err(Error::refused(format!(
                "the account '{name}' has the number {} on this host, and not {uid}",
                user.uid
            )));
        }
        (Some((name, None)), None) => {
            return Err(Error::refused(format!(
                "there is no account '{name}' on this host; --uid N makes one in the sandbox"
            )));
        }
        (Some((_, Some(_))), Some(_)) => command.uid = None,
        (Some((name, None)), Some(uid)) => add(&name.clone(), uid, command, accounts),
        (None, Some(uid)) => match accounts.users.iter().find(|user| user.uid == uid) {
            Some(user) => {
                command.user = Some(user.name.clone());
                command.uid = None;
            }
            None => {
                let name = format!("user-{uid}");
                add(&name, uid, command, accounts);
                command.user = Some(name);
            }
        },
    }
    if let Some(gid) = command.gid {
        accounts.add_group(&format!("group-{gid}"), gid);
    }
    Ok(())
}

fn add(name: &str, uid: u32, command: &Command, accounts: &mut Accounts) {
    let home = command.home.as_deref().and_then(Path::to_str);
    accounts.add(&NewUser {
        name,
        uid,
        gid: command.gid.unwrap_or(uid),
        home: home.unwrap_or("/"),
    });
}

/// The text of the unit of a command that may take so many seconds to be up.
///
/// # Errors
/// Where the template is wrong.
pub(super) fn unit_text(command: &Command, seconds: u32, overrides: &Path) -> Result<String> {
    #[derive(Serialize)]
    struct View<'a> {
        description: String,
        ends: Option<&'a str>,
        r#type: &'a str,
        user: &'a str,
        group: Option<u32>,
        directory: Option<&'a str>,
        environment: Vec<String>,
        command: &'a [String],
        probe: Option<String>,
        restart: &'a str,
        seconds: u32,
    }
    let home = command.home.as_deref().and_then(Path::to_str);
    let environment = command.environment.iter();
    let view = View {
        description: command.to_string(),
        ends: (command.restart != Restart::Always).then_some(END_UNIT),
        r#type: match command.ready {
            Ready::Notify => "notify",
            Ready::Started | Ready::Output | Ready::Port { .. } => "exec",
        },
        // Named also where it is root: systemd sets HOME and the like for a named account alone.
        user: command.user.as_deref().unwrap_or("root"),
        group: command.gid,
        directory: command.directory.as_deref().and_then(Path::to_str),
        environment: home
            .map(|home| format!("HOME={home}"))
            .into_iter()
            .chain(environment.map(|(key, value)| format!("{key}={value}")))
            .collect(),
        command: &command.argv,
        probe: probe(command.ready),
        restart: command.restart.as_str(),
        seconds,
    };
    Template::CommandUnit.render(&view, Some(overrides))
}

/// A script that ends once the command is up, or with an error if the command has ended before.
fn probe(ready: Ready) -> Option<String> {
    let is_so = match ready {
        Ready::Started | Ready::Notify => return None,
        Ready::Output => "journalctl --quiet --no-pager --output=cat --lines=1 _SYSTEMD_INVOCATION_ID=$INVOCATION_ID \
                          _TRANSPORT=stdout | grep -q ''"
            .to_owned(),
        // proc_net(5): the local address, the other one, and the state, which is 0A for a socket that listens and 07
        // for one of UDP that is not connected.
        Ready::Port { port, udp } => {
            let (table, state) = if udp { ("udp", "07") } else { ("tcp", "0A") };
            format!(
                "cat /proc/net/{table} /proc/net/{table}6 2>/dev/null | grep -q ':{port:04X} [0-9A-F]*:0000 {state} '"
            )
        }
    };
    Some(format!(
        "until {is_so}; do kill -0 $MAINPID 2>/dev/null || exit 1; sleep 0.1; done"
    ))
}

/// The text of the unit that ends the sandbox.
///
/// # Errors
/// Where the template is wrong.
pub(super) fn end_text(overrides: &Path) -> Result<String> {
    #[derive(Serialize)]
    struct View {
        script: String,
    }
    let script = format!(
        "sleep {GRACE}; case $(systemctl is-active {COMMAND_UNIT}) in active|activating|reloading) ;; *) systemctl --no-block \
         poweroff;; esac"
    );
    Template::EndUnit.render(&View { script }, Some(overrides))
}

/// The unit of a command, as what belongs to it is found by.
///
/// # Errors
/// Where the template is wrong.
pub(super) fn unit(command: &Command) -> Result<Unit> {
    // How it is waited for says nothing of what belongs to it.
    let command = Command {
        ready: Ready::Started,
        ..command.clone()
    };
    let name = UnitName::exact(COMMAND_UNIT).map_err(|error| Error::refused(error.to_string()))?;
    let path = Path::new(UNITS).join(COMMAND_UNIT);
    let text = unit_text(&command, 0, Path::new("/nonexistent"))?;
    Ok(Unit::of_text(name, &path, &text))
}

/// Read-only mounts of the directories in `/srv` that programs and files of the command are in, with all that is beside these.
/// A directory that the command names itself is copied.
pub(super) fn programs_in_srv(service: &Service) -> Vec<Mount> {
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
    use super::*;
    use crate::service::accounts::Texts;
    use crate::service::unit::Specifiers;

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            ..Command::default()
        }
    }

    fn accounts() -> Accounts {
        Accounts::parse(&Texts {
            passwd: "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n".into(),
            group: "root:x:0:\nwww:x:33:\n".into(),
            ..Texts::default()
        })
    }

    #[test]
    fn a_unit_says_what_was_asked_for() {
        let nasty = "a b%n$X\"\\'\n;";
        let command = Command {
            user: Some("www".into()),
            gid: Some(5),
            home: Some("/srv/h%i".into()),
            directory: Some("/srv/a b".into()),
            restart: Restart::OnFailure,
            ready: "port=8080".parse().unwrap(),
            environment: [("A".to_owned(), "x $y %z \"q\"".to_owned())].into(),
            ..command(&["/opt/a b/x", nasty, "", "-x"])
        };
        let text = unit_text(&command, 90, Path::new("/nonexistent")).unwrap();
        insta::assert_snapshot!(text);
        // What systemd reads is what was said.
        let facts = unit(&command).unwrap().facts(&Specifiers::default());
        let read = &facts.commands[0];
        assert_eq!(read.program, "/opt/a b/x");
        assert_eq!(read.args, [nasty, "", "-x"]);
        assert_eq!(
            facts.environment,
            [
                ("HOME".to_owned(), "/srv/h%i".to_owned()),
                ("A".to_owned(), "x $y %z \"q\"".to_owned())
            ]
        );
        assert_eq!(facts.user.as_deref(), Some("www"));
        assert_eq!(facts.working_directory.unwrap().path, Path::new("/srv/a b"));
    }

    #[test]
    fn readiness_is_a_type_or_a_probe() {
        let text = |ready: &str| {
            let command = Command {
                ready: ready.parse().unwrap(),
                ..command(&["/bin/x"])
            };
            unit_text(&command, 90, Path::new("/nonexistent")).unwrap()
        };
        assert!(!text("started").contains("ExecStartPost"));
        assert!(text("notify").contains("Type=notify\n"));
        assert!(
            text("port=53/udp")
                .contains("/proc/net/udp6 2>/dev/null | grep -q ':0035 [0-9A-F]*:0000 07 '")
        );
        assert!(text("output").contains("$$INVOCATION_ID"));
    }

    #[test]
    fn an_account_is_the_hosts_or_is_made() {
        let settled = |user: Option<&str>, uid, gid| {
            let mut accounts = accounts();
            let mut command = Command {
                user: user.map(str::to_owned),
                uid,
                gid,
                ..command(&["/bin/x"])
            };
            add_account(&mut command, &mut accounts).map(|()| {
                let name = command.user.clone().unwrap_or_default();
                let user = accounts.user(&name).map(|user| (user.uid, user.gid));
                (name, command.uid, user)
            })
        };
        let is = |name: &str, uid, user| (name.to_owned(), uid, user);
        assert_eq!(settled(None, None, None).unwrap(), is("", None, None));
        for (user, uid) in [
            (Some("www"), None),
            (Some("33"), None),
            (None, Some(33)),
            (Some("www"), Some(33)),
        ] {
            assert_eq!(
                settled(user, uid, None).unwrap(),
                is("www", None, Some((33, 33)))
            );
        }
        assert_eq!(
            settled(None, Some(77), None).unwrap(),
            is("user-77", Some(77), Some((77, 77)))
        );
        assert_eq!(
            settled(Some("app"), Some(77), Some(9)).unwrap(),
            is("app", Some(77), Some((77, 9)))
        );
        assert!(settled(Some("app"), None, None).is_err());
        assert!(settled(Some("www"), Some(34), None).is_err());
        assert!(settled(Some("7"), Some(8), None).is_err());
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
