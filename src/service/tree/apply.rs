//! Making the tree that was planned.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::service::discover::below;
use crate::service::tree::{Class, TreePlan};
use crate::sys::copy::{Copier, Existing, Report};
use crate::sys::root::Root;

/// Makes the tree of `plan` in the empty directory `tree`, from the host below `root`, unless `interrupted` says to stop.
///
/// # Errors
/// Where the host's files cannot be read or the tree cannot be written; a full disk is named as such. What was made until
/// then is left for the caller to remove.
pub fn apply(
    plan: &TreePlan,
    root: &Path,
    tree: &Path,
    interrupted: &dyn Fn() -> bool,
) -> Result<Report> {
    let source = Root::new(root)?;
    let destination = Root::new(tree)?;
    let mut copier = Copier::new(&source, &destination, Existing::Replace).until(interrupted);
    for (path, entry) in &plan.entries {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        match &entry.class {
            Class::Copied | Class::Empty => {
                copier.copy_object(path, path)?;
            }
            Class::CopiedFrom(from) => {
                copier.copy_object(from, path)?;
            }
            Class::Made { mode, uid, gid } => {
                destination.create_dir_all(path, *mode, *uid, *gid)?
            }
            Class::Written { content, mode } => {
                destination.write_atomic(path, content.as_bytes(), *mode)?;
                if let Ok(metadata) = fs::metadata(below(root, path)) {
                    destination.chown(path, metadata.uid(), metadata.gid())?;
                    // chown(2) may clear bits, and the group of shadow(5) has to be able to read it.
                    let made = destination.host_path(path);
                    fs::set_permissions(&made, fs::Permissions::from_mode(*mode))
                        .map_err(Error::io("writing", &made))?;
                }
            }
            Class::Linked(target) => destination.symlink(target, path)?,
            Class::LeftOut | Class::Shared => {}
        }
    }
    Ok(copier.finish()?)
}
