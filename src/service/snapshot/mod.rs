//! Snapshots of a sandbox whose tree is in an image.
//!
//! A snapshot is a directory in the place of the tree, which only root can enter and the sandbox never sees. It holds a copy of the image, which
//! shares blocks if the host's filesystem can, and of the configuration and the records. So it is renamed and
//! removed with its sandbox, and needs no other file.
//!
//! Slow steps happen in a work directory beside the snapshots, after the intent was written; one rename is the commit point. An operation interrupted before it is
//! undone by the next command; one interrupted after it is finished, and every remaining step may be repeated.

mod places;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::{Hostname, SandboxConfig, SnapshotName, TreeImage};
use crate::error::{Error, Result};
use crate::service::image;
use crate::service::journal::{Intent, Kind, SnapshotIntent};
use crate::service::provision::create::check_mounts;
use crate::service::provision::freeze::FreezeGuard;
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::sys::fault;
use crate::sys::file::atomic;
use crate::sys::text::timestamp;

use places::{BASE, CONFIG, FACTS, IMAGE, MANIFEST, Places, claimed, create, prepare, sync};

/// A snapshot of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Name.
    pub name: SnapshotName,
    /// Facts.
    #[serde(flatten)]
    pub facts: Facts,
    /// Size of its image on disk in bytes, shared blocks included.
    pub bytes: u64,
}

/// Recorded facts of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Facts {
    /// Time of creation, in seconds since the epoch.
    pub created: u64,
    /// True if the sandbox was running: then the snapshot equals the state after a power cut.
    pub running: bool,
}

impl Snapshot {
    /// Returns the time of creation in UTC.
    #[must_use]
    pub fn time(&self) -> String {
        timestamp::utc(self.facts.created)
    }

    /// Returns a name for a new snapshot, made of the present time.
    ///
    /// # Errors
    /// None in practice: a time in digits is a valid name.
    pub fn name_of_now() -> Result<SnapshotName> {
        let digits = timestamp::utc(now()).replace([':', ' '], "-");
        digits.parse().map_err(Error::step("naming a snapshot"))
    }
}

impl Sandbox<'_> {
    /// Returns the snapshots of the sandbox, the oldest first.
    ///
    /// # Errors
    /// A snapshot cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let places = Places::of(self.config());
        let names = places.names()?.into_iter();
        let mut snapshots: Vec<Snapshot> =
            names.map(|name| places.read(name)).collect::<Result<_>>()?;
        snapshots.sort_by(|one, other| {
            let key = |snapshot: &Snapshot| (snapshot.facts.created, snapshot.name.clone());
            key(one).cmp(&key(other))
        });
        Ok(snapshots)
    }

    /// Warns that a copy of the sandbox has no snapshots.
    pub(super) fn warn_of_snapshots(&self) {
        let count = Places::of(self.config())
            .names()
            .map_or(0, |names| names.len());
        if count > 0 {
            log::info!(
                "the copy is of '{}' as it is now, without its {count} snapshots",
                self.name()
            );
        }
    }
}

impl LockedSandbox<'_> {
    /// Makes a snapshot. A running sandbox is frozen meanwhile. Cancellation undoes everything.
    ///
    /// # Errors
    /// The tree is not in an image, the snapshot exists, the sandbox runs and cannot be frozen, or there is no space. Nothing
    /// is left then.
    pub fn create_snapshot(&self, snapshot: &SnapshotName) -> Result<()> {
        self.check_tree()?;
        let image = image_of(self.config())?;
        self.check_not_upgrading()?;
        let name = self.name();
        let places = Places::of(self.config());
        let path = places.snapshot(snapshot);
        if path.symlink_metadata().is_ok() {
            return Err(Error::exists(format!(
                "'{name}' has a snapshot '{snapshot}' already; choose another name, or remove it with \
                 'virt-sandbox-service snapshot delete {name} {snapshot}'"
            )));
        }
        self.begin(SnapshotIntent::Discard)?;
        let made = self.fill_snapshot(image, &places);
        let made = made.and_then(|()| {
            fault::point().map_err(Error::io("making", &path))?;
            fs::rename(places.work(), &path).map_err(Error::io("making", &path))?;
            places.sync()
        });
        Error::of_all([made, self.discard(&places)])
    }

    /// Removes work files, and then the intent.
    fn discard(&self, places: &Places) -> Result<()> {
        places.clear()?;
        self.store().end(self.name(), Kind::Snapshot)
    }

    /// Writes a complete snapshot into the work directory.
    fn fill_snapshot(&self, image: TreeImage, places: &Places) -> Result<()> {
        let (name, config, store) = (self.name(), self.config(), self.store());
        let work = places.begin()?;
        let file = work.join(IMAGE);
        let to = create(&file)?;
        let guard = FreezeGuard::new(self, "making a snapshot of")?;
        let running = guard.is_active();
        if running && !self.driver()?.has_own_kernel() {
            // A container's writes are in the host's page cache: sync them.
            self.tree()?.sync()?;
        }
        image::copy_to(config, image, &to, &|| self.host().is_cancelled())?;
        let created = now();
        drop(guard);
        to.sync_all().map_err(Error::io("writing", &file))?;
        for (from, file) in [
            (store.config(name), CONFIG),
            (store.manifest(name), MANIFEST),
            (store.base(name), BASE),
        ] {
            let text = fs::read(&from).map_err(Error::io("reading", &from))?;
            atomic::write(&work.join(file), &text, 0o600)?;
        }
        let facts = serde_json::to_vec(&Facts { created, running })
            .map_err(Error::step("recording a snapshot"))?;
        atomic::write(&work.join(FACTS), &facts, 0o600)?;
        Ok(())
    }

    /// Reverts a stopped sandbox to a snapshot: tree, configuration and records. Later changes are lost.
    /// After an interruption, the next command finishes it.
    ///
    /// # Errors
    /// There is no such snapshot, the sandbox runs, the old configuration is not possible any more, or there is no space. Nothing is
    /// changed then.
    pub fn revert(mut self, snapshot: &SnapshotName) -> Result<()> {
        self.check_tree()?;
        let image = image_of(self.config())?;
        self.check_not_upgrading()?;
        let places = Places::of(self.config());
        let path = places.existing(self.name(), snapshot)?;
        self.check_stopped()?;
        let old = SandboxConfig::load(&path.join(CONFIG))?;
        let file = image.file(&self.config().path);
        let current = self.replace_config(reverted(&old, self.config()));
        self.driver()?.check(self.config())?;
        check_mounts(&self.config().mounts)?;
        self.check_networks()?;
        drop(claimed(&file, self.name())?);
        self.begin(SnapshotIntent::Discard)?;
        let pending = SnapshotIntent::Revert {
            snapshot: snapshot.clone(),
            old: Box::new(old),
            new: Box::new(self.replace_config(current)),
        };
        let cancelled = || self.host().is_cancelled();
        let prepared =
            prepare(&places, &path, &cancelled).and_then(|()| self.begin(pending.clone()));
        if let Err(error) = prepared {
            return Error::of_all([Err(error), self.discard(&places)]);
        }
        self.resolve(pending)
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// There is no such snapshot. After an interruption, the next command finishes the deletion.
    pub fn delete_snapshot(&self, snapshot: &SnapshotName) -> Result<()> {
        self.check_tree()?;
        let places = Places::of(self.config());
        let path = places.existing(self.name(), snapshot)?;
        self.begin(SnapshotIntent::Discard)?;
        let removed = places.clear().and_then(|()| {
            fault::point().map_err(Error::io("removing", &path))?;
            fs::rename(&path, places.work()).map_err(Error::io("removing", &path))?;
            places.sync()
        });
        Error::of_all([removed, self.discard(&places)])
    }

    /// Does the remaining work.
    pub(super) fn resolve(&mut self, pending: SnapshotIntent) -> Result<()> {
        if let SnapshotIntent::Revert { snapshot, old, new } = pending {
            self.replace_config(*new);
            self.finish_revert(&Places::of(self.config()), &snapshot, &old)?;
        }
        self.discard(&Places::of(self.config()))
    }

    /// Makes the sandbox match its new configuration, which was `old` in the snapshot. Every step may be repeated.
    fn finish_revert(
        &self,
        places: &Places,
        snapshot: &SnapshotName,
        old: &SandboxConfig,
    ) -> Result<()> {
        let (name, new, store) = (self.name(), self.config(), self.store());
        let (work, file) = (places.work().join(IMAGE), image_of(new)?.file(&new.path));
        if work.exists() {
            // A process with the old image open would go on using it.
            let _claimed = claimed(&file, name)?;
            fault::point().map_err(Error::io("replacing", &file))?;
            fs::rename(&work, &file).map_err(Error::io("replacing", &file))?;
        }
        sync(file.parent().unwrap_or(Path::new("/")))?;
        let path = places.snapshot(snapshot);
        for (file, to) in [(MANIFEST, store.manifest(name)), (BASE, store.base(name))] {
            let from = path.join(file);
            let text = fs::read(&from).map_err(Error::io("reading", &from))?;
            atomic::write(&to, &text, 0o600)?;
        }
        if old.hostname != new.hostname {
            self.renew_tree(old)?;
        }
        if old == new {
            // Copy it verbatim, comments included.
            let from = path.join(CONFIG);
            let text = fs::read(&from).map_err(Error::io("reading", &from))?;
            atomic::write(&store.config(name), &text, 0o600)?;
        } else {
            new.save(&store.config(name))?;
        }
        self.render()
    }

    fn begin(&self, intent: SnapshotIntent) -> Result<()> {
        self.store().begin(self.name(), Intent::Snapshot(intent))
    }
}

/// Returns the configuration in a snapshot, with the sandbox's present name.
fn reverted(snapshot: &SandboxConfig, current: &SandboxConfig) -> SandboxConfig {
    let own_name = snapshot.hostname == Hostname::of(&snapshot.name).as_str();
    let hostname = match own_name && snapshot.name != current.name {
        true => Hostname::of(&current.name).to_string(),
        false => snapshot.hostname.clone(),
    };
    SandboxConfig {
        name: current.name.clone(),
        path: current.path.clone(),
        connection: current.connection.clone(),
        hostname,
        ..snapshot.clone()
    }
}

fn image_of(config: &SandboxConfig) -> Result<TreeImage> {
    config.image.ok_or_else(|| {
        Error::refused(format!(
            "the tree of '{}' is a directory, and snapshots are of images; clone it instead, or make another sandbox with 'create -i SIZE'",
            config.name
        ))
    })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revert_keeps_the_name_that_a_sandbox_has_now() {
        let snapshot = SandboxConfig {
            timeout: 7,
            ..SandboxConfig::example()
        };
        let current = SandboxConfig::example();
        assert_eq!(reverted(&snapshot, &current), snapshot);
        let renamed = SandboxConfig {
            name: "db_1".parse().unwrap(),
            path: "/srv/db_1".into(),
            ..current
        };
        let new = reverted(&snapshot, &renamed);
        assert_eq!((new.timeout, new.hostname.as_str()), (7, "db-1"));
        assert_eq!((&new.name, &new.path), (&renamed.name, &renamed.path));
        let named = SandboxConfig {
            hostname: "www".to_owned(),
            ..snapshot
        };
        assert_eq!(reverted(&named, &renamed).hostname, "www");
    }

    #[test]
    fn the_time_is_a_name() {
        assert_eq!(Snapshot::name_of_now().unwrap().as_str().len(), 19);
    }
}
