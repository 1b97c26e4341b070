//! Read access of a service's accounts to files of the host.
//!
//! An account that may write configuration can name any path there. A path that the account can read itself is no
//! secret to it, so only such paths count.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::Mode;

use super::Service;
use crate::facts::accounts::Accounts;
use crate::sys::root::{Root, WalkEntry};

/// Extended attribute of an ACL (acl(5)); with one, the group bits of the mode are the ACL's mask.
const ACL: &str = "system.posix_acl_access";

const READ: u32 = Mode::S_IROTH.bits();
const SEARCH: u32 = Mode::S_IXOTH.bits();

/// Accounts of a service except root, and one that owns nothing.
#[derive(Debug, Default)]
pub struct Readers(Vec<Ids>);

#[derive(Debug, Default)]
struct Ids {
    /// Uid; `None` for the account that owns nothing.
    uid: Option<u32>,
    gids: BTreeSet<u32>,
}

impl Service {
    /// Returns the accounts of the service except root, and one that owns nothing.
    #[must_use]
    pub fn readers(&self) -> Readers {
        Readers::new(&self.accounts, &self.users)
    }
}

impl Readers {
    /// Looks up the accounts with these names, without root, and adds one that owns nothing.
    fn new<'n>(accounts: &Accounts, names: impl IntoIterator<Item = &'n String>) -> Self {
        let users = names.into_iter().filter_map(|name| accounts.user(name));
        let ids = users.filter(|user| user.uid != 0).map(|user| {
            let groups = accounts.groups.iter();
            let member = groups.filter(|group| group.members.contains(&user.name));
            Ids {
                uid: Some(user.uid),
                gids: member.map(|group| group.gid).chain([user.gid]).collect(),
            }
        });
        Self(ids.chain([Ids::default()]).collect())
    }

    /// Returns true if one of the accounts may read the target of `path` on the host, following only links made by root; for a
    /// directory, everything in it, unless the account owns it. Returns false if access is unknown.
    #[must_use]
    pub fn may_read(&self, host: &Root, path: &Path) -> bool {
        let Ok(path) = host.canonical(path) else {
            return false;
        };
        self.0.iter().any(|ids| ids.may_read(host, &path))
    }
}

impl Ids {
    fn may_read(&self, host: &Root, path: &Path) -> bool {
        let may_pass = |dir: &Path| {
            let metadata = host.object(dir).and_then(|object| object.metadata());
            metadata.is_ok_and(|metadata| self.may(host, dir, &metadata, SEARCH))
        };
        if !path.ancestors().skip(1).all(may_pass) {
            return false;
        }
        let mut found = host.walk(path, |_| false);
        let Some(Ok(top)) = found.next() else {
            return false;
        };
        if top.metadata.is_dir() && self.uid == Some(top.metadata.uid()) {
            return true;
        }
        self.may_read_object(host, &top)
            && found.all(|found| found.is_ok_and(|found| self.may_read_object(host, &found)))
    }

    fn may_read_object(&self, host: &Root, found: &WalkEntry) -> bool {
        let bits = match found.metadata.is_dir() {
            true => READ | SEARCH,
            false => READ,
        };
        found.metadata.is_symlink() || self.may(host, &found.path, &found.metadata, bits)
    }

    /// Returns true if the account has all of the permission bits, written as for others.
    fn may(&self, host: &Root, path: &Path, metadata: &Metadata, bits: u32) -> bool {
        let mode = metadata.mode();
        if self.uid == Some(metadata.uid()) {
            return (mode >> 6) & bits == bits;
        }
        let has_acl = xattr::get(host.host_path(path), ACL).is_ok_and(|acl| acl.is_some());
        let is_member = self.gids.contains(&metadata.gid());
        match is_member {
            true => !has_acl && (mode >> 3) & bits == bits,
            false => mode & bits == bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::facts::accounts::Texts;

    #[test]
    fn read_access_follows_ids_and_parent_directories() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!(
                "skipped: an_account_may_read_what_its_ids_and_the_way_there_let_it: not root"
            );
            return;
        }
        let accounts = Accounts::parse(&Texts {
            passwd: "root:x:0:0::/:\ndb:x:300:301::/:\n".into(),
            group: "db:x:301:\ncert:x:302:web,db\nshut:x:303:\n".into(),
            ..Texts::default()
        });
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::set_permissions(top, fs::Permissions::from_mode(0o755)).unwrap();
        let make = |path: &str, mode: u32, uid: u32, gid: u32| {
            let path = top.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match mode & 0o111 {
                0 => fs::write(&path, "").unwrap(),
                _ => fs::create_dir_all(&path).unwrap(),
            }
            chown(&path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        make("shut", 0o700, 0, 0);
        make("shut/file", 0o644, 0, 0);
        make("cert", 0o710, 0, 302);
        make("cert/key", 0o640, 0, 302);
        make("cert/roots", 0o600, 0, 0);
        make("open", 0o755, 0, 0);
        make("open/file", 0o644, 0, 0);
        make("mixed", 0o755, 0, 0);
        make("mixed/file", 0o600, 0, 0);
        make("own", 0o700, 300, 301);
        make("own/roots", 0o600, 0, 0);
        make("not-mine", 0o044, 300, 301);
        make("not-the-groups", 0o604, 0, 301);
        symlink("shut/file", top.join("link")).unwrap();
        symlink("cert/key", top.join("rights")).unwrap();
        symlink("../cert/key", top.join("own/link")).unwrap();
        let host = Root::of_host(top).unwrap();
        let names = ["db", "root", "nobody-of-that-name"].map(str::to_owned);
        let db = Readers::new(&accounts, &names);
        let nobody = Readers::new(&accounts, &names[1..]);
        for (path, by_db, by_nobody) in [
            ("/shut/file", false, false),
            ("/cert/key", true, false),
            ("/cert/roots", false, false),
            ("/open", true, true),
            ("/open/file", true, true),
            ("/mixed", false, false),
            ("/own", true, false),
            ("/own/roots", false, false),
            ("/not-mine", true, true),
            ("/not-the-groups", true, true),
            ("/link", false, false),
            ("/rights", true, false),
            ("/own/link", false, false),
            ("/none", false, false),
        ] {
            assert_eq!(db.may_read(&host, Path::new(path)), by_db, "{path}");
            assert_eq!(nobody.may_read(&host, Path::new(path)), by_nobody, "{path}");
        }
        let only_db = Readers(vec![Ids {
            uid: Some(300),
            gids: [301].into(),
        }]);
        for path in ["/not-mine", "/not-the-groups"] {
            assert!(!only_db.may_read(&host, Path::new(path)), "{path}");
        }
    }
}
