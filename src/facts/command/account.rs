//! Account of a command: one of the host's, or a new one in the sandbox.

use std::path::Path;

use crate::config::Command;
use crate::error::{Error, Result};
use crate::facts::accounts::{Accounts, NewUser};

/// Resolves the account that a command runs as.
pub(super) fn resolve(command: &mut Command, accounts: &mut Accounts) -> Result<()> {
    // Accept a number in place of a name, as 'podman run --user' does.
    if let Some(uid) = command.user.as_ref().and_then(|user| user.parse().ok()) {
        if command.uid.is_some_and(|other| other != uid) {
            return Err(Error::refused(format!(
                "--user {uid} and --uid are different numbers"
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
            return Err(Error::not_found(format!(
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::facts::accounts::Texts;

    pub fn accounts() -> Accounts {
        Accounts::parse(&Texts {
            passwd: "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n".into(),
            group: "root:x:0:\nwww:x:33:\n".into(),
            ..Texts::default()
        })
    }

    #[test]
    fn an_account_is_the_hosts_or_is_made() {
        let settled = |user: Option<&str>, uid, gid| {
            let mut accounts = accounts();
            let mut command = Command {
                user: user.map(str::to_owned),
                uid,
                gid,
                ..Command::default()
            };
            resolve(&mut command, &mut accounts).map(|()| {
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
}
