//! The one walk through a tree that others may write to: copies, archives, manifests and plans are made along it.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::{Object, Result, Root};

/// An object that a walk has come to, opened once.
#[derive(Debug)]
pub struct Found {
    /// Path of the object, seen from inside the root.
    pub path: PathBuf,
    /// The object; a symlink is one itself.
    pub object: Object,
    /// Metadata of the object.
    pub metadata: Metadata,
}

impl Root {
    /// Walks through all that is at and below `top`, parents before what they hold, sorted by name. No link is followed, and what
    /// vanishes meanwhile is no error. Nothing at or below a path of which `is_out` is true is looked at.
    pub fn walk<'r>(
        &'r self,
        top: &Path,
        is_out: impl Fn(&Path) -> bool + 'r,
    ) -> impl Iterator<Item = Result<Found>> + 'r {
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

    /// Returns the object at a path, and the paths in it, the first last.
    fn find(&self, path: PathBuf) -> Result<(Found, Vec<PathBuf>)> {
        let object = self.object(&path)?;
        let metadata = object.metadata()?;
        let names = match metadata.is_dir() {
            true => object.names()?,
            false => vec![],
        };
        let inside = names.iter().rev().map(|name| path.join(name)).collect();
        Ok((
            Found {
                path,
                object,
                metadata,
            },
            inside,
        ))
    }
}
