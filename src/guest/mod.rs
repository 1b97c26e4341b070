//! What is staged for the guest: the init, its config, and the list of what libvirt places beside them.

pub mod confinement;
pub mod ids;
pub mod kernel;
pub mod nested;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, GuestConfig};
use guest_init::sys::first_process::RECORD;

use crate::config::{Credential, Mac, Mount, Network, SandboxConfig};
use crate::domain::Filesystem;
use crate::error::{Error, Result};
use crate::host::{HostFacts, SystemDir};
use crate::sys::file::atomic;
use crate::sys::process::command;

/// The private directories of a sandbox, in its tree and in its root.
pub const PRIVATE_DIRS: [&str; 5] = ["/etc", "/var", "/home", "/root", "/srv"];

/// Directories of the configurations of services.
pub const SERVICES: &str = "/etc/libvirt-sandbox/services";

/// Directories of running sandboxes of one command, of root. Not in `/run`, where many hosts let nothing be executed: a
/// container's first program lies there.
pub const RUNTIME: &str = "/var/lib/virt-sandbox";

/// Name of the guest config in the staging root of a service.
pub const CONFIG: &str = "guest.json";
/// Where the tree of a sandbox is in the staging root.
pub const PRIVATE: &str = "/private";

/// Name of the init in the staging root; the domain starts it.
const INIT: &str = "guest-init";

/// How the guest is put together: what libvirt places in the staging root, and what the guest makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    /// What libvirt places in the staging root.
    pub filesystems: Vec<Filesystem>,
    /// How the guest makes its root of that.
    pub mounts: Vec<guest::Mount>,
    /// What it mounts in the finished root.
    pub user_mounts: Vec<guest::Mount>,
}

impl Assembly {
    /// The assembly of a service sandbox staged in `stage`.
    ///
    /// # Errors
    /// Where [`nested::resolve`] fails: a mount comes before the one that it would be taken from.
    pub fn of_service(config: &SandboxConfig, facts: &HostFacts, stage: &Path) -> Result<Self> {
        let mut assembly = Self {
            filesystems: vec![Filesystem {
                source: stage.to_owned(),
                target: "/".into(),
                read_only: false,
            }],
            mounts: Vec::new(),
            user_mounts: Vec::new(),
        };
        for dir in &facts.system_dirs {
            match dir {
                SystemDir::Directory(path) => {
                    let staged = below("/host", path);
                    assembly.share(facts, path, &staged, true);
                    assembly.mounts.push(bind(staged, path, true));
                }
                SystemDir::Link(path, points_to) => assembly.mounts.push(link(path, points_to)),
            }
        }
        if config.image.is_none() {
            assembly.share(facts, &config.path, Path::new(PRIVATE), false);
        }
        for dir in PRIVATE_DIRS.map(Path::new) {
            assembly.mounts.push(bind(below(PRIVATE, dir), dir, false));
        }
        assembly.mounts.extend(temporary());
        for (index, mount) in nested::resolve(&config.mounts, Some(&config.path))?
            .iter()
            .enumerate()
        {
            assembly.add_user_mount(facts, index, mount);
        }
        Ok(assembly)
    }

    fn add_user_mount(&mut self, facts: &HostFacts, index: usize, mount: &Mount) {
        let made = match mount {
            Mount::HostBind {
                target,
                source: Some(source),
                read_only,
            } => {
                let staged = Path::new(guest_init::STAGED_MOUNTS).join(index.to_string());
                self.share(facts, source, &staged, *read_only);
                Some(bind(staged, target.as_path(), *read_only))
            }
            Mount::HostBind { source: None, .. }
            | Mount::HostImage { .. }
            | Mount::GuestBind { .. }
            | Mount::Ram { .. } => of_sandbox(mount),
        };
        self.user_mounts.extend(made);
    }

    /// Has libvirt bind `source` and, since it does not bind recursively, each mount below.
    fn share(&mut self, facts: &HostFacts, source: &Path, staged: &Path, read_only: bool) {
        for mount_point in facts.with_submounts(source) {
            let inside = mount_point.strip_prefix(source).unwrap_or(Path::new(""));
            self.filesystems.push(Filesystem {
                source: mount_point.to_owned(),
                target: if inside.as_os_str().is_empty() {
                    staged.to_owned()
                } else {
                    staged.join(inside)
                },
                read_only,
            });
        }
    }
}

/// A place of the staging root, seen at `target`.
#[must_use]
pub fn bind(staged: PathBuf, target: &Path, read_only: bool) -> guest::Mount {
    guest::Mount::Bind {
        source: guest::Source::Stage(staged),
        target: target.to_owned(),
        read_only,
    }
}

/// A link of the host's root.
#[must_use]
pub fn link(path: &Path, points_to: &Path) -> guest::Mount {
    guest::Mount::Symlink {
        points_to: points_to.to_owned(),
        target: path.to_owned(),
    }
}

/// What every service has in memory; and the empty places of a root that units expect to be there (hier(7)), to hide them.
pub fn temporary() -> impl Iterator<Item = guest::Mount> {
    let dirs = [("/run", 0o755), ("/tmp", 0o1777)];
    let tmpfs = dirs.into_iter().map(|(target, mode)| guest::Mount::Tmpfs {
        target: target.into(),
        mode,
        size: None,
    });
    let empty = ["/boot", "/media", "/mnt"];
    tmpfs.chain(empty.map(|target| guest::Mount::Directory {
        target: target.into(),
    }))
}

/// The user's mount as a guest makes it; `None` where it takes something of the host.
#[must_use]
pub fn of_sandbox(mount: &Mount) -> Option<guest::Mount> {
    match mount {
        Mount::GuestBind {
            target,
            source,
            read_only,
        } => Some(guest::Mount::Bind {
            source: guest::Source::Sandbox(source.as_path().to_owned()),
            target: target.as_path().to_owned(),
            read_only: *read_only,
        }),
        Mount::Ram { target, size } => Some(guest::Mount::Tmpfs {
            target: target.as_path().to_owned(),
            mode: 0o1777,
            size: Some(size.get()),
        }),
        // No service has one without a source, or an image: `SandboxConfig::check`.
        Mount::HostBind { .. } | Mount::HostImage { .. } => None,
    }
}

/// Returns an empty tmpfs for the directory below `/usr` where the host's package managers keep their locks and databases
/// (`%_dbpath` of rpm), if the host has it. A lock is of the inode: host and sandbox would hold each other up. The sandbox's
/// private tree knows nothing of the packages installed on the host either.
#[must_use]
pub fn own_databases(root: &Path) -> Option<guest::Mount> {
    let target = Path::new("/usr/lib/sysimage");
    let is_there = below(root, target).is_dir();
    is_there.then(|| guest::Mount::Tmpfs {
        target: target.to_owned(),
        mode: 0o755,
        size: None,
    })
}

/// `path` as it is below `root`.
#[must_use]
pub fn below(root: impl AsRef<Path>, path: &Path) -> PathBuf {
    root.as_ref().join(path.strip_prefix("/").unwrap_or(path))
}

/// Most bytes of all credentials of a sandbox, as of systemd for a unit (`CREDENTIALS_TOTAL_SIZE_MAX`).
const MOST_SECRET: usize = 1 << 20;

/// Reads the files of credentials.
///
/// # Errors
/// Where one cannot be read, or there is too much in them.
pub fn credentials(credentials: &[Credential]) -> Result<Vec<guest::Credential>> {
    let mut left = MOST_SECRET;
    let mut read: Vec<guest::Credential> = Vec::new();
    for credential in credentials {
        if read.iter().any(|known| known.id == credential.id) {
            return Err(Error::refused(format!(
                "there are two credentials '{}'",
                credential.id
            )));
        }
        let failed = |error: std::io::Error| {
            Error::step(format!("reading the credential '{credential}'"))(error)
        };
        let mut content = Vec::new();
        File::open(&credential.source)
            .and_then(|file| file.take(left as u64 + 1).read_to_end(&mut content))
            .map_err(failed)?;
        left = left.checked_sub(content.len()).ok_or_else(|| {
            Error::refused(format!(
                "with the credential '{credential}' there are more than {MOST_SECRET} bytes in credentials; use a mount for so much"
            ))
        })?;
        read.push(guest::Credential {
            id: credential.id.clone(),
            content: guest::Secret(content),
        });
    }
    Ok(read)
}

/// The variable that leads a payload to its credentials, if it has any.
#[must_use]
pub fn credentials_variable(credentials: &[guest::Credential]) -> Option<(String, String)> {
    (!credentials.is_empty()).then(|| {
        (
            guest_init::CREDENTIALS_VARIABLE.to_owned(),
            guest_init::CREDENTIALS.to_owned(),
        )
    })
}

/// Whether guests are to show every step of their boot.
#[must_use]
pub fn is_debugged() -> bool {
    std::env::var_os("LIBVIRT_SANDBOX_INIT_DEBUG").is_some()
}

/// What the guest is told of its NICs: libvirt and the kernel name them in this order.
#[must_use]
pub fn nics(networks: &[Network]) -> Vec<guest::Nic> {
    let nic = |(index, network): (usize, &Network)| guest::Nic {
        name: format!("eth{index}"),
        mac: network.mac.map(Mac::bytes),
        addressing: network.addressing.clone(),
        hint: None,
    };
    networks.iter().enumerate().map(nic).collect()
}

/// Writes the staging root: the init program and its config.
///
/// # Errors
/// Where the program is not installed or the directory cannot be written.
pub fn stage(dir: &Path, init: &Path, config: &GuestConfig) -> Result<()> {
    stage_init(dir, init)?;
    let text =
        serde_json::to_vec_pretty(config).map_err(Error::step("writing the guest config"))?;
    atomic::write_unsynced(&dir.join(CONFIG), &text, 0o600)?;
    Ok(())
}

/// Writes the staging root of a sandbox that gets its config otherwise: the init program alone.
///
/// # Errors
/// As [`stage`].
pub fn stage_init(dir: &Path, init: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("creating", dir))?;
    // libvirt makes the mount point of a file, but not the directory it is in.
    for staged in [guest_init::STAGED_MOUNTS, guest_init::STAGED_INCLUDES] {
        let place = dir.join(staged.trim_start_matches('/'));
        fs::create_dir_all(&place).map_err(Error::io("creating", &place))?;
    }
    let program = fs::read(init).map_err(Error::io("reading", init))?;
    atomic::write_unsynced(&dir.join(INIT), &program, 0o755)?;
    // guest-init empties and fills it; where there is none it never will. That of a sandbox that runs stays.
    let record = dir.join(RECORD);
    if !record.exists() {
        atomic::write_unsynced(&record, b"", 0o600)?;
    }
    Ok(())
}

/// The installed guest-init: `$VIRT_SANDBOX_GUEST_INIT`, else where it is installed beside the
/// program that runs, or where the build puts it.
///
/// # Errors
/// Where there is none; the message names the places.
pub fn find_init() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VIRT_SANDBOX_GUEST_INIT") {
        return Ok(path.into());
    }
    let program = command::current_exe().map_err(Error::step("finding this program"))?;
    let candidates: Vec<PathBuf> = program
        .ancestors()
        .skip(1)
        .take(4)
        .flat_map(|dir| {
            ["libexec/virt-sandbox/guest-init", "guest-init/guest-init"]
                .map(|place| dir.join(place))
        })
        .chain([PathBuf::from("/usr/libexec/virt-sandbox/guest-init")])
        .collect();
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        Error::unsupported(format!(
            "there is no guest-init in any of {}; install virt-sandbox whole, or build it with 'make build'",
            candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_of_packages_are_not_shared_where_they_are_below_usr() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(own_databases(root.path()), None);
        fs::create_dir_all(root.path().join("usr/lib/sysimage/rpm")).unwrap();
        let mount = own_databases(root.path()).unwrap();
        assert_eq!(mount.target(), Path::new("/usr/lib/sysimage"));
    }

    #[test]
    fn submounts_of_a_shared_directory_are_bound_one_by_one() {
        let facts = HostFacts {
            arch: "x86_64".into(),
            system_dirs: vec![
                SystemDir::Directory("/usr".into()),
                SystemDir::Link("/bin".into(), "usr/bin".into()),
            ],
            mount_points: ["/", "/usr", "/usr/local", "/usrlocal", "/srv/data"]
                .map(PathBuf::from)
                .to_vec(),
        };
        let mut assembly = Assembly {
            filesystems: vec![],
            mounts: vec![],
            user_mounts: vec![],
        };
        assembly.share(&facts, Path::new("/usr"), Path::new("/host/usr"), true);
        let targets: Vec<_> = assembly
            .filesystems
            .iter()
            .map(|fs| fs.target.as_path())
            .collect();
        assert_eq!(
            targets,
            [Path::new("/host/usr"), Path::new("/host/usr/local")]
        );
    }
}
