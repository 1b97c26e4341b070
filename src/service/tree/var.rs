//! `/var`, `/srv`, `/home` and `/root`: the state of the service, and empty directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::State;
use crate::error::Result;
use crate::service::discover::{Service, below, is_shared};
use crate::service::tree::{Class, TreePlan};

/// Directories that every system has, empty, as on the host; so are those directly in `/var`.
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

/// Links of `/var` into `/run`.
const LINKS: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/lock", "/run/lock")];

/// What starts empty: what a service writes there it can write again.
const TRANSIENT: [&str; 4] = ["/var/log", "/var/cache", "/var/spool", "/var/tmp"];

/// Plans the rest of the tree.
///
/// # Errors
/// Where the package database cannot be read.
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
        if metadata.is_symlink() {
            plan.set(dir, Class::Copied, "as on the host");
        } else if metadata.is_dir() {
            plan.set(dir, Class::Empty, "every system has it");
        }
    }
    for dir in ["/var", "/home", "/root", "/srv"] {
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
    for (path, package) in service.directories_of_dependencies()? {
        let Ok(metadata) = below(root, &path).symlink_metadata() else {
            continue;
        };
        if metadata.is_dir() && !is_shared(&path) {
            let reason = format!("package {package}");
            plan.set_parents(root, &path, &reason);
            plan.set_new(path, Class::Empty, reason);
        }
    }
    for (path, fact) in &service.paths {
        let is_private = ["/var", "/srv", "/home", "/root"]
            .iter()
            .any(|top| path.starts_with(top));
        let is_link = LINKS.iter().any(|(link, _)| path.starts_with(link));
        if is_private && !is_link {
            own(plan, root, path, &fact.to_string(), state);
        }
    }
    homes(plan, root, service);
    Ok(())
}

/// Takes over a path that is the service's, and all below.
fn own(plan: &mut TreePlan, root: &Path, top: &Path, reason: &str, state: State) {
    let is_transient = TRANSIENT.iter().any(|dir| top.starts_with(dir));
    plan.set_parents(root, top, reason);
    let mut has_content = false;
    for entry in walkdir::WalkDir::new(below(root, top))
        .follow_root_links(false)
        .into_iter()
        .flatten()
    {
        let path = Path::new("/").join(entry.path().strip_prefix(root).unwrap_or(entry.path()));
        let kind = entry.file_type();
        // Another sandbox's tree is not this one's state, wherever it lies.
        if path.starts_with("/var/lib/libvirt")
            || path.starts_with("/var/lib/dpkg")
            || path.starts_with("/var/lib/rpm")
        {
            continue;
        }
        let copied = !is_transient && state != State::Fresh;
        if kind.is_dir() {
            let class = if copied { Class::Copied } else { Class::Empty };
            replace_empty(plan, path, class, reason);
        } else if copied || (kind.is_symlink() && state != State::Fresh && !is_transient) {
            has_content = true;
            plan.set(path, Class::Copied, reason);
        } else {
            let (class, reason) = match empty_file(&path, top, &entry) {
                Some(class) => (class, reason),
                None if is_transient => (Class::LeftOut, "starts empty"),
                None => (Class::LeftOut, "--state fresh"),
            };
            plan.set(path, class, reason);
        }
    }
    if has_content {
        plan.state.push(top.to_owned());
    }
}

/// A file that was named by itself, as it was on its first day: its account may not be able to make it. A
/// cache is whole or not at all.
fn empty_file(path: &Path, top: &Path, entry: &walkdir::DirEntry) -> Option<Class> {
    let is_named = path == top && entry.file_type().is_file();
    let may_be_empty = ["/var/log", "/var/spool"]
        .iter()
        .any(|dir| path.starts_with(dir));
    let mode = entry
        .metadata()
        .ok()
        .filter(|_| is_named && may_be_empty)?
        .mode();
    Some(Class::Written {
        content: String::new(),
        mode: mode & 0o7777,
    })
}

/// A copied directory wins over the same one planned empty before.
fn replace_empty(plan: &mut TreePlan, path: PathBuf, class: Class, reason: &str) {
    match plan.entries.get(&path).map(|entry| &entry.class) {
        Some(Class::Copied) => {}
        _ => plan.set(path, class, reason),
    }
}

/// Homes of the service's accounts that are nowhere yet, and the skeleton of root's.
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
