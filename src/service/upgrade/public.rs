//! Limits of an upgrade for an imported sandbox, whose archive named its units and packages: it brings only files of the host that every
//! user of the host may read.
//!
//! The records in the archive cannot be trusted, so only the host's files decide.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::facts::discover::{Fact, Service};
use crate::facts::secrets;
use crate::service::upgrade::accounts::ACCOUNTS;
use crate::sys::path::below;
use crate::tree::manifest::{Kind, Manifest};
use crate::tree::{Class, Entry, TreePlan};

/// Reason why a file of the host stays out, as a phrase.
pub(super) const REASON: &str =
    "imported: it gets what every user of the host may read; --trust brings this, too";

/// Removes from the facts of a service all paths that are named in a file which not every user may read.
pub(super) fn keep_public_facts(service: &mut Service, root: &Path) {
    service.paths.retain(|_, fact| match fact {
        Fact::Mentioned(file) | Fact::Commented(file) | Fact::Tmpfiles(file) => {
            is_public(root, file)
        }
        Fact::Unit(..)
        | Fact::Package(_)
        | Fact::Script(_)
        | Fact::Name(_)
        | Fact::Home(_)
        | Fact::OwnedBy(_) => true,
    });
    service.named.retain(|_, file| is_public(root, file));
}

/// Removes from a plan all content of the host that not every user may read there, and directories that not every
/// user can list. Returns the removed paths.
pub(super) fn keep_public(plan: &mut TreePlan, root: &Path) -> BTreeSet<PathBuf> {
    let mut skipped = BTreeSet::new();
    for (path, entry) in &mut plan.entries {
        let is_kept = match &entry.class {
            Class::Copied => is_public(root, path),
            Class::CopiedFrom(from) => is_public(root, from),
            // The text may contain lines of the host's file. Account files have no passwords.
            Class::Written { .. } => {
                !path.starts_with("/etc")
                    || ACCOUNTS.iter().any(|known| Path::new(known) == path)
                    || below(root, path).symlink_metadata().is_err()
                    || is_public(root, path)
            }
            Class::Empty => is_reached(root, path),
            Class::Made { .. } | Class::Linked(_) | Class::LeftOut | Class::Shared => true,
        };
        if !is_kept {
            skipped.insert(path.clone());
            *entry = Entry {
                class: Class::LeftOut,
                reason: REASON.to_owned(),
            };
        }
    }
    skipped
}

/// Checks the finished copies: an account with write access in the host's `/etc` can change files at any time.
///
/// # Errors
/// The message names a copy that not everybody may read.
pub(super) fn check_copies(plan: &TreePlan, copies: &Manifest) -> Result<()> {
    let secret = copies.iter().find(|(path, entry)| {
        let is_copied = (plan.entries.get(*path))
            .is_some_and(|planned| matches!(planned.class, Class::Copied | Class::CopiedFrom(_)));
        is_copied && matches!(entry.kind, Kind::File { .. }) && entry.mode & 0o004 == 0
    });
    match secret {
        Some((path, _)) => Err(Error::busy(format!(
            "'{}' has changed while it was copied; upgrade once more",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Removes skipped paths and everything below them from a manifest, so that the upgrade leaves them alone.
pub(super) fn forget(manifest: &mut Manifest, skipped: &BTreeSet<PathBuf>) {
    let is_skipped = |path: &Path| path.ancestors().any(|above| skipped.contains(above));
    let paths: Vec<PathBuf> = (manifest.iter())
        .map(|(path, _)| path.clone())
        .filter(|path| is_skipped(path))
        .collect();
    for path in paths {
        manifest.remove(&path);
    }
}

/// Returns the topmost skipped paths.
pub(super) fn tops(skipped: &BTreeSet<PathBuf>) -> impl Iterator<Item = &PathBuf> {
    let is_below = |path: &Path| {
        path.ancestors()
            .skip(1)
            .any(|above| skipped.contains(above))
    };
    skipped.iter().filter(move |path| !is_below(path))
}

/// Returns true if every user of the host below `root` may reach and read `path`; false if that is unknown.
fn is_public(root: &Path, path: &Path) -> bool {
    let on_host = below(root, path);
    let Ok(metadata) = on_host.symlink_metadata() else {
        return false;
    };
    if !is_reached(root, path) {
        return false;
    }
    if metadata.is_dir() {
        return is_listed(metadata.mode());
    }
    if !metadata.is_file() {
        return true;
    }
    let mut head = Vec::new();
    let read = File::open(&on_host)
        .and_then(|file| file.take(secrets::HEAD as u64).read_to_end(&mut head));
    read.is_ok() && secrets::classify(path, metadata.mode(), &head).is_none()
}

/// Returns true if every user of the host below `root` can see that `path` exists.
fn is_reached(root: &Path, path: &Path) -> bool {
    let (Some(Ok(parent)), Ok(top)) = (
        below(root, path).parent().map(fs::canonicalize),
        fs::canonicalize(root),
    ) else {
        return false;
    };
    let above = parent.ancestors().take_while(|dir| dir.starts_with(&top));
    let mut modes = above.map(|dir| dir.metadata().map(|it| it.mode()));
    modes.all(|mode| mode.is_ok_and(is_listed))
}

/// Returns true if others may list a directory and access its content.
fn is_listed(mode: u32) -> bool {
    Mode::from_bits_truncate(mode).contains(Mode::S_IROTH | Mode::S_IXOTH)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set(root: &Path, path: &str, mode: u32) {
        fs::set_permissions(
            below(root, Path::new(path)),
            PermissionsExt::from_mode(mode),
        )
        .unwrap();
    }

    fn host() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        set(root, "/", 0o755);
        for dir in [
            "etc",
            "etc/open",
            "etc/shut",
            "etc/entered",
            "etc/pg",
            "etc/pg/main",
        ] {
            fs::create_dir(root.join(dir)).unwrap();
            set(root, dir, 0o755);
        }
        for (file, mode) in [
            ("etc/open/plain", 0o644),
            ("etc/open/password", 0o640),
            ("etc/shut/plain", 0o644),
            ("etc/entered/plain", 0o644),
            ("etc/pg/main/hba", 0o644),
            ("etc/hosts", 0o600),
            ("etc/hostname", 0o644),
            ("etc/shadow", 0o640),
        ] {
            fs::write(root.join(file), "x").unwrap();
            set(root, file, mode);
        }
        fs::write(
            root.join("etc/open/key"),
            "-----BEGIN PRIVATE KEY-----\nMII",
        )
        .unwrap();
        set(root, "etc/open/key", 0o644);
        symlink("../shut", root.join("etc/open/link")).unwrap();
        set(root, "etc/shut", 0o700);
        set(root, "etc/entered", 0o711);
        set(root, "etc/pg", 0o750);
        dir
    }

    #[test]
    fn public_files_can_be_reached_and_read_by_others() {
        let host = host();
        for (path, expected) in [
            ("/etc/open", true),
            ("/etc/open/plain", true),
            ("/etc/open/link", true),
            ("/etc/open/password", false),
            ("/etc/open/key", false),
            ("/etc/shut", false),
            ("/etc/shut/plain", false),
            // Through the link.
            ("/etc/open/link/plain", false),
            ("/etc/entered", false),
            ("/etc/entered/plain", false),
            // Two levels below.
            ("/etc/pg/main/hba", false),
            ("/etc/none", false),
            ("/none/none", false),
        ] {
            assert_eq!(is_public(host.path(), Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn private_files_are_removed_from_a_plan() {
        let host = host();
        let written = || Class::Written {
            content: String::new(),
            mode: 0o644,
        };
        let entries = [
            ("/etc", Class::Copied),
            ("/etc/open/plain", Class::Copied),
            ("/etc/open/password", Class::Copied),
            ("/etc/shut", Class::Copied),
            ("/etc/shut/plain", Class::Copied),
            ("/etc/moved", Class::CopiedFrom("/etc/open/password".into())),
            ("/etc/pg", Class::Empty),
            ("/etc/pg/main", Class::Empty),
            ("/etc/hosts", written()),
            ("/etc/hostname", written()),
            ("/etc/shadow", written()),
            ("/etc/new", written()),
        ];
        let mut plan = TreePlan::default();
        for (path, class) in entries {
            let reason = String::new();
            plan.entries.insert(path.into(), Entry { class, reason });
        }
        let skipped = keep_public(&mut plan, host.path());
        let expected = [
            "/etc/hosts",
            "/etc/moved",
            "/etc/open/password",
            "/etc/pg/main",
            "/etc/shut",
            "/etc/shut/plain",
        ];
        assert_eq!(skipped, expected.map(PathBuf::from).into());
        for path in &skipped {
            assert_eq!(plan.entries[path].class, Class::LeftOut);
        }
        let tops: Vec<&PathBuf> = tops(&skipped).collect();
        assert_eq!(
            tops,
            [
                "/etc/hosts",
                "/etc/moved",
                "/etc/open/password",
                "/etc/pg/main",
                "/etc/shut"
            ]
            .map(Path::new)
        );
    }

    #[test]
    fn a_copy_that_became_secret_is_refused() {
        let host = host();
        let copies = Manifest::scan(host.path(), &[Path::new("/etc/open")]).unwrap();
        let plan = |path: &str| {
            let mut plan = TreePlan::default();
            let (class, reason) = (Class::Copied, String::new());
            plan.entries.insert(path.into(), Entry { class, reason });
            plan
        };
        check_copies(&plan("/etc/open/plain"), &copies).unwrap();
        assert!(check_copies(&plan("/etc/open/password"), &copies).is_err());
    }

    #[test]
    fn skipped_paths_are_forgotten_with_their_content() {
        let host = host();
        let mut manifest = Manifest::scan(host.path(), &[Path::new("/etc")]).unwrap();
        forget(&mut manifest, &["/etc/pg".into()].into());
        assert!(manifest.get(Path::new("/etc/pg/main/hba")).is_none());
        assert!(manifest.get(Path::new("/etc/open/plain")).is_some());
    }
}
