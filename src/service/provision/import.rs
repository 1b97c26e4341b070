//! Import of an archive, which may come from anywhere: its content is checked, and its tree is only written below the new
//! sandbox's top.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::config::network::{DEFAULT_SOURCE, Source};
use crate::config::{
    Capabilities, Hostname, Idmap, KernelRequest, Mac, Network, SandboxConfig, SandboxName,
    Seccomp, Trust,
};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::guest::PRIVATE_DIRS;
use crate::service::base::{Base, Origin, Provenance};
use crate::service::cancellation::Cancellation;
use crate::service::image;
use crate::service::provision::export::{BASE, CONFIG, END, MANIFEST, METADATA, TREE};
use crate::service::provision::identity::{self, Renewal};
use crate::service::provision::metadata::Metadata;
use crate::service::provision::{check_words, trust};
use crate::service::sandbox::Sandbox;
use crate::service::sandboxes::Sandboxes;
use crate::sys::archive::{ArchiveError, Extractor, Kind, Reader};
use crate::sys::root::Root;
use crate::tree::manifest::Manifest;
use crate::tree::place;

/// Maximum size of a member before the tree, in bytes.
const LONGEST: u64 = 1 << 20;
const LONGEST_MANIFEST: u64 = 1 << 28;

/// Request for an import.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Name, in place of the archive's.
    pub name: Option<SandboxName>,
    /// Parent directory of its tree, in place of the default.
    pub base: Option<PathBuf>,
    /// NICs, in place of the archive's.
    pub networks: Option<Vec<Network>>,
    /// Resources of this host that the archive may claim.
    pub trust: BTreeSet<Trust>,
}

impl Sandboxes {
    /// Creates a sandbox from the archive read from `from`. It keeps its identity, unless this host has it already.
    /// Cancellation undoes everything.
    ///
    /// # Errors
    /// The archive is invalid, truncated, leads out of the tree, or is for another host; the name or
    /// the place is taken, or the disk is full. After an error nothing is left.
    pub fn import(&self, from: impl Read, request: &Request) -> Result<Sandbox<'_>> {
        let mut reader = Reader::new(from);
        let metadata = Metadata::parse(&document(&mut reader, METADATA, LONGEST)?)?;
        metadata.check(&self.root)?;
        let archived = archived(&document(&mut reader, CONFIG, LONGEST)?)?;
        trust::refuse_untrusted(&asked(&archived, request), &request.trust)?;
        let text = document(&mut reader, MANIFEST, LONGEST_MANIFEST)?;
        let manifest: Manifest = String::from_utf8_lossy(&text)
            .parse()
            .map_err(Error::step("reading the archive"))?;
        let text = document(&mut reader, BASE, LONGEST_MANIFEST)?;
        let base = Base {
            // The archive's own value does not count.
            origin: origin(request),
            ..serde_json::from_slice(&text).map_err(Error::step("reading the archive"))?
        };
        let config = self.imported(&archived, request)?;
        self.check_name(&config.name)?;
        place::check(&config.path)?;
        let renewal = Renewal::new(&archived, &config)?;
        self.provision(&config, &mut |tree| {
            unpack(&mut reader, &renewal, tree, &self.cancellation)?;
            let mut provenance = Provenance {
                manifest: manifest.clone(),
                base: base.clone(),
            };
            renewal.write(tree, &mut provenance.manifest)?;
            Ok(provenance)
        })?;
        if origin(request) == Origin::Archive {
            log::info!(
                "'{0}' runs '{1}' of this host; upgrades bring it only files that every user of the host may read, unless \
                 'virt-sandbox-service upgrade --trust {0}' says otherwise",
                config.name,
                config.workload
            );
        }
        Ok(Sandbox::new(self, config))
    }

    /// Converts the archived configuration to one of this host.
    fn imported(&self, archived: &SandboxConfig, request: &Request) -> Result<SandboxConfig> {
        let name = request.name.as_ref().unwrap_or(&archived.name);
        let own_name = archived.hostname == Hostname::of(&archived.name).as_str();
        let hostname = if own_name {
            Hostname::of(name).to_string()
        } else {
            archived.hostname.clone()
        };
        let mut config = SandboxConfig {
            name: name.clone(),
            connection: self.connection.clone(),
            path: self.tree_of(name, request.base.as_deref()),
            hostname,
            // A label and a kernel belong to the old host.
            security: None,
            file_type: None,
            kernel: KernelRequest::default(),
            ..archived.clone()
        };
        if config.image.is_none() {
            config.image = image::needed_by(
                &self.root,
                Driver::of_service(&self.connection)?,
                &config.kernel,
                None,
            )?;
        }
        if let Some(networks) = &request.networks {
            config.networks.clone_from(networks);
        }
        let others = self.others()?;
        // Journals and leases are identified by the UUID.
        let is_taken = others.iter().any(|other| other.uuid == config.uuid)
            || config.uuid.is_nil()
            || is_host(&config.uuid)
            || self
                .connector
                .open(&self.connection)?
                .is_known(&config.uuid)?;
        if is_taken {
            config.uuid = Uuid::new_v4();
            config.networks = identity::renewed(&config.networks, &config.uuid);
        }
        let taken: Vec<Mac> = others
            .iter()
            .flat_map(|other| other.networks.iter().filter_map(|network| network.mac))
            .collect();
        for (index, network) in config.networks.iter_mut().enumerate() {
            network
                .source
                .get_or_insert_with(|| Source::Network(DEFAULT_SOURCE.to_owned()));
            if network.mac.is_none_or(|mac| taken.contains(&mac)) {
                network.mac = Some(Mac::of_sandbox(&Uuid::new_v4(), index));
            }
        }
        Ok(config)
    }

    /// Returns the readable configurations of this host.
    fn others(&self) -> Result<Vec<SandboxConfig>> {
        let names = self.store.names()?;
        Ok(names
            .iter()
            .filter_map(|name| self.store.load(name).ok())
            .collect())
    }
}

/// Reads the member `name`, which must be the next one.
fn document(reader: &mut Reader<'_>, name: &str, most: u64) -> Result<Vec<u8>> {
    let member = reader.next_member()?.ok_or(ArchiveError::Truncated)?;
    if member.name != Path::new(name) || !matches!(member.kind, Kind::File { sparse: None }) {
        return Err(Error::refused(format!(
            "the archive is not of a sandbox: '{name}' is missing, or not in its place"
        )));
    }
    Ok(reader.content(most)?)
}

/// Parses the configuration in an archive, and checks values that go into units and documents of this host.
fn archived(text: &[u8]) -> Result<SandboxConfig> {
    let path = Path::new("sandbox.toml");
    let wrong = |reason: String| Error::Config {
        path: path.to_owned(),
        reason: format!("{reason} (in the archive)"),
    };
    let text = std::str::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
    let mut config = SandboxConfig::parse(text, path)?;
    // This host decides about restrictions.
    config.idmap = Idmap::Auto;
    config.seccomp = Seccomp::Default;
    config.capabilities = Capabilities::default();
    check_words(&config).map_err(|error| wrong(error.to_string()))?;
    Ok(config)
}

/// Returns the claims of the archive: NICs given by the administrator replace its own.
fn asked(archived: &SandboxConfig, request: &Request) -> SandboxConfig {
    let mut asked = archived.clone();
    if request.networks.is_some() {
        asked.networks.clear();
    }
    asked
}

/// Returns the author of the list of units and packages, for upgrades.
fn origin(request: &Request) -> Origin {
    match Trust::Units.is_in(&request.trust) {
        true => Origin::Admin,
        false => Origin::Archive,
    }
}

/// Returns true if an identity is that of this host (machine-id(5)).
fn is_host(uuid: &Uuid) -> bool {
    let own = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    own.trim().parse() == Ok(*uuid)
}

/// Unpacks the tree up to the last member.
fn unpack(
    reader: &mut Reader<'_>,
    renewal: &Renewal<'_>,
    tree: &Path,
    cancellation: &Cancellation,
) -> Result<()> {
    let root = Root::new(tree)?;
    let cancelled = || cancellation.is_requested();
    let mut extractor = Extractor::new(&root);
    loop {
        cancellation.check()?;
        let member = reader.next_member()?.ok_or(ArchiveError::Truncated)?;
        if member.name == Path::new(END) {
            extractor.finish()?;
            return has_tops(&root);
        }
        let Some(path) = inside(&member.name)? else {
            // The top belongs to its place.
            continue;
        };
        let link = match &member.kind {
            Kind::Link(target) => match inside(target)?.and_then(|target| renewal.place(&target)) {
                Some(target) => Some(target),
                // A hard link to a file that is not taken over.
                None => continue,
            },
            Kind::File { .. } | Kind::Directory | Kind::Symlink(_) | Kind::Fifo => None,
        };
        if let Some(placed) = renewal.place(&path) {
            extractor.unpack(reader, member, &placed, link.as_deref(), &cancelled)?;
        }
    }
}

/// Checks that the directories which the sandbox gets are directories: a link would lead out of the tree.
fn has_tops(tree: &Root) -> Result<()> {
    match PRIVATE_DIRS
        .iter()
        .find(|dir| !place::has_directory(tree, Path::new(dir)))
    {
        Some(dir) => Err(Error::refused(format!(
            "the archive has no directory '{TREE}{dir}', which every sandbox's tree has"
        ))),
        None => Ok(()),
    }
}

/// Returns the path of a member in the sandbox, or `None` for the top.
fn inside(name: &Path) -> Result<Option<PathBuf>> {
    match name.strip_prefix(TREE) {
        Ok(path) if path.as_os_str().is_empty() => Ok(None),
        Ok(path) if !place::is_reserved(path) => Ok(Some(Path::new("/").join(path))),
        Ok(_) | Err(_) => Err(Error::refused(format!(
            "the archive has '{}', which belongs to no sandbox's tree",
            name.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_archives_are_refused() {
        let good = SandboxConfig::example().to_toml().unwrap();
        assert_eq!(archived(good.as_bytes()).unwrap(), SandboxConfig::example());
        for (from, to) in [
            ("apache2.service", r"apache2.service\nExecStart=/bin/evil"),
            (
                "hostname = \"web1\"",
                r#"hostname = "web1\n127.0.0.1 bank""#,
            ),
            ("name = \"web1\"", "name = \"../web1\""),
            ("timeout", "packages = [\"--eval=x\"]\ntimeout"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(good, bad);
            assert!(archived(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn nics_of_the_administrator_need_no_trust() {
        let archived = SandboxConfig {
            networks: vec!["dhcp,direct=eth0".parse().unwrap()],
            ..SandboxConfig::example()
        };
        let refused = |networks| {
            let request = Request {
                networks,
                ..Request::default()
            };
            trust::refuse_untrusted(&asked(&archived, &request), &request.trust).is_err()
        };
        assert!(refused(None));
        assert!(!refused(Some(vec!["dhcp,bridge=br0".parse().unwrap()])));
        assert!(!refused(Some(vec![])));
    }

    #[test]
    fn an_archive_cannot_lift_restrictions() {
        let bad = SandboxConfig {
            idmap: Idmap::No,
            seccomp: "off".parse().unwrap(),
            ..SandboxConfig::example()
        };
        let read = archived(bad.to_toml().unwrap().as_bytes()).unwrap();
        assert_eq!(read, SandboxConfig::example());
    }

    #[test]
    fn only_the_tree_is_unpacked() {
        let path = |name: &str| inside(Path::new(name));
        assert_eq!(path("tree/etc/x").unwrap(), Some("/etc/x".into()));
        assert_eq!(path("tree").unwrap(), None);
        for name in [
            "etc/x",
            "trees/x",
            "tree/.virt-sandbox.json",
            "tree/.upgrade/slots/1",
            "virt-sandbox/x",
        ] {
            assert!(path(name).is_err(), "{name}");
        }
    }
}
