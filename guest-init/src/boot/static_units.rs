//! Masks of units that `/usr` starts in every boot.
//!
//! Packages ship `*.wants` directories below `/usr/lib/systemd/system`. A sandbox shares that tree with the host, so it would start
//! the boot services of the host. systemd ignores a dependency if a directory of higher precedence has a link to `/dev/null` with the
//! same name (`systemd.unit(5)`). `/run` takes precedence over `/usr` and is empty at every boot; `/etc` takes precedence over both,
//! so units that an administrator enables in the sandbox are still started.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::root::{below, make_dir};

const VENDOR_DIRS: [&str; 3] = [
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/local/lib/systemd/system",
];
const RUNTIME_DIR: &str = "/run/systemd/system";

/// Masks every dependency of a target in `/usr` below `root`, except the units in `keep`. Returns the links.
pub fn mask(root: &Path, keep: &[String]) -> Result<Vec<PathBuf>> {
    let mut masked = BTreeSet::new();
    for dir in VENDOR_DIRS {
        for target in list(&below(root, Path::new(dir)))? {
            let is_of_target =
                target.ends_with(".target.wants") || target.ends_with(".target.requires");
            if !is_of_target {
                continue;
            }
            for unit in list(&below(root, Path::new(dir)).join(&target))? {
                if !keep.contains(&unit) {
                    masked.insert(Path::new(RUNTIME_DIR).join(&target).join(&unit));
                }
            }
        }
    }
    for link in &masked {
        let path = below(root, link);
        if let Some(parent) = path.parent() {
            make_dir(parent, 0o755)?;
        }
        symlink("/dev/null", &path).with_context(|| format!("masking '{}'", path.display()))?;
    }
    Ok(masked.into_iter().collect())
}

/// Directory of generators in `/usr`.
const GENERATORS: &str = "/usr/lib/systemd/system-generators";
/// Directory in which a link to `/dev/null` masks a generator (systemd.generator(7)).
const MASKED_GENERATORS: &str = "/run/systemd/system-generators";

/// Generators of systemd that are useful in a sandbox: for `/etc/fstab`, and for services without a unit.
const USEFUL: [&str; 3] = [
    "systemd-fstab-generator",
    "systemd-sysv-generator",
    "systemd-rc-local-generator",
];

/// Masks generators of systemd that look for disks, consoles and boot loader settings, or that open sockets beside those of the
/// services (systemd-ssh-generator(8)). Each is a program to start, which is slow in an emulated machine.
pub fn mask_generators(root: &Path) -> Result<()> {
    for name in list(&below(root, Path::new(GENERATORS)))? {
        if name.starts_with("systemd-") && !USEFUL.contains(&name.as_str()) {
            let masked = below(root, Path::new(MASKED_GENERATORS));
            make_dir(&masked, 0o755)?;
            let path = masked.join(&name);
            symlink("/dev/null", &path).with_context(|| format!("masking '{}'", path.display()))?;
        }
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(|| format!("reading '{}'", dir.display())),
    };
    entries
        .map(|entry| {
            let entry = entry.with_context(|| format!("reading '{}'", dir.display()))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unneeded_generators_of_systemd_are_masked() {
        let root = tempfile::tempdir().unwrap();
        let generators = below(root.path(), Path::new(GENERATORS));
        fs::create_dir_all(&generators).unwrap();
        for name in [
            "systemd-gpt-auto-generator",
            "systemd-sysv-generator",
            "postgresql-generator",
        ] {
            fs::write(generators.join(name), "").unwrap();
        }
        mask_generators(root.path()).unwrap();
        let masked = list(&below(root.path(), Path::new(MASKED_GENERATORS))).unwrap();
        assert_eq!(masked, ["systemd-gpt-auto-generator"]);
    }

    #[test]
    fn dependencies_of_targets_are_masked_unless_kept() {
        let root = tempfile::tempdir().unwrap();
        let wants = root
            .path()
            .join("usr/lib/systemd/system/sysinit.target.wants");
        fs::create_dir_all(&wants).unwrap();
        fs::write(wants.join("systemd-journald.service"), "").unwrap();
        fs::write(wants.join("systemd-modules-load.service"), "").unwrap();
        let of_service = root.path().join("usr/lib/systemd/system/web.service.wants");
        fs::create_dir_all(&of_service).unwrap();
        fs::write(of_service.join("web-helper.service"), "").unwrap();

        let masked = mask(root.path(), &["systemd-journald.service".into()]).unwrap();

        let expected =
            PathBuf::from("/run/systemd/system/sysinit.target.wants/systemd-modules-load.service");
        assert_eq!(masked, std::slice::from_ref(&expected));
        assert_eq!(
            fs::read_link(below(root.path(), &expected)).unwrap(),
            Path::new("/dev/null")
        );
    }
}
