//! Files that are staged for the guest: its layout, its config and guest-init; and the kernel that a machine boots.

pub mod confinement;
pub mod ids;
pub mod kernel;
pub mod layout;
pub mod nested;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, GuestConfig};
use guest_init::sys::first_process::RECORD;

use crate::config::{Credential, Mac, Network};
use crate::error::{Error, Result};
use crate::sys::file::atomic;
use crate::sys::path::below;

/// Private directories of a service, in its tree and in its root.
pub const PRIVATE_DIRS: [&str; 5] = ["/etc", "/var", "/home", "/root", "/srv"];

/// Directories of the configurations of services.
pub const SERVICES: &str = "/etc/libvirt-sandbox/services";

/// Directory of root's one-shot sandboxes. Not in `/run`, where many hosts let nothing be executed: a container's first program
/// lies there.
pub const RUNTIME: &str = "/var/lib/virt-sandbox";

/// Name of the guest config in the staging root of a service.
pub const CONFIG: &str = "guest.json";
/// Path of the tree of a service in the staging root.
pub const PRIVATE: &str = "/private";

/// Name of the init in the staging root; the domain starts it.
const INIT: &str = "guest-init";

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

/// Returns the environment variable that leads a payload to its credentials, if it has any.
#[must_use]
pub fn credentials_variable(credentials: &[guest::Credential]) -> Option<(String, String)> {
    (!credentials.is_empty()).then(|| {
        (
            guest_init::CREDENTIALS_VARIABLE.to_owned(),
            guest_init::CREDENTIALS.to_owned(),
        )
    })
}

/// Returns whether guests show every step of their boot.
#[must_use]
pub fn is_debugged() -> bool {
    std::env::var_os("LIBVIRT_SANDBOX_INIT_DEBUG").is_some()
}

/// Returns the NICs as the guest sees them: libvirt and the kernel name them in this order.
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
pub fn stage(dir: &Path, init: &Path, config: &GuestConfig) -> Result<()> {
    stage_init(dir, init)?;
    let text =
        serde_json::to_vec_pretty(config).map_err(Error::step("writing the guest config"))?;
    atomic::write_unsynced(&dir.join(CONFIG), &text, 0o600)?;
    Ok(())
}

/// Writes the staging root of a sandbox that gets its config over the channel: the init program alone.
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
    // guest-init fills it only if it is there. The record of a running sandbox stays.
    let record = dir.join(RECORD);
    if !record.exists() {
        atomic::write_unsynced(&record, b"", 0o600)?;
    }
    Ok(())
}

/// Finds guest-init: `$VIRT_SANDBOX_GUEST_INIT`, else as it is installed beside the program that runs, or as the build puts it.
#[cfg(not(test))]
pub fn find_init() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VIRT_SANDBOX_GUEST_INIT") {
        return Ok(path.into());
    }
    let program = crate::sys::process::command::current_exe();
    let program = program.map_err(Error::step("finding this program"))?;
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

/// Returns a program that succeeds: no unit test starts a sandbox.
#[cfg(test)]
pub fn find_init() -> Result<PathBuf> {
    Ok("/bin/true".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_databases_below_usr_are_hidden() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(own_databases(root.path()), None);
        fs::create_dir_all(root.path().join("usr/lib/sysimage/rpm")).unwrap();
        let mount = own_databases(root.path()).unwrap();
        assert_eq!(mount.target(), Path::new("/usr/lib/sysimage"));
    }
}
