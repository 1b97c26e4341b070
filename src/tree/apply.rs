//! Creation of a planned tree.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::copy::{Copier, Existing, Report};
use crate::sys::root::Root;
use crate::tree::{Class, TreePlan};

/// Creates the tree of `plan` in the empty directory `tree`, from the host below `root`, until `interrupted` returns true.
///
/// # Errors
/// The host's files cannot be read or the tree cannot be written; a full disk is named as such. The caller removes
/// the partial tree.
pub fn apply(
    plan: &TreePlan,
    root: &Path,
    tree: &Path,
    interrupted: &dyn Fn() -> bool,
) -> Result<Report> {
    let source = Root::of_host(root)?;
    let destination = Root::new(tree)?;
    let mut copier = Copier::new(&source, &destination, Existing::Replace).stop_when(interrupted);
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
                if let Ok(metadata) = source.metadata(path) {
                    let made = destination.plain_object(path)?;
                    made.set_attributes(*mode, metadata.uid(), metadata.gid())?;
                }
            }
            Class::Linked(target) => destination.symlink(target, path)?,
            Class::LeftOut | Class::Shared => {}
        }
    }
    Ok(copier.finish()?)
}
