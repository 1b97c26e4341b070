//! Mounts from below another mount that the sandbox writes to. Root inside can put a link there, which the host would follow at the
//! next start; so they are taken from the sandbox itself.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{GuestPath, Mount};
use crate::error::{Error, Result};

/// A directory of the host that the sandbox writes to.
struct Written {
    file: (u64, u64),
    target: PathBuf,
    is_there: bool,
}

/// Turns host-binds from below a directory that the sandbox writes to into guest-binds: in the sandbox every link stays inside.
/// `tree` is such a directory.
///
/// # Errors
/// Where a mount comes before the one that it has to be taken from, or a source cannot be looked at.
pub fn resolve(mounts: &[Mount], tree: Option<&Path>) -> Result<Vec<Mount>> {
    let mut written: Vec<Written> = Vec::new();
    let tree = tree.map(|tree| (tree, Path::new("/"), true));
    for (source, target, is_there) in tree.into_iter().chain(mounts.iter().filter_map(of_mount)) {
        written.extend(identity(source)?.map(|file| Written {
            file,
            target: target.to_owned(),
            is_there,
        }));
    }
    let mut resolved = Vec::new();
    for mount in mounts {
        resolved.push(resolve_one(&written, mount)?);
        if let Some((_, target, _)) = of_mount(mount) {
            let made = written.iter_mut().find(|place| place.target == target);
            made.into_iter().for_each(|place| place.is_there = true);
        }
    }
    Ok(resolved)
}

/// Returns the host path that a mount lets the sandbox write to, its path in the sandbox, and whether it is there from the start.
fn of_mount(mount: &Mount) -> Option<(&Path, &Path, bool)> {
    match mount {
        Mount::HostBind {
            target,
            source: Some(source),
            read_only: false,
        } => Some((source, target.as_path(), target.is_root())),
        Mount::HostBind { .. }
        | Mount::HostImage { .. }
        | Mount::GuestBind { .. }
        | Mount::Ram { .. } => None,
    }
}

/// Returns device and inode of a path, which do not depend on how it is written; `None` if there is no such file.
fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::io("looking at", path)(error)),
    }
}

fn resolve_one(written: &[Written], mount: &Mount) -> Result<Mount> {
    let Mount::HostBind {
        target,
        source: Some(source),
        read_only,
    } = mount
    else {
        return Ok(mount.clone());
    };
    for above in source.ancestors().skip(1) {
        let file = identity(above)?;
        let Some(place) = written.iter().find(|place| Some(place.file) == file) else {
            continue;
        };
        let refused = |reason: &str| {
            Error::refused(format!(
                "the mount '{mount}' is of what is below '{}', which the sandbox writes to: {reason}",
                above.display()
            ))
        };
        if !place.is_there {
            return Err(refused("name that mount before it"));
        }
        let rest = source.strip_prefix(above).unwrap_or(Path::new(""));
        let inside = place.target.join(rest);
        let inside = inside
            .to_str()
            .and_then(|path| path.parse::<GuestPath>().ok());
        let resolved = Mount::GuestBind {
            target: target.clone(),
            source: inside.ok_or_else(|| refused("its path cannot be one in the sandbox"))?,
            read_only: *read_only,
        };
        log::debug!(
            "the mount '{mount}' becomes '{resolved}': the sandbox writes to '{}'",
            above.display()
        );
        return Ok(resolved);
    }
    Ok(mount.clone())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mount(text: &str) -> Mount {
        text.parse().unwrap()
    }

    #[test]
    fn mounts_below_a_writable_mount_are_taken_from_the_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().display();
        fs::create_dir_all(dir.path().join("outer/a/b")).unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        symlink("outer", dir.path().join("link")).unwrap();
        let outer = mount(&format!("host-bind:/mnt={top}/outer"));
        for (source, taken) in [
            ("outer/a", Some("/mnt/a")),
            ("outer/a/b", Some("/mnt/a/b")),
            ("link/a", Some("/mnt/a")),
            ("tree/srv/x", Some("/srv/x")),
            ("outer", None),
            ("tree", None),
            ("other/a", None),
        ] {
            for option in ["", ",ro"] {
                let inner = mount(&format!("host-bind:/opt={top}/{source}{option}"));
                let expected = match taken {
                    Some(taken) => mount(&format!("guest-bind:/opt={taken}{option}")),
                    None => inner.clone(),
                };
                let tree = dir.path().join("tree");
                let resolved = resolve(&[outer.clone(), inner], Some(&tree)).unwrap();
                assert_eq!(resolved, [outer.clone(), expected]);
            }
        }
        let inner = mount(&format!("host-bind:/opt={top}/outer/a"));
        let error = resolve(&[inner.clone(), outer], None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("name that mount before it"), "{error}");
        // The sandbox cannot replace anything in a read-only mount.
        let outer = mount(&format!("host-bind:/mnt={top}/outer,ro"));
        let both = [inner, outer];
        assert_eq!(resolve(&both, None).unwrap(), both);
    }
}
