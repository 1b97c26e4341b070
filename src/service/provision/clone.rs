//! Clone of a sandbox: the same units, configuration and state, with a new identity.

use std::path::{Path, PathBuf};

use guest_init::config::Addressing;
use uuid::Uuid;

use crate::config::{Hostname, Mount, SandboxConfig, SandboxName, Security};
use crate::error::Result;
use crate::service::base::Provenance;
use crate::service::cancellation::Cancellation;
use crate::service::provision::freeze::FrozenTree;
use crate::service::provision::identity::{self, Renewal};
use crate::service::sandbox::Sandbox;
use crate::sys::copy::{Copier, Existing, Report};
use crate::sys::root::{Root, RootError, WalkEntry};
use crate::tree::place;

/// Request for a clone.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the clone.
    pub name: SandboxName,
    /// Parent directory of its tree, in place of the default.
    pub base: Option<PathBuf>,
    /// Host name inside; by default the name of the clone.
    pub hostname: Option<Hostname>,
    /// Security label; by default as the source has.
    pub security: Option<Security>,
}

impl<'a> Sandbox<'a> {
    /// Clones the sandbox; a running one is frozen meanwhile. Cancellation undoes everything.
    ///
    /// # Errors
    /// The sandbox runs and cannot be frozen, the name or place is taken, or the disk is full.
    /// After an error nothing is left.
    pub fn clone_as(&self, request: &Request) -> Result<Sandbox<'a>> {
        let host = self.host();
        host.check_name(&request.name)?;
        let path = host.tree_of(&request.name, request.base.as_deref());
        place::check(&path)?;
        let source = self.lock()?;
        source.check_tree()?;
        let config = cloned(source.config(), request, path);
        source.warn_of_shared(&config.name);
        source.warn_of_snapshots();
        let renewal = Renewal::new(source.config(), &config)?;
        host.provision(&config, &mut |tree| {
            let mut provenance = Provenance::load(&host.store, source.name())?;
            {
                let from = FrozenTree::new(&source, "cloning")?;
                let place = |path: &Path| renewal.place(path);
                let report = copy_tree(from.path(), tree, &place, &host.cancellation)?;
                for skipped in &report.skipped {
                    log::debug!("not copied: {skipped}");
                }
            }
            renewal.write(tree, &mut provenance.manifest)?;
            Ok(provenance)
        })?;
        Ok(Sandbox::new(host, config))
    }

    /// Warns of resources that the clone shares with the sandbox.
    fn warn_of_shared(&self, copy: &SandboxName) {
        let source = self.config();
        for mount in &source.mounts {
            if let Mount::HostBind {
                read_only: false, ..
            } = mount
            {
                log::warn!(
                    "'{copy}' and '{}' both write to the mount '{mount}'",
                    source.name
                );
            }
        }
        for publish in &source.publish {
            log::warn!(
                "'{copy}' and '{}' both publish '{publish}'; change it in '{}' before both run",
                source.name,
                self.store().config(copy).display()
            );
        }
        for network in &source.networks {
            if let Addressing::Static { .. } = network.addressing {
                log::warn!(
                    "'{copy}' has the static address of '{}' on the NIC '{network}'; change it in '{}' before both run",
                    source.name,
                    self.store().config(copy).display()
                );
            }
        }
    }
}

fn cloned(source: &SandboxConfig, request: &Request, path: PathBuf) -> SandboxConfig {
    let uuid = Uuid::new_v4();
    let hostname = request.hostname.clone();
    SandboxConfig {
        name: request.name.clone(),
        uuid,
        path,
        hostname: hostname
            .unwrap_or_else(|| Hostname::of(&request.name))
            .to_string(),
        security: request.security.clone().or_else(|| source.security.clone()),
        networks: identity::renewed(&source.networks, &uuid),
        // A range of ids belongs to one sandbox.
        idmap: source.idmap.for_copy(),
        ..source.clone()
    }
}

/// Copies a tree without its mark; `place` maps the paths.
fn copy_tree(
    from: &Path,
    to: &Path,
    place: &dyn Fn(&Path) -> Option<PathBuf>,
    cancellation: &Cancellation,
) -> Result<Report> {
    let (source, destination) = (Root::new(from)?, Root::new(to)?);
    let cancelled = || cancellation.is_requested();
    let mut copier = Copier::new(&source, &destination, Existing::Refuse).stop_when(&cancelled);
    for found in walk(&source) {
        cancellation.check()?;
        let found = found?;
        if let Some(placed) = place(&found.path) {
            copier.copy_found(&found, &placed)?;
        }
    }
    Ok(copier.finish()?)
}

/// Walks through a tree, without files that belong to the host.
pub(in crate::service) fn walk(root: &Root) -> impl Iterator<Item = Result<WalkEntry, RootError>> {
    // The top belongs to its place.
    root.walk(Path::new("/"), place::is_reserved).skip(1)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_tree_is_copied_without_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for path in ["etc", "var/log/a", "var/log/b"] {
            fs::create_dir_all(from.join(path)).unwrap();
        }
        fs::create_dir(&to).unwrap();
        for path in [
            ".virt-sandbox.json",
            ".upgrade",
            "etc/x",
            "etc/y",
            "var/log/a/1",
        ] {
            fs::write(from.join(path), path).unwrap();
        }
        let place = |path: &Path| match path.to_str() {
            Some("/etc/y") => None,
            Some("/var/log/b") => Some("/var/log/c".into()),
            Some(_) | None => Some(path.to_owned()),
        };
        let cancellation = Cancellation::default();
        copy_tree(&from, &to, &place, &cancellation).unwrap();
        let root = Root::new(&to).unwrap();
        let copied: Vec<String> = walk(&root)
            .map(|found| found.unwrap().path.display().to_string())
            .collect();
        let expected = [
            "/etc",
            "/etc/x",
            "/var",
            "/var/log",
            "/var/log/a",
            "/var/log/a/1",
            "/var/log/c",
        ];
        assert_eq!(copied, expected);
        cancellation.flag().store(true, Ordering::Relaxed);
        assert!(copy_tree(&from, &to, &place, &cancellation).is_err());
    }
}
