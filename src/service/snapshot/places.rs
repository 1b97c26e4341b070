//! Directories of a sandbox's snapshots, and the work directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::{SandboxConfig, SandboxName, SnapshotName};
use crate::error::{Error, Result};
use crate::service::snapshot::Snapshot;
use crate::sys::copy;
use crate::sys::file::remove;
use crate::sys::image::image_lock;
use crate::tree::place;

/// Name of the work directory; the name of a snapshot cannot begin with a dot.
const WORK: &str = ".work";

/// Files of a snapshot.
pub(super) const IMAGE: &str = "image";
pub(super) const CONFIG: &str = "sandbox.toml";
pub(super) const MANIFEST: &str = "manifest";
pub(super) const BASE: &str = "base.json";
pub(super) const FACTS: &str = "snapshot.json";

/// Directories of one sandbox's snapshots.
pub(super) struct Places {
    top: PathBuf,
}

impl Places {
    pub(super) fn of(config: &SandboxConfig) -> Self {
        let top = place::snapshots_of(&config.path);
        Self { top }
    }

    pub(super) fn snapshot(&self, name: &SnapshotName) -> PathBuf {
        self.top.join(name.as_str())
    }

    pub(super) fn work(&self) -> PathBuf {
        self.top.join(WORK)
    }

    /// Syncs the directory of snapshots.
    pub(super) fn sync(&self) -> Result<()> {
        sync(&self.top)
    }

    /// Creates an empty work directory.
    pub(super) fn begin(&self) -> Result<PathBuf> {
        let work = self.work();
        self.clear()?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&work)
            .map_err(Error::io("creating", &work))?;
        Ok(work)
    }

    /// Removes the work directory, and the directory of snapshots if it is empty.
    pub(super) fn clear(&self) -> Result<()> {
        let work = self.work();
        remove::any(&work).map_err(Error::io("removing", &work))?;
        let _ = fs::remove_dir(&self.top);
        Ok(())
    }

    /// Returns the existing snapshot `name`.
    pub(super) fn existing(&self, sandbox: &SandboxName, name: &SnapshotName) -> Result<PathBuf> {
        let path = self.snapshot(name);
        if path.is_dir() {
            return Ok(path);
        }
        let names: Vec<String> = self.names()?.iter().map(ToString::to_string).collect();
        Err(Error::not_found(format!(
            "'{sandbox}' has no snapshot '{name}'; {}",
            match names.as_slice() {
                [] => "it has none".to_owned(),
                names => format!("it has {}", names.join(", ")),
            }
        )))
    }

    pub(super) fn names(&self) -> Result<Vec<SnapshotName>> {
        match fs::read_dir(&self.top) {
            Ok(entries) => Ok(entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(Error::io("reading", &self.top)(error)),
        }
    }

    pub(super) fn read(&self, name: SnapshotName) -> Result<Snapshot> {
        let path = self.snapshot(&name);
        let facts = path.join(FACTS);
        let text = fs::read(&facts).map_err(Error::io("reading", &facts))?;
        let reading = Error::step(format!("reading '{}'", facts.display()));
        let image = path.join(IMAGE);
        let metadata = fs::metadata(&image).map_err(Error::io("looking at", &image))?;
        Ok(Snapshot {
            name,
            facts: serde_json::from_slice(&text).map_err(reading)?,
            bytes: metadata.blocks() * 512,
        })
    }
}

/// Copies the image of a snapshot into the work directory.
pub(super) fn prepare(
    places: &Places,
    snapshot: &Path,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let path = snapshot.join(IMAGE);
    let copying = || Error::io("copying", &path);
    let from = File::open(&path).map_err(copying())?;
    let to = create(&places.begin()?.join(IMAGE))?;
    copy::content(&from, &to, cancelled).map_err(copying())?;
    to.sync_all().map_err(copying())
}

/// Opens the image and locks it against all other users.
pub(super) fn claimed(file: &Path, name: &SandboxName) -> Result<File> {
    let open = OpenOptions::new().read(true).write(true).open(file);
    let open = open.map_err(Error::io("opening", file))?;
    image_lock::acquire(&open).map_err(|error| {
        Error::busy(format!(
            "'{}' is in use ({error}); end what reads it, such as 'logs --follow {name}'",
            file.display()
        ))
    })?;
    Ok(open)
}

pub(super) fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(Error::io("creating", path))
}

/// Syncs a directory.
pub(super) fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|open| open.sync_all())
        .map_err(Error::io("writing", directory))
}
