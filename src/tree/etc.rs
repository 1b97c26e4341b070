//! `/etc`: a copy of the host's, without its identity, its secrets, and its jobs and enabled units.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::facts::discover::{Fact, Readers, Service};
use crate::facts::secrets::{self, SecretReason};
use crate::facts::unit::special::Role;
use crate::sys::path::{below, normalize};
use crate::sys::root::Root;
use crate::tree::{Class, TreePlan};

/// Static boot-time units that every sandbox keeps: journal, temporary files, D-Bus and logins.
/// `systemd-user-sessions` removes `/run/nologin`, with which logins by password are refused.
pub(crate) const KEPT_UNITS: [&str; 9] = [
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-journal-flush.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-user-sessions.service",
    "dbus.socket",
    "dbus.service",
];

/// Paths of the host that stay out although they hold no secret, with the reason. A directory stays,
/// but empty.
const LEFT_OUT: &[(&str, &str)] = &[
    ("/etc/crypttab", "disks of the host"),
    ("/etc/fstab", "disks of the host"),
    ("/etc/network", "network of the host"),
    ("/etc/netplan", "network of the host"),
    ("/etc/NetworkManager", "network of the host"),
    ("/etc/systemd/network", "network of the host"),
    ("/etc/netctl", "network of the host"),
    ("/etc/sysconfig/network", "network of the host"),
    ("/etc/sysconfig/network-scripts", "network of the host"),
    ("/etc/wireguard", "network of the host"),
    ("/etc/libvirt", "sandboxes and machines of the host"),
    ("/etc/rc.local", "jobs of the host"),
    ("/etc/passwd-", "backup of accounts"),
    ("/etc/group-", "backup of accounts"),
    ("/etc/shadow-", "backup of accounts"),
    ("/etc/gshadow-", "backup of accounts"),
    ("/etc/subuid", "accounts of the host"),
    ("/etc/subuid-", "accounts of the host"),
    ("/etc/subgid", "accounts of the host"),
    ("/etc/subgid-", "accounts of the host"),
    ("/etc/.pwd.lock", "lock of the host"),
];

/// Places of jobs and scripts that systemd or cron runs: only the service's own stay. In a
/// directory each entry is judged; a table belongs to the scheduler that reads it.
const OWN_ONLY: &[&str] = &[
    "/etc/crontab",
    "/etc/anacrontab",
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/etc/cron.yearly",
    "/etc/init.d",
    "/etc/rc.d",
    "/etc/rc0.d",
    "/etc/rc1.d",
    "/etc/rc2.d",
    "/etc/rc3.d",
    "/etc/rc4.d",
    "/etc/rc5.d",
    "/etc/rc6.d",
    "/etc/rcS.d",
    "/etc/logrotate.d",
    "/etc/xinetd.d",
];

/// Directory of sandboxes' configuration. It appears with the first sandbox and disappears with the last, which
/// a sandbox must not notice, so even the empty directory is absent.
const OURS: &str = "/etc/libvirt-sandbox";

/// Directories with units of the host and with links of enabled ones.
const UNIT_DIRS: [&str; 2] = ["/etc/systemd/system", "/etc/systemd/user"];

/// Plans `/etc`.
///
/// # Errors
/// One of its directories cannot be read.
pub fn plan(plan: &mut TreePlan, root: &Path, service: &Service) -> Result<()> {
    let walk = Walk {
        root,
        host: Root::of_host(root)?,
        readers: service.readers(),
        service,
        units: unit_names(service),
        ids: own_ids(service),
    };
    walk.directory(plan, Path::new("/etc"))?;
    // Admit the secrets that the service's own configuration names, one by one.
    for (path, by) in &service.named {
        walk.admit(plan, path, by);
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Path,
    host: Root,
    readers: Readers,
    service: &'a Service,
    units: BTreeSet<String>,
    ids: BTreeSet<u32>,
}

impl Walk<'_> {
    fn directory(&self, plan: &mut TreePlan, dir: &Path) -> Result<()> {
        plan.set_new(dir, Class::Copied, "configuration of the host");
        let path = below(self.root, dir);
        let mut names = fs::read_dir(&path)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(Error::io("reading", &path))?;
        names.sort();
        for name in names {
            self.object(plan, dir.join(name))?;
        }
        Ok(())
    }

    fn object(&self, plan: &mut TreePlan, path: PathBuf) -> Result<()> {
        let on_host = below(self.root, &path);
        let Ok(metadata) = on_host.symlink_metadata() else {
            return Ok(());
        };
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(left, _)| Path::new(left) == path) {
            // An emptied directory still exists for programs that look for it.
            let class = if metadata.is_dir() && !self.service.ships(&path) {
                Class::Empty
            } else {
                Class::LeftOut
            };
            plan.set(path, class, *reason);
            return Ok(());
        }
        if path == Path::new(OURS) {
            plan.set(path, Class::LeftOut, "sandboxes of the host");
            return Ok(());
        }
        if UNIT_DIRS.iter().any(|dir| Path::new(dir) == path) {
            plan.set(&path, Class::Copied, "units that belong to the service");
            return self.units(plan, &path);
        }
        if OWN_ONLY.iter().any(|own| Path::new(own) == path) {
            if !metadata.is_dir() {
                self.own(plan, path);
                return Ok(());
            }
            plan.set(&path, Class::Copied, "jobs and scripts of the service");
            return self.own_only(plan, &path);
        }
        if let Some(reason) = self.secret(&path, &metadata) {
            plan.set(path, Class::LeftOut, reason.to_string());
            return Ok(());
        }
        if metadata.is_dir() {
            return self.directory(plan, &path);
        }
        plan.set(path, Class::Copied, "configuration of the host");
        Ok(())
    }

    /// Plans a directory of jobs: only entries that the service's packages ship or its units name.
    fn own_only(&self, plan: &mut TreePlan, dir: &Path) -> Result<()> {
        let path = below(self.root, dir);
        for entry in fs::read_dir(&path)
            .map_err(Error::io("reading", &path))?
            .flatten()
        {
            self.own(plan, dir.join(entry.file_name()));
        }
        Ok(())
    }

    fn own(&self, plan: &mut TreePlan, path: PathBuf) {
        if self.service.ships(&path) || self.service.paths.contains_key(&path) {
            plan.set(path, Class::Copied, "belongs to the service");
        } else {
            plan.set(path, Class::LeftOut, "job or script of the host");
        }
    }

    /// Plans a directory of units: only those of the service, with drop-ins and links.
    fn units(&self, plan: &mut TreePlan, dir: &Path) -> Result<()> {
        let path = below(self.root, dir);
        for entry in fs::read_dir(&path)
            .map_err(Error::io("reading", &path))?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let inside = dir.join(&name);
            let of_unit = [".d", ".wants", ".requires"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|_| entry.path().is_dir());
            match of_unit {
                None if self.is_ours(&name) => {
                    plan.set(inside, Class::Copied, "unit of the service")
                }
                // D-Bus has several implementations; an alias here selects one.
                None if KEPT_UNITS.contains(&name.as_str()) => {
                    plan.set(inside, Class::Copied, "every sandbox has it")
                }
                None => plan.set(inside, Class::LeftOut, "unit of the host"),
                Some(unit) if self.is_ours(unit) => {
                    self.all(plan, &inside, "belongs to a unit of the service")?
                }
                Some(_) => self.links(plan, &inside)?,
            }
        }
        Ok(())
    }

    /// Plans the links of a target: only those to units of the service.
    fn links(&self, plan: &mut TreePlan, dir: &Path) -> Result<()> {
        let path = below(self.root, dir);
        let mut any = false;
        for entry in fs::read_dir(&path)
            .map_err(Error::io("reading", &path))?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.is_ours(&name) {
                any = true;
                plan.set(
                    dir.join(&name),
                    Class::Copied,
                    "enables a unit of the service",
                );
            } else {
                plan.set(
                    dir.join(&name),
                    Class::LeftOut,
                    "enables a unit of the host",
                );
            }
        }
        let class = if any { Class::Copied } else { Class::LeftOut };
        plan.set(dir, class, "units that the host enables");
        Ok(())
    }

    fn all(&self, plan: &mut TreePlan, dir: &Path, reason: &str) -> Result<()> {
        for found in self.host.walk(dir, |_| false) {
            plan.set(found?.path, Class::Copied, reason);
        }
        Ok(())
    }

    fn is_ours(&self, name: &str) -> bool {
        self.units.contains(name)
    }

    /// Returns the reason why a file must stay out, or `None` if it may enter or belongs to the service.
    fn secret(&self, path: &Path, metadata: &Metadata) -> Option<SecretReason> {
        let head = if metadata.is_file() {
            self.head(path)
        } else {
            Vec::new()
        };
        match secrets::classify(path, metadata.mode(), &head)? {
            // Host keys identify the host and belong to no service.
            SecretReason::SshHostKey => Some(SecretReason::SshHostKey),
            reason @ (SecretReason::PrivateKey | SecretReason::NotWorldReadable) => {
                (!self.is_own(path, metadata)).then_some(reason)
            }
        }
    }

    fn is_own(&self, path: &Path, metadata: &Metadata) -> bool {
        self.ids.contains(&metadata.uid())
            || self.service.may_see(path)
            || (!metadata.is_dir() && self.is_made_by_service(path))
    }

    /// Returns true if a fact stronger than a mention says that the file belongs to the service: comments mention files too. A
    /// package that merely shares a directory with the service does not count elsewhere.
    fn is_made_by_service(&self, path: &Path) -> bool {
        let Some(fact) = self.service.paths.get(path) else {
            return false;
        };
        match fact {
            Fact::Mentioned(_) | Fact::Commented(_) => false,
            Fact::Package(package) | Fact::Script(package) => !self.service.is_sharing(package),
            Fact::Tmpfiles(file) => self.service.may_see(file),
            Fact::Unit(..) | Fact::Name(_) | Fact::Home(_) | Fact::OwnedBy(_) => true,
        }
    }

    /// Admits a secret file that the service's configuration names, and its parent directories.
    fn admit(&self, plan: &mut TreePlan, path: &Path, by: &Path) {
        let mut path = path.to_owned();
        let mut is_of_root = true;
        // A link of the service counts with its target; for a link that others can make, only targets that they may read.
        for _ in 0..8 {
            let Some(real) = self.real_parents(&path) else {
                return;
            };
            path = real;
            let Ok(metadata) = below(self.root, &path).symlink_metadata() else {
                return;
            };
            if !path.starts_with("/etc")
                || is_identity(&path)
                || path.starts_with(OURS)
                || LEFT_OUT.iter().any(|(left, _)| path.starts_with(left))
            {
                return;
            }
            if metadata.is_symlink() {
                let parent = path.parent().unwrap_or(Path::new("/"));
                is_of_root &= self.host.is_of_root(parent).unwrap_or(false);
                let Ok(target) = fs::read_link(below(self.root, &path)) else {
                    return;
                };
                path = normalize(&path.parent().unwrap_or(Path::new("/")).join(target));
                continue;
            }
            let head = self.head(&path);
            let is_host_key = metadata.is_file()
                && secrets::classify(&path, metadata.mode(), &head)
                    == Some(SecretReason::SshHostKey);
            let is_out = plan
                .entries
                .get(&path)
                .is_none_or(|entry| entry.class == Class::LeftOut);
            let is_believed = || is_of_root || self.readers.may_read(&self.host, &path);
            if metadata.is_file() && is_out && !is_host_key && is_believed() {
                let reason = format!("named in '{}'", by.display());
                plan.set_parents(self.root, &path, &reason);
                plan.set(path, Class::Copied, reason);
            }
            return;
        }
    }

    /// Resolves links on the way to the path: nothing can be created behind one in the tree.
    fn real_parents(&self, path: &Path) -> Option<PathBuf> {
        let parent = self.host.canonical(path.parent()?).ok()?;
        Some(parent.join(path.file_name()?))
    }

    fn head(&self, path: &Path) -> Vec<u8> {
        let mut content = Vec::new();
        // An unreadable file is reported when it is copied.
        let file = self.host.object(path).and_then(|object| object.open());
        let _ = file.map(|file| file.take(secrets::HEAD as u64).read_to_end(&mut content));
        content
    }
}

/// Returns true for files with the identity of the host and its accounts; [`files`](super::files) writes them.
fn is_identity(path: &Path) -> bool {
    [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/group",
        "/etc/gshadow",
        "/etc/machine-id",
        "/etc/hostname",
    ]
    .iter()
    .any(|identity| Path::new(identity) == path)
}

/// Returns all names and aliases of the service's units.
fn unit_names(service: &Service) -> BTreeSet<String> {
    let members = service
        .closure
        .members
        .iter()
        .filter(|member| member.role == Role::Service);
    members
        .flat_map(|member| {
            let aliases = member.loaded.iter().flat_map(|loaded| &loaded.0.aliases);
            [&member.name]
                .into_iter()
                .chain(aliases)
                .flat_map(|name| [Some(name.clone()), name.template()])
        })
        .flatten()
        .map(|name| name.to_string())
        .collect()
}

/// Returns the uids of the service's accounts, without root.
fn own_ids(service: &Service) -> BTreeSet<u32> {
    service
        .users
        .iter()
        .filter_map(|name| service.accounts.user(name))
        .map(|user| user.uid)
        .filter(|uid| *uid != 0)
        .collect()
}
