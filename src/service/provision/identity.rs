//! Identity of a sandbox inside its tree: files that a copy must not take over, and their replacements.

use std::fs::Metadata;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Mac, Network, SandboxConfig};
use crate::error::{Error, Result};
use crate::service::init_units::services_d;
use crate::sys::root::{Root, RootError};
use crate::tree::manifest::{Entry, Manifest};

/// Files that stay with the original sandbox: leases belong to its NICs, and a random seed to one machine.
const PERSONAL: [&str; 2] = [
    "/var/lib/virt-sandbox/leases.json",
    "/var/lib/systemd/random-seed",
];

/// Maximum size of an `/etc/hosts` that is rewritten, in bytes.
const LONGEST: u64 = 1 << 20;

/// Transfer of a tree from the sandbox `old` to the sandbox `new`. With equal identities it is the same sandbox,
/// perhaps with another name.
#[derive(Debug)]
pub(in crate::service) struct Renewal<'a> {
    old: &'a SandboxConfig,
    new: &'a SandboxConfig,
    known_by: Vec<PathBuf>,
}

impl<'a> Renewal<'a> {
    /// Collects the files by which the services of `old` are known.
    ///
    /// # Errors
    /// A file in `services.d` is invalid.
    pub(in crate::service) fn new(old: &'a SandboxConfig, new: &'a SandboxConfig) -> Result<Self> {
        let known_by = services_d::identity(old)?;
        Ok(Self { old, new, known_by })
    }

    fn is_other(&self) -> bool {
        self.old.uuid != self.new.uuid
    }

    /// Returns the place of `path` in the new tree, or `None` if it is not taken over.
    pub(in crate::service) fn place(&self, path: &Path) -> Option<PathBuf> {
        if !self.is_other() {
            return Some(path.to_owned());
        }
        if let Ok(inside) = path.strip_prefix(journal(self.old)) {
            let is_top = inside.as_os_str().is_empty();
            return is_top.then(|| journal(self.new));
        }
        let is_personal = PERSONAL.iter().any(|personal| Path::new(personal) == path)
            || self.known_by.iter().any(|pattern| matches(pattern, path));
        (!is_personal).then(|| path.to_owned())
    }

    /// Writes the identity of the sandbox into its complete tree, and updates `manifest` for files that matched it.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub(in crate::service) fn write(&self, tree: &Path, manifest: &mut Manifest) -> Result<()> {
        let rewrites = self.plan(tree, manifest)?;
        rewrites.iter().try_for_each(|rewrite| rewrite.apply(tree))
    }

    /// Returns the files with the identity of the sandbox, and updates `manifest` for those that match it. If it is saved first,
    /// both steps can be repeated after an interruption.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub(in crate::service) fn plan(
        &self,
        tree: &Path,
        manifest: &mut Manifest,
    ) -> Result<Vec<Rewrite>> {
        let root = Root::new(tree)?;
        let stale: Vec<PathBuf> = manifest
            .iter()
            .filter(|(path, _)| self.place(path).is_none())
            .map(|(path, _)| path.clone())
            .collect();
        for path in stale {
            manifest.remove(&path);
        }
        let mut rewrites = Vec::new();
        let mut add = |path: &str, change: &dyn Fn(&str) -> Option<String>| {
            let rewrite = Rewrite::plan(&root, Path::new(path), manifest, change)?;
            rewrites.extend(rewrite);
            Ok::<_, Error>(())
        };
        if self.is_other() {
            let id = format!("{}\n", self.new.uuid.simple());
            add("/etc/machine-id", &|_| Some(id.clone()))?;
            add("/var/lib/dbus/machine-id", &|_| Some(id.clone()))?;
        }
        let (old, new) = (&self.old.hostname, &self.new.hostname);
        if old != new {
            add("/etc/hostname", &|_| Some(format!("{new}\n")))?;
            add("/etc/hosts", &|text| {
                Some(hosts(text, old, new)).filter(|changed| changed != text)
            })?;
        }
        Ok(rewrites)
    }
}

/// New content of a file, which keeps its owner and mode.
#[derive(Debug)]
pub(in crate::service) struct Rewrite {
    path: PathBuf,
    content: String,
    metadata: Metadata,
}

impl Rewrite {
    /// Plans the new content of a file. A missing file, a link, or a file behind a link is left alone.
    fn plan(
        root: &Root,
        path: &Path,
        manifest: &mut Manifest,
        change: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>> {
        let object = match root.object(path) {
            Ok(object) => object,
            Err(RootError::Link { .. }) => return Ok(None),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let metadata = object.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut text = String::new();
        let reading = Error::io("reading", path);
        let mut limited = object.open()?.take(LONGEST);
        limited.read_to_string(&mut text).map_err(&reading)?;
        let Some(content) = change(&text) else {
            return Ok(None);
        };
        let before = Entry::read(&object, path)?;
        if let Some(before) = before.filter(|before| manifest.get(path) == Some(before)) {
            let after = before.with_content(content.as_bytes()).map_err(reading)?;
            manifest.insert(path.to_owned(), after);
        }
        Ok(Some(Self {
            path: path.to_owned(),
            content,
            metadata,
        }))
    }

    /// Writes the file in a tree.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub(in crate::service) fn apply(&self, tree: &Path) -> Result<()> {
        let root = Root::new(tree)?;
        let (path, metadata) = (&self.path, &self.metadata);
        root.write_atomic(path, self.content.as_bytes(), metadata.mode() & 0o7777)?;
        root.chown(path, metadata.uid(), metadata.gid())?;
        Ok(())
    }
}

/// Returns hosts(5) with a new name for the machine itself, on the lines of the loopback.
fn hosts(text: &str, old: &str, new: &str) -> String {
    let renamed = |word: &str| match word.strip_prefix(old) {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => format!("{new}{rest}"),
        Some(_) | None => word.to_owned(),
    };
    text.split_inclusive('\n')
        .map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
            if !address.is_some_and(|address| address.is_loopback()) {
                return line.to_owned();
            }
            line.split_inclusive(char::is_whitespace)
                .map(|piece| {
                    let word = piece.trim_end();
                    format!("{}{}", renamed(word), &piece[word.len()..])
                })
                .collect()
        })
        .collect()
}

/// Returns the journal directory of a sandbox.
fn journal(config: &SandboxConfig) -> PathBuf {
    Path::new("/var/log/journal").join(config.uuid.simple().to_string())
}

/// Returns true if `path` matches `pattern`; `*` in its last component matches anything.
fn matches(pattern: &Path, path: &Path) -> bool {
    let (Some(pattern_name), Some(name)) = (
        pattern.file_name().and_then(|name| name.to_str()),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return false;
    };
    let Some((first, rest)) = pattern_name.split_once('*') else {
        return pattern == path;
    };
    pattern.parent() == path.parent()
        && name
            .strip_prefix(first)
            .is_some_and(|left| left.ends_with(rest))
}

/// Returns NICs for the sandbox `uuid`, with new hardware addresses.
pub(in crate::service) fn renewed(networks: &[Network], uuid: &uuid::Uuid) -> Vec<Network> {
    let renew = |(index, network): (usize, &Network)| Network {
        mac: Some(Mac::of_sandbox(uuid, index)),
        ..network.clone()
    };
    networks.iter().enumerate().map(renew).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_lines_of_hosts_are_renamed() {
        let text = "127.0.0.1\tlocalhost web10\n127.0.1.1\tweb1.lan web1\n192.0.2.9 web1\n# 127.0.1.1 web1\n";
        assert_eq!(
            hosts(text, "web1", "db"),
            "127.0.0.1\tlocalhost web10\n127.0.1.1\tdb.lan db\n192.0.2.9 web1\n# 127.0.1.1 web1\n"
        );
    }

    #[test]
    fn identity_files_are_not_copied() {
        let old = SandboxConfig {
            service_packages: vec!["openssh-server".into()],
            ..SandboxConfig::example()
        };
        let new = SandboxConfig {
            uuid: uuid::Uuid::from_u128(8),
            ..old.clone()
        };
        let renewal = Renewal::new(&old, &new).unwrap();
        let place = |path: String| {
            let place = renewal.place(Path::new(&path));
            place.map(|path| path.display().to_string())
        };
        let (from, to) = (old.uuid.simple(), new.uuid.simple());
        for (path, expected) in [
            ("/etc/passwd".to_owned(), Some("/etc/passwd".to_owned())),
            ("/etc/ssh/ssh_host_rsa_key".into(), None),
            ("/etc/ssh/ssh_host_rsa_key.pub".into(), None),
            (
                "/etc/ssh/sshd_config".into(),
                Some("/etc/ssh/sshd_config".into()),
            ),
            ("/var/lib/virt-sandbox/leases.json".into(), None),
            (
                format!("/var/log/journal/{from}"),
                Some(format!("/var/log/journal/{to}")),
            ),
            (format!("/var/log/journal/{from}/system.journal"), None),
        ] {
            assert_eq!(place(path.clone()), expected, "{path}");
        }
        let same = Renewal::new(&old, &old).unwrap();
        let key = Path::new("/etc/ssh/ssh_host_rsa_key");
        assert_eq!(same.place(key).as_deref(), Some(key));
    }

    #[test]
    fn rewritten_files_still_match_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/hostname", "web1\n");
        write("etc/hosts", "127.0.1.1 web1\n");
        let etc = Path::new("/etc");
        let mut manifest = Manifest::scan(dir.path(), &[etc]).unwrap();
        write("etc/hosts", "127.0.1.1 web1\n192.0.2.9 mine\n");
        let old = SandboxConfig::example();
        let new = SandboxConfig {
            hostname: "db".into(),
            ..old.clone()
        };
        let renewal = Renewal::new(&old, &new).unwrap();
        renewal.write(dir.path(), &mut manifest).unwrap();
        let now = Manifest::scan(dir.path(), &[etc]).unwrap();
        let changed: Vec<PathBuf> = manifest
            .diff(&now)
            .iter()
            .map(|change| change.path().to_owned())
            .collect();
        assert_eq!(changed, [Path::new("/etc/hosts")]);
        let hosts = std::fs::read_to_string(dir.path().join("etc/hosts")).unwrap();
        assert_eq!(hosts, "127.0.1.1 db\n192.0.2.9 mine\n");
    }
}
