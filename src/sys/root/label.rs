//! SELinux labels of files, which are extended attributes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::root::{Object, Root};

/// Name of the attribute; its value ends with a NUL.
const ATTRIBUTE: &str = "security.selinux";

/// Returns the label of the file at `path`, if it has one. A symlink is followed.
#[must_use]
pub fn get(path: &Path) -> Option<String> {
    let value = xattr::get_deref(path, ATTRIBUTE).ok()??;
    let text = String::from_utf8(value).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

/// Labels the directory `top` with all in it, and itself last. No symlink in it is followed, even if the tree
/// changes meanwhile; files that vanish are no error. Filesystems mounted below `top` are skipped.
pub fn set_recursively(top: &Path, label: &str) -> Result<()> {
    let root = Root::new(top)?;
    let device = device(&root.object(Path::new("/"))?)?;
    let mut rest = vec![(PathBuf::from("/"), false)];
    while let Some((path, is_done)) = rest.pop() {
        let object = match root.object(&path) {
            Ok(object) => object,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let metadata = object.metadata()?;
        if std::os::unix::fs::MetadataExt::dev(&metadata) != device {
            continue;
        }
        if metadata.is_dir() && !is_done {
            let names = object.names()?;
            rest.push((path.clone(), true));
            rest.extend(names.iter().map(|name| (path.join(name), false)));
            continue;
        }
        set(&object, label).map_err(Error::io("labelling", &root.host_path(&path)))?;
    }
    Ok(())
}

fn device(object: &Object) -> Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::dev(&object.metadata()?))
}

/// Labels an object if it has another label: setting the same one would still write to the disk.
fn set(object: &Object, label: &str) -> std::io::Result<()> {
    let path = object.proc_path();
    let mut value = label.as_bytes().to_vec();
    value.push(0);
    match xattr::get_deref(&path, ATTRIBUTE) {
        Ok(Some(had)) if had == value => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    xattr::set_deref(&path, ATTRIBUTE, &value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_is_labelled_and_nothing_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let (top, beyond) = (dir.path().join("top"), dir.path().join("beyond"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        fs::write(&beyond, "x").unwrap();
        symlink(&beyond, top.join("a/link")).unwrap();
        symlink(dir.path(), top.join("out")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        set_recursively(&top, label).unwrap();
        for path in ["", "a", "a/b", "a/b/file"] {
            assert_eq!(get(&top.join(path)).as_deref(), Some(label), "{path}");
        }
        assert_ne!(get(&beyond).as_deref(), Some(label));
        let link = xattr::get(top.join("a/link"), ATTRIBUTE).unwrap().unwrap();
        assert_eq!(link, format!("{label}\0").into_bytes());
        set_recursively(&top, label).unwrap();
    }
}
