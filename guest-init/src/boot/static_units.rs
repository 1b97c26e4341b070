//! Masking what `/usr` pulls into every boot.
//!
//! Packages ship `*.wants` directories below `/usr/lib/systemd/system`; a sandbox shares that tree with the host, so it
//! would start the host's boot services. A link to `/dev/null` of the same name in a directory that precedes it
//! makes systemd ignore the dependency (`systemd.unit(5)`). `/run` precedes `/usr` and is gone after the
//! boot; `/etc` precedes both, so what an admin enables inside the sandbox is still started.

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

/// Masks every static dependency of a target below `root` that is not in `keep`.
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

/// Directories of generators of `/usr`, and where a link to `/dev/null` keeps one from being run (systemd.generator(7)).
const GENERATORS: &str = "/usr/lib/systemd/system-generators";
const MASKED_GENERATORS: &str = "/run/systemd/system-generators";

/// Generators of systemd's own that a sandbox can have a use for: an admin's `/etc/fstab`, and services without a unit.
const USEFUL: [&str; 3] = [
    "systemd-fstab-generator",
    "systemd-sysv-generator",
    "systemd-rc-local-generator",
];

/// Masks the generators of systemd's own that look for disks, consoles and words of a boot loader: each is a program to be started,
/// which takes an emulated machine long.
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
    fn generators_of_others_stay() {
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
    fn only_what_is_kept_stays() {
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
