//! Reading `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).

use std::path::{Path, PathBuf};

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Identifies the mount while it lasts.
    pub id: u32,
    /// The mount it is on.
    pub parent: u32,
    /// Where it is, from the root of the process.
    pub point: PathBuf,
    /// Type of the filesystem.
    pub filesystem: String,
    /// What was mounted: a device, or any word.
    pub source: String,
}

/// The mounts of a table, in its order: a mount comes after the one it is on.
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

/// The mount points of a table, in its order.
pub fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    mounts(table).map(|mount| mount.point)
}

/// The mount that is seen at `path` and all that is on it, outermost first; mounts that were there before and are hidden by
/// it are not.
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

/// The places below `directory`, which is of the mount `id`, where something else is mounted.
#[must_use]
pub fn places_on(table: &[Mount], id: u32, directory: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table
        .iter()
        .filter(|mount| mount.parent == id && mount.point != directory)
        .filter(|mount| mount.point.starts_with(directory))
        .map(|mount| mount.point.clone())
        .collect();
    points.sort();
    // What was mounted first may be hidden by another mount above it.
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
    fn what_a_mount_hides_is_not_of_its_tree() {
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
    fn only_what_can_be_seen_is_on_a_directory() {
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
