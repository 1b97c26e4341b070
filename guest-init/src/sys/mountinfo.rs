//! Reading `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).

use std::path::{Path, PathBuf};

/// Line of the table: a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Id of the mount, unique while it exists.
    pub id: u32,
    /// Id of the mount that this one is on.
    pub parent: u32,
    /// Mount point, from the root of the process.
    pub point: PathBuf,
    /// Type of the filesystem.
    pub filesystem: String,
    /// Device, or an arbitrary name.
    pub source: String,
}

/// Parses the mounts of a table, in its order: a mount comes after the one it is on.
pub fn mounts(table: &str) -> impl Iterator<Item = Mount> {
    table.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let mut filesystem = filesystem.split(' ');
        Some(Mount {
            id: mount.next()?.parse().ok()?,
            parent: mount.next()?.parse().ok()?,
            point: unescape(mount.nth(2)?).into(),
            filesystem: filesystem.next()?.to_owned(),
            source: unescape(filesystem.next()?),
        })
    })
}

/// Parses the mount points of a table, in its order.
pub fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    mounts(table).map(|mount| mount.point)
}

/// Returns the mount points of the visible mount at `path` and of all mounts on it, outermost first. Mounts that it hides are left out.
#[must_use]
pub fn tree_at(table: &[Mount], path: &Path) -> Vec<PathBuf> {
    let Some(top) = table.iter().rfind(|mount| mount.point == path) else {
        return Vec::new();
    };
    let mut tree = vec![top];
    let mut at = 0;
    while let Some(parent) = tree.get(at).copied() {
        let is_on = |mount: &&Mount| mount.parent == parent.id && mount.id != parent.id;
        tree.extend(table.iter().filter(is_on));
        at += 1;
    }
    let mut points: Vec<PathBuf> = tree.iter().map(|mount| mount.point.clone()).collect();
    points.sort();
    points.dedup();
    points
}

/// Returns the visible mount points below `directory`, which is on the mount `id`.
#[must_use]
pub fn places_on(table: &[Mount], id: u32, directory: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table
        .iter()
        .filter(|mount| mount.parent == id && mount.point != directory)
        .filter(|mount| mount.point.starts_with(directory))
        .map(|mount| mount.point.clone())
        .collect();
    points.sort();
    // An earlier mount may be hidden by a later one above it.
    let mut seen: Vec<PathBuf> = Vec::new();
    for point in points {
        if !seen.iter().any(|above| point.starts_with(above)) {
            seen.push(point);
        }
    }
    seen
}

/// Undoes the kernel's octal escapes.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_mounts_are_not_in_a_tree() {
        let table = "1 0 8:1 / / rw - ext4 a rw\n\
                     2 1 0:5 / /mnt/old rw - tmpfs b rw\n\
                     3 1 8:2 / /mnt rw - ext4 c rw\n\
                     4 3 0:6 / /mnt/new rw - tmpfs d rw\n";
        let table: Vec<Mount> = mounts(table).collect();
        let points = tree_at(&table, Path::new("/mnt"));
        assert_eq!(points, [Path::new("/mnt"), Path::new("/mnt/new")]);
        assert_eq!(tree_at(&table, Path::new("/")).len(), 4);
        assert!(tree_at(&table, Path::new("/none")).is_empty());
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table =
            "22 1 0:21 / /a\\040b rw - tmpfs tmpfs rw\n23 1 0:22 / /c\\134d rw - tmpfs t rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/a b"), PathBuf::from("/c\\d")]);
    }

    #[test]
    fn hidden_mounts_are_not_on_a_directory() {
        let table = "5 1 0:1 / /r rw shared:1 - ext4 /dev/vda rw\n\
                     6 5 0:2 / /r/a/b rw - tmpfs tmpfs rw\n\
                     7 5 0:3 / /r/a rw - tmpfs tmpfs rw\n\
                     8 7 0:4 / /r/a/c rw - tmpfs tmpfs rw\n\
                     9 5 0:5 / /r/ab rw - tmpfs my\\040name rw\n";
        let table: Vec<Mount> = mounts(table).collect();
        assert_eq!(table[4].source, "my name");
        let on = |directory: &str| places_on(&table, 5, Path::new(directory));
        assert_eq!(on("/r"), [Path::new("/r/a"), Path::new("/r/ab")]);
        assert_eq!(on("/r/a"), [Path::new("/r/a/b")]);
    }
}
