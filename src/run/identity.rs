//! Account that a command runs as, and its environment.

use std::ffi::OsString;
use std::path::PathBuf;

use guest_init::config as guest;
use nix::unistd::{User, getegid, geteuid};

use crate::config::Idmap;
use crate::config::security::idmap::USUAL_COUNT;
use crate::error::{Error, Result};

/// User that a command is to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The caller, without capabilities.
    Caller,
    /// Root, with the capabilities that the sandbox has.
    Privileged,
    /// A user of the host, by name or number, without capabilities.
    User(String),
}

/// A user as a command sees itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Ids and privileges.
    pub identity: guest::Identity,
    /// User name.
    pub name: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller that a command inherits: language, time zone and colours.
const INHERITED: [&str; 4] = ["LANG", "LANGUAGE", "TZ", "COLORTERM"];

impl Account {
    /// Looks the user up on the host.
    pub fn find(who: &Who) -> Result<Self> {
        let lookup = |error: nix::Error| Error::step("looking up the user")(error);
        match who {
            Who::Caller => {
                let (uid, gid) = (geteuid(), getegid());
                let user = User::from_uid(uid).map_err(lookup)?;
                let identity = guest::Identity {
                    uid: uid.as_raw(),
                    gid: gid.as_raw(),
                    groups: vec![],
                    privileged: false,
                };
                Ok(user.map_or_else(
                    || Self {
                        identity: identity.clone(),
                        name: uid.to_string(),
                        home: "/".into(),
                        shell: "/bin/sh".into(),
                    },
                    |user| Self::of(user, identity.clone()),
                ))
            }
            Who::Privileged => Ok(Self {
                identity: guest::Identity {
                    uid: 0,
                    gid: 0,
                    groups: vec![],
                    privileged: true,
                },
                name: "root".to_owned(),
                home: "/root".into(),
                shell: "/bin/sh".into(),
            }),
            Who::User(wanted) => {
                let by_number = || {
                    let uid = wanted.parse().ok()?;
                    User::from_uid(nix::unistd::Uid::from_raw(uid)).transpose()
                };
                let by_name = User::from_name(wanted).map_err(lookup)?;
                let user = match by_name {
                    Some(user) => Some(user),
                    None => by_number().transpose().map_err(lookup)?,
                };
                let user = user.ok_or_else(|| {
                    Error::not_found(format!(
                        "this host has no user '{wanted}'; 'getent passwd' lists those it has"
                    ))
                })?;
                let identity = guest::Identity {
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                    groups: vec![],
                    privileged: false,
                };
                Ok(Self::of(user, identity))
            }
        }
    }

    fn of(user: User, identity: guest::Identity) -> Self {
        Self {
            identity,
            name: user.name,
            home: user.dir,
            shell: user.shell,
        }
    }

    /// Returns the environment of a command: that of a login, `container` as systemd knows it, and `added`.
    #[must_use]
    pub fn environment(
        &self,
        terminal: bool,
        container: Option<&str>,
        added: &[(OsString, OsString)],
    ) -> Vec<(OsString, OsString)> {
        let inherited = std::env::vars_os().filter(|(key, _)| {
            let key = key.to_string_lossy();
            INHERITED.contains(&key.as_ref())
                || key.starts_with("LC_")
                || (terminal && key == "TERM")
        });
        let own: [(&str, OsString); 6] = [
            ("PATH", PATH.into()),
            ("HOME", self.home.clone().into()),
            ("USER", self.name.clone().into()),
            ("LOGNAME", self.name.clone().into()),
            ("SHELL", self.shell.clone().into()),
            ("container", container.unwrap_or_default().into()),
        ];
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        let mut environment: Vec<(OsString, OsString)> =
            own.map(|(key, value)| (key.into(), value)).collect();
        for (key, value) in inherited.chain(added.iter().cloned()) {
            environment.retain(|(known, _)| *known != key);
            environment.push((key, value));
        }
        environment
    }
}

/// Chooses the map of ids for a command of `account`. With `auto` an ordinary user whose id is beyond a usual range keeps it: a
/// command without capabilities is no more than that user, and could not read its own files else.
///
/// # Errors
/// Where the account is not among the ids that are asked for.
pub fn idmap_for(asked: Idmap, account: &Account) -> Result<Idmap> {
    let (uid, gid) = (account.identity.uid, account.identity.gid);
    let count = match asked {
        Idmap::No => return Ok(Idmap::No),
        Idmap::Auto => USUAL_COUNT,
        Idmap::Range(range) => range.count(),
    };
    if uid.max(gid) < count {
        return Ok(asked);
    }
    if asked == Idmap::Auto && uid != 0 && gid != 0 {
        log::info!("'{}' ({uid}:{gid}) keeps the ids of the host", account.name);
        return Ok(Idmap::No);
    }
    Err(Error::refused(format!(
        "the user '{}' ({uid}:{gid}) is not among the {count} ids of the sandbox; use --idmap START:COUNT with more, or --idmap no",
        account.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_variables_win() {
        let account = Account::find(&Who::Privileged).unwrap();
        let added = [
            ("HOME".into(), "/x".into()),
            ("A".into(), "b=c".into()),
            ("A".into(), "d".into()),
        ];
        let environment = account.environment(false, Some("lxc-libvirt"), &added);
        let of = |key: &str| {
            let found: Vec<_> = environment.iter().filter(|(k, _)| k == key).collect();
            assert_eq!(found.len(), 1, "{key}");
            found[0].1.clone()
        };
        assert_eq!(of("HOME"), "/x");
        assert_eq!(of("A"), "d");
        assert_eq!(of("USER"), "root");
        assert!(environment.iter().all(|(key, _)| key != "TERM"));
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        for wanted in ["root", "0"] {
            let account = Account::find(&Who::User(wanted.to_owned())).unwrap();
            assert_eq!((account.identity.uid, account.name.as_str()), (0, "root"));
            assert!(!account.identity.privileged);
        }
        let error = Account::find(&Who::User("no-such-user".to_owned())).unwrap_err();
        assert!(error.to_string().contains("'no-such-user'"));
    }

    #[test]
    fn a_user_beyond_the_range_keeps_its_ids_and_root_never_does() {
        let account = |uid, gid| {
            let mut account = Account::find(&Who::Privileged).unwrap();
            (account.identity.uid, account.identity.gid) = (uid, gid);
            account
        };
        let range: Idmap = "1000000:100000".parse().unwrap();
        for (asked, uid, gid, chosen) in [
            (Idmap::Auto, 0, 0, Some(Idmap::Auto)),
            (Idmap::Auto, 65534, 65534, Some(Idmap::Auto)),
            (Idmap::Auto, 65536, 65536, Some(Idmap::No)),
            (Idmap::Auto, 0, 65536, None),
            (Idmap::Auto, 65536, 0, None),
            (Idmap::No, 0, 65536, Some(Idmap::No)),
            (range, 65536, 0, Some(range)),
            (range, 100_000, 0, None),
        ] {
            let found = idmap_for(asked, &account(uid, gid));
            assert_eq!(found.ok(), chosen, "{asked:?} {uid}:{gid}");
        }
    }
}
