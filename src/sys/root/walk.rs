//! Walk through a tree that others may write to: the base of copies, archives, manifests and plans.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::{Object, Result, Root};

/// Object that a walk has opened.
#[derive(Debug)]
pub struct WalkEntry {
    /// Path of the object, seen from inside the root.
    pub path: PathBuf,
    /// Object; a symlink is not followed.
    pub object: Object,
    /// Metadata of the object.
    pub metadata: Metadata,
}

impl Root {
    /// Walks through `top` and everything below it: parents before their entries, sorted by name. No
    /// symlink is followed, and objects that vanish meanwhile are skipped. Paths for which `is_out` is
    /// true are excluded with everything below them.
    pub fn walk<'r>(
        &'r self,
        top: &Path,
        is_out: impl Fn(&Path) -> bool + 'r,
    ) -> impl Iterator<Item = Result<WalkEntry>> + 'r {
        let mut rest = vec![Path::new("/").join(top)];
        std::iter::from_fn(move || {
            loop {
                let path = rest.pop()?;
                if is_out(&path) {
                    continue;
                }
                match self.find(path) {
                    Ok((found, names)) => {
                        rest.extend(names);
                        return Some(Ok(found));
                    }
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Returns the object at a path, and the paths of its entries in reverse order.
    fn find(&self, path: PathBuf) -> Result<(WalkEntry, Vec<PathBuf>)> {
        let object = self.object(&path)?;
        let metadata = object.metadata()?;
        let names = match metadata.is_dir() {
            true => object.names()?,
            false => vec![],
        };
        let inside = names.iter().rev().map(|name| path.join(name)).collect();
        Ok((
            WalkEntry {
                path,
                object,
                metadata,
            },
            inside,
        ))
    }
}
