//! Place of the root during the boot.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::overlay::Scratch;
use super::path::{LastLink, below, fd_path, locate, open_directory};
use crate::config::{IdMap, Source};
use crate::{NEW_ROOT, STAGED_MOUNTS};

/// The root of the sandbox as it is assembled, and the staging root it is assembled from.
#[derive(Debug)]
pub struct Place {
    pub(super) root: PathBuf,
    /// The staging root, until it is released.
    pub(super) stage: Option<OwnedFd>,
    /// Upper layers of overlays, once there is a new root.
    pub(super) scratch: Option<Scratch>,
    /// Maps the owners of files.
    pub(super) mapping: Option<Mapping>,
}

/// A user namespace and what it maps.
#[derive(Debug)]
pub struct Mapping {
    /// Open user namespace.
    pub namespace: fs::File,
    /// Ids that the namespace maps.
    pub ids: IdMap,
}

impl Place {
    /// Begins a new root in the staging root `stage`, which is `/` outside of tests.
    pub fn assembling(stage: &Path) -> Result<Self> {
        Ok(Self {
            root: below(stage, Path::new(NEW_ROOT)),
            stage: Some(open_directory(stage)?),
            scratch: None,
            mapping: None,
        })
    }

    /// Maps the owners of everything that is mounted and copied from now on.
    pub fn map_owners(&mut self, mapping: Mapping) {
        self.mapping = Some(mapping);
    }

    /// Returns the directory that is or becomes the root of the sandbox.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of a file in the staging root.
    pub(super) fn staged(&self, path: &Path) -> Result<PathBuf> {
        match &self.stage {
            // A path through an open directory does not depend on the current root.
            Some(stage) => Ok(below(&fd_path(stage), path)),
            None => bail!("looking for '{}': the staging root is gone", path.display()),
        }
    }

    /// Returns the path of the source of a mount.
    pub(super) fn resolve(&self, source: &Source) -> Result<PathBuf> {
        match source {
            Source::Sandbox(path) => locate(&self.root, path, LastLink::Follow),
            Source::Stage(path) => {
                self.refuse_links(path)?;
                self.staged(path)
            }
        }
    }

    /// Fails if a path in the staging root contains a link, which could lead out of a tree that another user has made. Nobody changes
    /// the top of a tree meanwhile. The source of a mount of a single file may be reached by links in its directory.
    fn refuse_links(&self, path: &Path) -> Result<()> {
        if path.starts_with(STAGED_MOUNTS) {
            return Ok(());
        }
        let inside = path.strip_prefix("/").unwrap_or(path);
        for above in inside.ancestors().filter(|above| above.parent().is_some()) {
            let is_link = fs::symlink_metadata(self.staged(above)?)
                .with_context(|| format!("its source '/{}'", above.display()))?
                .is_symlink();
            if is_link {
                bail!("its source '/{}' is a symbolic link", above.display());
            }
        }
        Ok(())
    }

    pub(super) fn ids(&self) -> Option<IdMap> {
        self.mapping.as_ref().map(|mapping| mapping.ids)
    }

    pub(super) fn scratch(&self) -> Result<&Scratch> {
        self.scratch.as_ref().context("there is no new root yet")
    }
}
