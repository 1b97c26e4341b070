//! Snapshots of a sandbox whose tree is in an image.
//!
//! A snapshot is a directory in the place of the tree, which root alone enters and the sandbox never sees: a copy of the image, which
//! shares its blocks where the host's filesystem can, and of the configuration and the records that go with it. So it is renamed and
//! removed with its sandbox, and needs no other file.
//!
//! What takes time is done in a place of work beside the snapshots, under a note; then one rename decides. What was cut short before that is
//! undone by the next command, and what was cut short after it is finished: each step that is left may have been done already.

mod places;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::{Hostname, SandboxConfig, SandboxName, SnapshotName, TreeImage};
use crate::error::{Error, Result};
use crate::service::image;
use crate::service::provision::create::check_mounts;
use crate::service::provision::freeze::FreezeGuard;
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::service::store::remove_tree;
use crate::sys::file::atomic;
use crate::sys::file::lock::Lock;
use crate::sys::text::timestamp;

use places::{BASE, CONFIG, FACTS, IMAGE, MANIFEST, Places, claimed, create, prepare, sync};

/// Name of the note in the sandbox's directory.
const NOTE: &str = "snapshot.json";

/// A snapshot of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// What is known of it.
    #[serde(flatten)]
    pub facts: Facts,
    /// Bytes that its image takes, with those that it shares.
    pub bytes: u64,
}

/// What is recorded of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Facts {
    /// When it was made, in seconds since the beginning of 1970.
    pub created: u64,
    /// Whether the sandbox ran: then it has what a power cut would have left.
    pub running: bool,
}

/// What is left to do should a command not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum Pending {
    /// The place of work is emptied.
    Discard,
    /// The image in the place of work becomes the sandbox's, and all that follows from it is done.
    Revert {
        /// The snapshot.
        snapshot: SnapshotName,
        /// Its configuration.
        old: Box<SandboxConfig>,
        /// The sandbox as it will be.
        new: Box<SandboxConfig>,
    },
}

impl Snapshot {
    /// When it was made, in UTC.
    #[must_use]
    pub fn time(&self) -> String {
        timestamp::utc(self.facts.created)
    }

    /// A name for one that is made now.
    ///
    /// # Errors
    /// None: a point in time in digits is a name.
    pub fn name_of_now() -> Result<SnapshotName> {
        let digits = timestamp::utc(now()).replace([':', ' '], "-");
        digits.parse().map_err(Error::step("naming a snapshot"))
    }
}

impl Sandbox<'_> {
    /// Returns the snapshots of the sandbox, the oldest first.
    ///
    /// # Errors
    /// Where one of them cannot be read.
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

    /// Says that a copy of the sandbox comes without its snapshots.
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
    /// Makes a snapshot. A sandbox that runs is frozen meanwhile. If that is cancelled, everything is undone.
    ///
    /// # Errors
    /// Where the tree is in no image, there is such a snapshot, the sandbox runs and cannot be frozen, or there is no room. Nothing
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
        self.note_pending(&Pending::Discard)?;
        let made = self.fill_snapshot(image, &places);
        let made = made.and_then(|()| {
            fs::rename(places.work(), &path).map_err(Error::io("making", &path))?;
            places.sync()
        });
        places.clear();
        self.drop_pending()?;
        made
    }

    /// Writes all of a snapshot into the place of work.
    fn fill_snapshot(&self, image: TreeImage, places: &Places) -> Result<()> {
        let (name, config, store) = (self.name(), self.config(), self.store());
        let work = places.begin()?;
        let file = work.join(IMAGE);
        let to = create(&file)?;
        let guard = FreezeGuard::new(self, "making a snapshot of")?;
        let running = guard.is_active();
        if running && !self.driver()?.has_own_kernel() {
            // What runs on the host's kernel leaves its writing to that.
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

    /// Makes a sandbox that is stopped what it was at a snapshot: its tree, its configuration and the records. What was since is gone.
    /// Once it has begun, the next command finishes it.
    ///
    /// # Errors
    /// Where there is no such snapshot, the sandbox runs, what its configuration was cannot be any more, or there is no room. Nothing is
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
        self.note_pending(&Pending::Discard)?;
        let pending = Pending::Revert {
            snapshot: snapshot.clone(),
            old: Box::new(old),
            new: Box::new(self.replace_config(current)),
        };
        let cancelled = || self.host().is_cancelled();
        let prepared =
            prepare(&places, &path, &cancelled).and_then(|()| self.note_pending(&pending));
        if let Err(error) = prepared {
            places.clear();
            self.drop_pending()?;
            return Err(error);
        }
        self.resolve(pending)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// Where there is none. Once it has begun, the next command finishes it.
    pub fn delete_snapshot(&self, snapshot: &SnapshotName) -> Result<()> {
        self.check_tree()?;
        let places = Places::of(self.config());
        let path = places.existing(self.name(), snapshot)?;
        self.note_pending(&Pending::Discard)?;
        remove_tree(&places.work());
        fs::rename(&path, places.work()).map_err(Error::io("removing", &path))?;
        places.clear();
        self.drop_pending()
    }

    /// Does what is left to do.
    fn resolve(&mut self, pending: Pending) -> Result<()> {
        match pending {
            Pending::Discard => Places::of(self.config()).clear(),
            Pending::Revert { snapshot, old, new } => {
                let places = Places::of(&new);
                self.replace_config(*new);
                self.finish_revert(&places, &snapshot, &old)?;
                places.clear();
            }
        }
        self.drop_pending()
    }

    /// Makes the sandbox what its new configuration says, which was `old` in the snapshot. Each step may have been done before.
    fn finish_revert(
        &self,
        places: &Places,
        snapshot: &SnapshotName,
        old: &SandboxConfig,
    ) -> Result<()> {
        let (name, new, store) = (self.name(), self.config(), self.store());
        let (work, file) = (places.work().join(IMAGE), image_of(new)?.file(&new.path));
        if work.exists() {
            // Whoever has the old one open would go on with that.
            let _claimed = claimed(&file, name)?;
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
            // As it was written, comments and all.
            let from = path.join(CONFIG);
            let text = fs::read(&from).map_err(Error::io("reading", &from))?;
            atomic::write(&store.config(name), &text, 0o600)?;
        } else {
            new.save(&store.config(name))?;
        }
        self.render()
    }

    fn note_pending(&self, pending: &Pending) -> Result<()> {
        let text = serde_json::to_vec(pending).map_err(Error::step("noting a snapshot"))?;
        atomic::write(&self.store().dir(self.name()).join(NOTE), &text, 0o600)?;
        Ok(())
    }

    fn drop_pending(&self) -> Result<()> {
        let note = self.store().dir(self.name()).join(NOTE);
        fs::remove_file(&note).map_err(Error::io("removing", &note))
    }
}

impl Sandboxes {
    /// Undoes or finishes what killed commands have begun.
    ///
    /// # Errors
    /// Where the sandboxes cannot be listed.
    pub(super) fn resolve_snapshots(&self) -> Result<()> {
        for (name, lock) in self.store.abandoned(NOTE)? {
            if let Err(error) = self.resolve_interrupted(&name, lock) {
                log::warn!("resolving the snapshot command of '{name}': {error}");
            }
        }
        Ok(())
    }

    fn resolve_interrupted(&self, name: &SandboxName, lock: Lock) -> Result<()> {
        let note = self.store.dir(name).join(NOTE);
        let text = fs::read(&note).map_err(Error::io("reading", &note))?;
        let pending: Pending = serde_json::from_slice(&text)
            .map_err(Error::step(format!("reading '{}'", note.display())))?;
        log::info!("resolving the interrupted snapshot command of '{name}'");
        let mut sandbox = self.get(name)?.locked_by(lock);
        sandbox.check_tree()?;
        sandbox.resolve(pending)
    }
}

/// The sandbox as it was at a snapshot, under the name that it has now.
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
