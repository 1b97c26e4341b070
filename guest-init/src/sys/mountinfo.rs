//! Mounts of a process, from `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Line of the table: a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Id of the mount, unique while it exists.
    pub id: u32,
    /// Id of the mount that this one is on.
    pub parent: u32,
    /// Number of the device, `MAJOR:MINOR`.
    pub device: String,
    /// Mounted directory of the filesystem.
    pub root: PathBuf,
    /// Mount point, from the root of the process.
    pub point: PathBuf,
    /// Type of the filesystem.
    pub filesystem: String,
    /// Device, or an arbitrary name.
    pub source: OsString,
    /// Options of the filesystem, separated by commas.
    pub options: String,
}

impl MountInfo {
    /// Parses a line. Names of files need not be UTF-8.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut text = || Some(String::from_utf8_lossy(fields.next()?).into_owned());
        let (id, parent, device) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
        let root = unescape(fields.next()?).into();
        let point = unescape(fields.next()?).into();
        // A variable number of optional fields ends with a dash.
        fields.find(|field| field == b"-")?;
        Some(Self {
            id,
            parent,
            device,
            root,
            point,
            filesystem: String::from_utf8_lossy(fields.next()?).into_owned(),
            source: unescape(fields.next()?),
            options: String::from_utf8_lossy(fields.next()?).into_owned(),
        })
    }

    /// Returns true if the options of the filesystem contain `option`.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|other| other == option)
    }
}

/// Reads the mounts of the calling thread.
///
/// # Errors
/// `/proc` is not mounted, or shows another namespace.
pub fn read() -> io::Result<Vec<MountInfo>> {
    Ok(parse(&fs::read("/proc/thread-self/mountinfo")?))
}

/// Parses a table, in its order: a mount comes after the one it is on.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<MountInfo> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(MountInfo::parse).collect()
}

/// Returns the mount points of the visible mount at `path` and of all mounts on it, outermost first. Mounts that it hides are left out.
#[must_use]
pub fn tree_at(table: &[MountInfo], path: &Path) -> Vec<PathBuf> {
    let Some(top) = table.iter().rfind(|mount| mount.point == path) else {
        return Vec::new();
    };
    let mut tree = vec![top];
    let mut at = 0;
    while let Some(parent) = tree.get(at).copied() {
        let is_on = |mount: &&MountInfo| mount.parent == parent.id && mount.id != parent.id;
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
pub fn places_on(table: &[MountInfo], id: u32, directory: &Path) -> Vec<PathBuf> {
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

/// Decodes the kernel's octal escapes, such as `\040` for a blank.
fn unescape(field: &[u8]) -> OsString {
    let mut name = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let (byte, left) = match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                left @ ..,
            ] => ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), left),
            _ => (*first, after),
        };
        name.push(byte);
        rest = left;
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_mounts_are_not_in_a_tree() {
        let table = b"1 0 8:1 / / rw - ext4 a rw\n\
                     2 1 0:5 / /mnt/old rw - tmpfs b rw\n\
                     3 1 8:2 / /mnt rw - ext4 c rw\n\
                     4 3 0:6 / /mnt/new rw - tmpfs d rw\n";
        let table = parse(table);
        let points = tree_at(&table, Path::new("/mnt"));
        assert_eq!(points, [Path::new("/mnt"), Path::new("/mnt/new")]);
        assert_eq!(tree_at(&table, Path::new("/")).len(), 4);
        assert!(tree_at(&table, Path::new("/none")).is_empty());
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table = b"22 1 0:21 / /a\\040b rw - tmpfs tmpfs rw\n\
                      23 1 0:22 / /c\\134d rw master:1 - tmpfs t rw\n\
                      24 1 0:22 / /\xff rw - tmpfs t rw\n";
        let points = parse(table)
            .into_iter()
            .map(|mount| mount.point.into_os_string());
        let expected: [&[u8]; 3] = [b"/a b", b"/c\\d", b"/\xff"];
        assert!(points.map(OsString::into_vec).eq(expected));
    }

    #[test]
    fn hidden_mounts_are_not_on_a_directory() {
        let table = b"5 1 0:1 / /r rw shared:1 - ext4 /dev/vda rw\n\
                     6 5 0:2 / /r/a/b rw - tmpfs tmpfs rw\n\
                     7 5 0:3 / /r/a rw - tmpfs tmpfs rw\n\
                     8 7 0:4 / /r/a/c rw - tmpfs tmpfs rw\n\
                     9 5 0:5 / /r/ab rw - tmpfs my\\040name rw\n";
        let table = parse(table);
        assert_eq!(table[4].source, "my name");
        let on = |directory: &str| places_on(&table, 5, Path::new(directory));
        assert_eq!(on("/r"), [Path::new("/r/a"), Path::new("/r/ab")]);
        assert_eq!(on("/r/a"), [Path::new("/r/a/b")]);
    }
}
