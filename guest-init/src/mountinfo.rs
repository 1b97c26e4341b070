//! Reading `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).

use std::path::PathBuf;

/// The mount points of a table, in its order.
pub fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
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
    fn mount_points_are_unescaped() {
        let table =
            "22 1 0:21 / /a\\040b rw - tmpfs tmpfs rw\n23 1 0:22 / /c\\134d rw - tmpfs t rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/a b"), PathBuf::from("/c\\d")]);
    }
}
