//! Programs of the host that serve devices of virtual machines, as their descriptions name them (`docs/interop/vhost-user.json` of
//! QEMU).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Directories with descriptions, below the root. A file takes precedence over those of its name in later ones.
pub const DIRECTORIES: [&str; 2] = ["etc/qemu/vhost-user", "usr/share/qemu/vhost-user"];

/// Description of a program.
#[derive(Debug, Deserialize)]
struct Description {
    r#type: String,
    binary: PathBuf,
}

/// Finds the program that serves filesystems on the host at `root`: that of the first description, by name, whose program is there.
#[must_use]
pub fn find_virtiofsd(root: &Path) -> Option<PathBuf> {
    let mut files = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = fs::read_dir(root.join(directory)).into_iter().flatten();
        for entry in entries.flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                files.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    let is_there = |program: &PathBuf| {
        let inside = program.strip_prefix("/");
        inside.is_ok_and(|inside| root.join(inside).is_file())
    };
    (files
        .values()
        .filter_map(|file| program_for_filesystems(file)))
    .find(is_there)
}

/// Returns the program that a file describes, if that serves filesystems. An empty file masks another one.
fn program_for_filesystems(file: &Path) -> Option<PathBuf> {
    let text = fs::read(file).ok()?;
    let described = serde_json::from_slice::<Description>(&text);
    if let (Err(error), false) = (&described, text.is_empty()) {
        log::warn!("reading '{}': {error}", file.display());
    }
    let described = described.ok()?;
    (described.r#type == "fs").then_some(described.binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(files: &[(&str, &str)]) -> Option<PathBuf> {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        find_virtiofsd(root.path())
    }

    #[test]
    fn descriptions_name_virtiofsd() {
        let programs = [("usr/bin/a", ""), ("usr/bin/b", "")];
        let usual = (
            "usr/share/qemu/vhost-user/50-x.json",
            r#"{"description": "", "type": "fs", "binary": "/usr/bin/a"}"#,
        );
        let find = |files: &[(&str, &str)]| find(&[&programs[..], files].concat());
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[usual]), Some("/usr/bin/a".into()));
        // The admin's file of the same name wins, and an earlier name.
        let own = (
            "etc/qemu/vhost-user/50-x.json",
            r#"{"type": "fs", "binary": "/usr/bin/b"}"#,
        );
        assert_eq!(find(&[usual, own]), Some("/usr/bin/b".into()));
        let first = (
            "usr/share/qemu/vhost-user/10-y.json",
            r#"{"type": "fs", "binary": "/usr/bin/b"}"#,
        );
        assert_eq!(find(&[usual, first]), Some("/usr/bin/b".into()));
        assert_eq!(find(&[usual, ("etc/qemu/vhost-user/50-x.json", "")]), None);
    }

    #[test]
    fn other_descriptions_are_passed_over() {
        let described = |text| find(&[("usr/bin/a", ""), ("etc/qemu/vhost-user/1.json", text)]);
        assert_eq!(
            described(r#"{"type": "gpu", "binary": "/usr/bin/a"}"#),
            None
        );
        assert_eq!(
            described(r#"{"type": "fs", "binary": "/usr/bin/missing"}"#),
            None
        );
        assert_eq!(described(r#"{"type": "fs", "binary": "usr/bin/a"}"#), None);
        assert_eq!(described("{"), None);
    }
}
