//! Place of a sandbox's tree on the host: checks before it is taken, and removal.
//!
//! The top of the tree contains a mark with the identity of the sandbox. The sandbox only sees directories below the top, so it can
//! neither see nor change the mark. A tree without the right mark is never removed.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::SandboxConfig;
use crate::error::{Error, Result};
use crate::host;
use crate::sys::file::{atomic, remove, rename};

mod reach;

pub(crate) use reach::has_directory;

/// Name of the mark.
const MARK: &str = ".virt-sandbox.json";

/// Name of the work directory of an upgrade, beside the mark and out of the sandbox's reach.
const WORK: &str = ".upgrade";

/// Name of the directory with the snapshots of an image.
const SNAPSHOTS: &str = ".snapshots";

/// Returns true if a path in a tree belongs to the host and not to the sandbox.
pub(crate) fn is_reserved(path: &Path) -> bool {
    let first = path
        .components()
        .find(|component| *component != Component::RootDir);
    first.is_some_and(|first| {
        [MARK, WORK, SNAPSHOTS]
            .iter()
            .any(|name| first.as_os_str() == *name)
    })
}

/// Content of the mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Mark {
    /// Identity of the sandbox.
    uuid: Uuid,
    /// Outermost directory that was created for the tree; `None` if its top existed before and stays.
    made: Option<PathBuf>,
}

/// Checks that a tree can be created at `path`.
///
/// # Errors
/// Something else is there, the place is in another sandbox's tree, or other users could change it.
pub fn check(path: &Path) -> Result<()> {
    reach::check(path)?;
    for ancestor in path.ancestors() {
        if ancestor.join(MARK).exists() {
            return Err(Error::refused(format!(
                "'{}' lies in the tree of another sandbox; choose another place with --path",
                path.display()
            )));
        }
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("looking at", path)(error)),
        Ok(metadata) if metadata.is_dir() => {
            let mut entries = fs::read_dir(path).map_err(Error::io("reading", path))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(Error::exists(format!(
                    "'{}' is not empty; move it away, or choose another place with --path",
                    path.display()
                ))),
            }
        }
        Ok(_) => Err(Error::exists(format!(
            "'{}' exists and is not a directory; move it away, or choose another place with --path",
            path.display()
        ))),
    }
}

/// Creates the top of a tree at `path` and marks it. Only root may enter: the sandbox's root could leave a setuid program in
/// its tree, which users of the host must not reach.
///
/// # Errors
/// The top cannot be created.
pub fn make(path: &Path, uuid: Uuid) -> Result<()> {
    check(path)?;
    let made = path
        .ancestors()
        .take_while(|ancestor| !ancestor.exists())
        .last();
    let made = made.map(Path::to_owned);
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(Error::io("creating", parent))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Error::io("creating", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(Error::io("creating", path))?;
    // Another process may have changed the place since the first check.
    reach::check(path)?;
    write(path, &Mark { uuid, made })
}

/// Returns the work directory of an upgrade of the tree at `path`.
#[must_use]
pub fn work_of(path: &Path) -> PathBuf {
    path.join(WORK)
}

/// Returns the directory of snapshots of the image of the tree at `path`.
#[must_use]
pub fn snapshots_of(path: &Path) -> PathBuf {
    path.join(SNAPSHOTS)
}

/// Returns the path of the mark of the tree at `path`.
#[must_use]
pub fn mark_of(path: &Path) -> PathBuf {
    path.join(MARK)
}

/// Checks that the tree at `path` belongs to the sandbox `uuid`.
///
/// # Errors
/// The tree is missing, belongs to another sandbox, or has a link in place of a directory that the sandbox gets.
pub fn must_be_of(path: &Path, uuid: Uuid) -> Result<()> {
    let file = path.join(MARK);
    let text = match fs::read(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::symlink_metadata(path).map_err(Error::io("opening", path))?;
            return Err(Error::refused(format!(
                "'{}' has no mark of this sandbox: look at 'path' in its sandbox.toml",
                path.display()
            )));
        }
        text => text.map_err(Error::io("reading", &file))?,
    };
    match serde_json::from_slice::<Mark>(&text) {
        Ok(mark) if mark.uuid == uuid => reach::check_tops(path),
        Ok(_) | Err(_) => Err(Error::refused(format!(
            "'{}' is not the mark of this sandbox: look at 'uuid' and 'path' in its sandbox.toml",
            file.display()
        ))),
    }
}

/// Marks a tree of another program as that of the sandbox `uuid`, and closes it to all but root.
///
/// # Errors
/// The tree belongs to another sandbox, or cannot be written.
pub fn adopt(path: &Path, uuid: Uuid) -> Result<()> {
    if path.join(MARK).exists() {
        return must_be_of(path, uuid);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(Error::io("changing the mode of", path))?;
    let mark = Mark {
        uuid,
        made: Some(path.to_owned()),
    };
    let text = serde_json::to_vec(&mark).map_err(Error::step("marking the tree"))?;
    atomic::write(&path.join(MARK), &text, 0o600)?;
    Ok(())
}

/// Removes the tree at `path` if it belongs to the sandbox `uuid`, and the parents created for it. A missing tree is no error.
///
/// # Errors
/// The tree belongs to another sandbox, or something is mounted in it; nothing is removed then.
pub fn remove(path: &Path, uuid: Uuid) -> Result<()> {
    let Some(mark) = removable(path, uuid)? else {
        return remove_unmarked(path);
    };
    // Remove the mark last, so that an interrupted removal can be finished.
    for entry in fs::read_dir(path)
        .map_err(Error::io("reading", path))?
        .flatten()
    {
        if entry.file_name() == MARK {
            continue;
        }
        let inside = entry.path();
        remove::any(&inside).map_err(Error::io("removing", &inside))?;
    }
    let file = path.join(MARK);
    remove::file(&file).map_err(Error::io("removing", &file))?;
    for dir in path
        .ancestors()
        .take_while(|dir| mark.made.as_ref().is_some_and(|made| dir.starts_with(made)))
    {
        match fs::remove_dir(dir) {
            // Others use a parent by now.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && dir != path => break,
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("removing", dir)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes a top that was not marked yet, or not any more.
fn remove_unmarked(path: &Path) -> Result<()> {
    sweep(path)?;
    match fs::remove_dir(path) {
        // An empty filesystem was mounted there before.
        Err(error) if ![ErrorKind::NotFound, ErrorKind::ResourceBusy].contains(&error.kind()) => {
            Err(Error::io("removing", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes temporary files that a killed command has left at the top of a tree and in its `/etc`. The sandbox must not run.
///
/// # Errors
/// A directory cannot be read, or a file cannot be removed.
pub fn sweep(path: &Path) -> Result<()> {
    reach::check_tops(path)?;
    for dir in [path, &path.join("etc")] {
        for file in atomic::abandoned(dir).map_err(Error::io("reading", dir))? {
            remove::file(&file).map_err(Error::io("removing", &file))?;
        }
    }
    Ok(())
}

/// Checks that the tree of a sandbox that is to be deleted is there.
///
/// # Errors
/// There is nothing at `path`, or an empty directory: the filesystem of the tree may not be mounted.
pub fn check_presence(path: &Path) -> Result<()> {
    match path.join(MARK).exists() || !is_empty(path) {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "nothing is at '{}', where the sandbox's files are: mount their filesystem first, or delete the sandbox without them \
             with --force",
            path.display()
        ))),
    }
}

/// Checks that [`remove`] would not refuse the tree at `path`.
///
/// # Errors
/// The tree belongs to another sandbox than `uuid`, or something is mounted in it.
pub fn check_removal(path: &Path, uuid: Uuid) -> Result<()> {
    removable(path, uuid).map(drop)
}

/// Returns the mark of a tree that may be removed, or `None` if there is no tree.
fn removable(path: &Path, uuid: Uuid) -> Result<Option<Mark>> {
    let mark = match fs::read(path.join(MARK)) {
        Ok(text) => serde_json::from_slice::<Mark>(&text).ok(),
        // A tree without a mark has no content yet either.
        Err(error) if error.kind() == ErrorKind::NotFound && is_empty(path) => return Ok(None),
        Err(_) => None,
    };
    let Some(mark) = mark.filter(|mark| mark.uuid == uuid) else {
        return Err(Error::refused(format!(
            "'{}' has no mark of this sandbox, so it is not removed; look at 'path' and 'uuid' in its sandbox.toml, or remove it by hand",
            path.display()
        )));
    };
    if let Some(mount_point) = mount_point_below(path)? {
        return Err(Error::refused(format!(
            "'{}' is mounted in the sandbox's tree; unmount it first",
            mount_point.display()
        )));
    }
    Ok(Some(mark))
}

/// Returns true if the tree at `path` belongs to the sandbox `uuid`.
#[must_use]
pub fn is_of(path: &Path, uuid: Uuid) -> bool {
    let mark = fs::read(path.join(MARK)).ok();
    mark.and_then(|text| serde_json::from_slice::<Mark>(&text).ok())
        .is_some_and(|mark| mark.uuid == uuid)
}

/// Renames the tree of the sandbox `uuid` from `from` to `to` in the same directory. An already renamed tree is no error.
///
/// # Errors
/// Something else is at `to`, or the tree belongs to another sandbox.
pub fn rename(from: &Path, to: &Path, uuid: Uuid) -> Result<()> {
    let renaming = Error::io("renaming", from);
    match fs::symlink_metadata(from) {
        Ok(_) if from != to => rename::no_replace(from, to).map_err(renaming)?,
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(renaming(error)),
        Ok(_) | Err(_) => {}
    }
    sweep(to)?;
    let file = to.join(MARK);
    let text = fs::read(&file).map_err(Error::io("reading", &file))?;
    let reading = Error::step(format!("reading '{}'", file.display()));
    let mut mark: Mark = serde_json::from_slice(&text).map_err(reading)?;
    if mark.uuid != uuid {
        return Err(Error::refused(format!(
            "'{}' is the tree of another sandbox",
            to.display()
        )));
    }
    if mark.made.as_deref() == Some(from) {
        mark.made = Some(to.to_owned());
        write(to, &mark)?;
    }
    Ok(())
}

/// Checks that the image of a new tree can be created.
///
/// # Errors
/// Something is there already.
pub fn check_image(config: &SandboxConfig) -> Result<()> {
    match config.image_file() {
        Some(file) if file.symlink_metadata().is_ok() => Err(Error::exists(format!(
            "'{}', where the image would go, is there already; move it away, or choose another place with --path",
            file.display()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Removes the image of the tree at `path` if the tree belongs to the sandbox `uuid`. A missing image is no error.
///
/// # Errors
/// The image cannot be removed.
pub fn remove_image(path: &Path, image: &Path, uuid: Uuid) -> Result<()> {
    if !is_of(path, uuid) {
        return Ok(());
    }
    remove::file(image).map_err(Error::io("removing", image))
}

/// Renames an image. An already renamed image is no error.
///
/// # Errors
/// Something else has the new name.
pub fn rename_image(from: &Path, to: &Path) -> Result<()> {
    match fs::symlink_metadata(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) if from == to => Ok(()),
        Ok(_) | Err(_) => rename::no_replace(from, to).map_err(Error::io("renaming", from)),
    }
}

fn write(tree: &Path, mark: &Mark) -> Result<()> {
    let text = serde_json::to_vec(mark).map_err(Error::step("marking the tree"))?;
    atomic::write(&tree.join(MARK), &text, 0o600)?;
    Ok(())
}

/// Returns true if the path is missing, or a directory that is empty or was being marked by a killed command.
fn is_empty(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .all(|entry| atomic::is_abandoned(&entry.file_name())),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

fn mount_point_below(path: &Path) -> Result<Option<PathBuf>> {
    let path = fs::canonicalize(path).map_err(Error::io("finding", path))?;
    Ok(host::mount_points()?
        .into_iter()
        .find(|mount_point| mount_point.starts_with(&path) && *mount_point != path))
}

#[cfg(test)]
mod tests;
