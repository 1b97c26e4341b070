//! `/var`, `/srv`, `/home` and `/root`: state of the service, and empty directories.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::State;
use crate::error::Result;
use crate::facts::discover::{Fact, Service, is_shared};
use crate::sys::path::below;
use crate::sys::root::{Root, WalkEntry};
use crate::tree::{Class, TreePlan};

/// Directories that every system has: empty, with the host's mode and owner. The same holds for those directly in `/var`.
const SKELETON: [&str; 8] = [
    "/var/lib/misc",
    "/var/lib/systemd",
    "/var/lib/dbus",
    "/var/spool/cron",
    "/var",
    "/home",
    "/root",
    "/srv",
];

/// Private top-level directories besides `/etc`.
const TOPS: [&str; 4] = ["/var", "/home", "/root", "/srv"];

/// Links from `/var` into `/run`.
const LINKS: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/lock", "/run/lock")];

/// Directories that start empty: a service can write their content again.
const TRANSIENT: [&str; 4] = ["/var/log", "/var/cache", "/var/spool", "/var/tmp"];

/// Plans the rest of the tree.
///
/// # Errors
/// The package database cannot be read.
pub fn plan(plan: &mut TreePlan, root: &Path, service: &Service, state: State) -> Result<()> {
    let of_var = fs::read_dir(below(root, Path::new("/var")))
        .into_iter()
        .flatten()
        .flatten();
    let of_var = of_var.map(|entry| Path::new("/var").join(entry.file_name()));
    for dir in SKELETON.map(PathBuf::from).into_iter().chain(of_var) {
        let Ok(metadata) = below(root, &dir).symlink_metadata() else {
            continue;
        };
        let is_top = TOPS.iter().any(|top| Path::new(top) == dir);
        if metadata.is_symlink() && !is_top {
            plan.set(dir, Class::Copied, "as on the host");
        } else if metadata.is_dir() {
            plan.set(dir, Class::Empty, "every system has it");
        }
    }
    // If the host has a link here, its target is elsewhere; the sandbox gets a directory.
    for dir in TOPS {
        let mode = if dir == "/root" { 0o700 } else { 0o755 };
        plan.set_new(
            dir,
            Class::Made {
                mode,
                uid: 0,
                gid: 0,
            },
            "every system has it",
        );
    }
    for (link, target) in LINKS {
        plan.set(link, Class::Linked(target.into()), "every system has it");
    }
    for (path, reason) in service.directories_of_dependencies()? {
        let Ok(metadata) = below(root, &path).symlink_metadata() else {
            continue;
        };
        if metadata.is_dir() && !is_shared(&path) {
            plan.set_parents(root, &path, &reason);
            plan.set_new(path, Class::Empty, reason);
        }
    }
    for (path, fact) in &service.paths {
        let is_link = LINKS.iter().any(|(link, _)| path.starts_with(link));
        if is_private(path) && !is_link {
            // A path that only a comment names may be anything: an empty place is enough.
            let state = if matches!(fact, Fact::Commented(_)) {
                State::Fresh
            } else {
                state
            };
            own(plan, root, path, &fact.to_string(), state)?;
        }
    }
    homes(plan, root, service);
    Ok(())
}

/// Returns true if the content of `path` is not copied.
#[must_use]
pub fn is_transient(path: &Path) -> bool {
    TRANSIENT.iter().any(|dir| path.starts_with(dir))
}

/// Plans a path of the service, with everything below it.
fn own(plan: &mut TreePlan, root: &Path, top: &Path, reason: &str, state: State) -> Result<()> {
    let is_transient = is_transient(top);
    let left_out = if is_transient {
        "starts empty"
    } else {
        "--state fresh"
    };
    let copied = !is_transient && state != State::Fresh;
    plan.set_parents(root, top, reason);
    let elsewhere = elsewhere(root, top);
    let origin = elsewhere.as_deref().unwrap_or(top);
    let mut has_content = false;
    let host = Root::of_host(root)?;
    for found in host.walk(origin, |_| false) {
        let WalkEntry {
            path: source,
            metadata,
            ..
        } = found?;
        let path = match source.strip_prefix(origin) {
            Ok(inside) if !inside.as_os_str().is_empty() => top.join(inside),
            Ok(_) | Err(_) => top.to_owned(),
        };
        if NOBODYS.iter().any(|dir| source.starts_with(dir)) {
            continue;
        }
        let is_dir = metadata.is_dir();
        let class = match (copied, is_dir) {
            (true, _) if elsewhere.is_some() => Class::CopiedFrom(source),
            (true, _) => Class::Copied,
            (false, true) => Class::Empty,
            (false, false) => empty_file(&path, top, &metadata).unwrap_or(Class::LeftOut),
        };
        has_content |= copied && !is_dir;
        let reason = if class == Class::LeftOut {
            left_out
        } else {
            reason
        };
        // A path that is already copied for another reason stays copied.
        let is_copied = plan
            .entries
            .get(&path)
            .is_some_and(|entry| entry.class == Class::Copied);
        if !is_copied {
            plan.set(path, class, reason);
        }
    }
    if has_content {
        plan.state.push(origin.to_owned());
    }
    Ok(())
}

/// Returns an empty file in place of one that is named itself: its account may not be able to create it. A
/// cache is complete or absent.
fn empty_file(path: &Path, top: &Path, metadata: &Metadata) -> Option<Class> {
    let is_named = path == top && metadata.is_file();
    let may_be_empty = ["/var/log", "/var/spool"]
        .iter()
        .any(|dir| path.starts_with(dir));
    (is_named && may_be_empty).then(|| Class::Written {
        content: String::new(),
        mode: metadata.mode() & 0o7777,
    })
}

/// State of package managers and of other sandboxes, which belongs to no service.
const NOBODYS: [&str; 4] = [
    "/var/lib/libvirt",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/pacman",
];

/// Returns the target of a link that an administrator has put in place of a directory, for example to a larger disk. A link
/// to a path inside the sandbox stays a link, and so does one that others can have made.
fn elsewhere(root: &Path, top: &Path) -> Option<PathBuf> {
    if !below(root, top).is_symlink() {
        return None;
    }
    let host = Root::of_host(root).ok()?;
    let inside = host.canonical(top).ok()?;
    if !host.metadata(&inside).ok()?.is_dir() {
        return None;
    }
    let is_shown = is_private(&inside) || inside.starts_with("/etc") || inside.starts_with("/usr");
    (!is_shown).then_some(inside)
}

/// Returns true if the path is in the part of the tree that this module plans.
#[must_use]
pub fn is_private(path: &Path) -> bool {
    TOPS.iter().any(|top| path.starts_with(top))
}

/// Plans the missing homes of the service's accounts, and the skeleton of root's.
fn homes(plan: &mut TreePlan, root: &Path, service: &Service) {
    for user in service
        .users
        .iter()
        .filter_map(|name| service.accounts.user(name))
    {
        let home = Path::new(&user.home);
        if home.starts_with("/home")
            && home.parent() == Some(Path::new("/home"))
            && below(root, home).is_dir()
        {
            plan.set_new(home, Class::Empty, format!("home of {}", user.name));
        }
    }
}
