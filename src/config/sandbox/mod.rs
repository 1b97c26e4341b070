//! Configuration of a persistent sandbox, `sandbox.toml`: the source of truth from which the domain, the
//! host's unit and the guest config can be generated at any time.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::config::network::{DEFAULT_SOURCE, Source};
use crate::config::{
    Capabilities, Credential, Device, FileType, Hostname, Idmap, KernelRequest, Mac, Mount,
    Network, Publish, Resources, SandboxName, Seccomp, Security, TreeImage, Workload,
};
use crate::error::{Error, Result};
use crate::sys::file::{atomic, bounded_read};

/// Version of the file's schema.
pub const VERSION: u32 = 1;

/// Maximum size of the file in bytes.
pub const LONGEST: u64 = 1 << 20;

/// Configuration of a service sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SandboxConfig {
    /// [`VERSION`] of the file.
    pub version: u32,
    /// Name of the sandbox and of its libvirt domain.
    pub name: SandboxName,
    /// UUID of the domain and, without dashes, the machine id inside.
    pub uuid: uuid::Uuid,
    /// URI of the libvirt connection.
    pub connection: String,
    /// Workload: `units` or `[command]`.
    ///
    /// serde uses the key of the variant that it finds, and leaves all others to the check for unknown
    /// ones.
    #[serde(flatten)]
    pub workload: Workload,
    /// Packages named by the user, in addition to those found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// All packages of the service: those found, and `packages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_packages: Vec<String>,
    /// Root of the private tree. For a tree in an image, the image is beside it: see
    /// [`image_file`](Self::image_file).
    pub path: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// Statically enabled units of the host's `/usr` that are kept, in addition to those that every boot
    /// needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_units: Vec<String>,
    /// Seconds that the units may take to become active.
    pub timeout: u32,
    /// NICs; none means only the loopback.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Mounts, in addition to those of every sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Devices of the host that are visible inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Files of the host that are available inside at `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Security label, if it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// SELinux type of its files, if it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// Published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Whether the host's systemd starts the sandbox at the first connection to a published port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_demand: bool,
    /// Seconds without a connection after which a sandbox started on demand is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_stop: Option<u32>,
    /// Mapping of user and group ids.
    #[serde(default, skip_serializing_if = "Idmap::is_auto")]
    pub idmap: Idmap,
    /// Filter of system calls.
    #[serde(default, skip_serializing_if = "Seccomp::is_default")]
    pub seccomp: Seccomp,
    /// Changes to the default capabilities.
    #[serde(default, skip_serializing_if = "Capabilities::is_usual")]
    pub capabilities: Capabilities,
    /// Kernel of a virtual machine, if it is not the default.
    #[serde(default, skip_serializing_if = "KernelRequest::is_any")]
    pub kernel: KernelRequest,
    /// Image that holds the private tree, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<TreeImage>,
    /// Resource limits.
    #[serde(default)]
    pub resources: Resources,
}

/// Treatment of the state that a service has on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Copy it where nothing of the service runs on the host, else refuse
    #[default]
    Auto,
    /// Copy it in any case
    Copy,
    /// Make the directories only
    Fresh,
}

/// Placeholder shown instead of the value of a variable.
const HIDDEN: &str = "(hidden)";

/// Default for the seconds that the units may take to become active.
pub const DEFAULT_TIMEOUT: u32 = 90;

impl SandboxConfig {
    /// Returns a configuration with the defaults of a new sandbox, without NICs.
    #[must_use]
    pub fn new(name: SandboxName, connection: &str, workload: Workload, path: PathBuf) -> Self {
        Self {
            version: VERSION,
            hostname: Hostname::of(&name).to_string(),
            name,
            uuid: uuid::Uuid::new_v4(),
            connection: connection.to_owned(),
            workload,
            packages: vec![],
            service_packages: vec![],
            path,
            keep_units: vec![],
            timeout: DEFAULT_TIMEOUT,
            networks: vec![],
            mounts: vec![],
            devices: vec![],
            credentials: vec![],
            security: None,
            file_type: None,
            publish: vec![],
            on_demand: false,
            idle_stop: None,
            idmap: Idmap::Auto,
            seccomp: Seccomp::Default,
            capabilities: Capabilities::default(),
            kernel: KernelRequest::default(),
            image: None,
            resources: Resources::default(),
        }
    }

    /// Gives every NIC a source and a hardware address, where it has none.
    pub fn complete_networks(&mut self) {
        for (index, network) in self.networks.iter_mut().enumerate() {
            network
                .source
                .get_or_insert_with(|| Source::Network(DEFAULT_SOURCE.to_owned()));
            network
                .mac
                .get_or_insert_with(|| Mac::of_sandbox(&self.uuid, index));
        }
    }

    /// Parses the text of a `sandbox.toml`; `path` is for the message.
    ///
    /// # Errors
    /// Names the file, the line and what is wrong there.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        // serde's own message would say less.
        #[derive(Deserialize)]
        struct Workloads {
            units: Option<IgnoredAny>,
            command: Option<IgnoredAny>,
        }
        match toml::from_str(text) {
            Ok(Workloads {
                units: Some(_),
                command: Some(_),
            }) => {
                return Err(Error::config(path)(
                    "there are both 'units' and '[command]'; a sandbox runs one or the other",
                ));
            }
            Ok(Workloads {
                units: None,
                command: None,
            }) => {
                return Err(Error::config(path)(
                    "it says neither 'units' nor '[command]'",
                ));
            }
            Ok(_) | Err(_) => {}
        }
        let config: Self = toml::from_str(text).map_err(Error::config(path))?;
        config.check().map_err(Error::config(path))?;
        Ok(config)
    }

    /// Returns the units that are watched inside; see [`Workload::units`].
    #[must_use]
    pub fn units(&self) -> &[String] {
        self.workload.units()
    }

    /// Returns whether the configuration has secrets: credentials, or variables of its command.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        let command = self.workload.command();
        !self.credentials.is_empty() || command.is_some_and(|it| !it.environment.is_empty())
    }

    /// Returns the file of the image that holds the private tree, if any.
    #[must_use]
    pub fn image_file(&self) -> Option<PathBuf> {
        self.image.map(|image| image.file(&self.path))
    }

    /// Checks that a service sandbox can have these settings.
    ///
    /// # Errors
    /// The contradiction, as a sentence.
    pub fn check(&self) -> Result<()> {
        if self.version != VERSION {
            return Err(Error::refused(format!(
                "version {}, but this program knows version {VERSION}",
                self.version
            )));
        }
        self.workload.check()?;
        if !self.path.is_absolute() {
            return Err(Error::refused(format!(
                "'path' is not absolute: '{}'",
                self.path.display()
            )));
        }
        self.check_ports()?;
        self.check_credentials()?;
        self.mounts.iter().try_for_each(check_mount)
    }

    fn check_ports(&self) -> Result<()> {
        for (index, publish) in self.publish.iter().enumerate() {
            let others = self.publish.iter().take(index);
            if let Some(other) = others.into_iter().find(|other| other.collides(publish)) {
                return Err(Error::refused(format!(
                    "'{other}' and '{publish}' publish the same port of the host"
                )));
            }
        }
        if self.on_demand && self.publish.is_empty() {
            return Err(Error::refused(
                "starting on demand needs a published port that is asked for",
            ));
        }
        if self.idle_stop.is_some() && !self.on_demand {
            return Err(Error::refused(
                "a sandbox that is stopped when it is idle has to be started on demand",
            ));
        }
        if self.idle_stop == Some(0) {
            return Err(Error::refused("'idle-stop' is 0 seconds"));
        }
        Ok(())
    }

    fn check_credentials(&self) -> Result<()> {
        for (index, credential) in self.credentials.iter().enumerate() {
            let mut others = self.credentials.iter().take(index);
            if others.any(|other| other.id == credential.id) {
                return Err(Error::refused(format!(
                    "there are two credentials '{}'",
                    credential.id
                )));
            }
            if !credential.source.is_absolute() {
                return Err(Error::refused(format!(
                    "the file of the credential '{credential}' is not an absolute path"
                )));
            }
        }
        Ok(())
    }

    /// Returns a copy with the values of variables replaced, because shown configurations get into
    /// terminals, tickets and logs.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        if let Workload::Command(command) = &mut shown.workload {
            for value in command.environment.values_mut() {
                HIDDEN.clone_into(value);
            }
        }
        shown
    }

    /// Returns the text of the file.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(Error::config(&self.path))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is invalid: see [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self> {
        let text = bounded_read::regular_file(path, LONGEST).map_err(Error::io("reading", path))?;
        Self::parse(&text, path)
    }

    /// Writes the file atomically.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = format!(
            "# A sandbox of virt-sandbox; see sandbox.toml(5).\n{}",
            self.to_toml()?
        );
        atomic::write(path, text.as_bytes(), 0o600)?;
        Ok(())
    }
}

/// Refuses mounts that a service cannot have: its root is private, and it outlives anything temporary.
fn check_mount(mount: &Mount) -> Result<()> {
    let reason = match mount {
        mount if mount.is_root() => "the root of a service sandbox cannot be replaced",
        Mount::HostImage { .. } => {
            "a service sandbox cannot mount an image; mount it on the host and use host-bind"
        }
        Mount::HostBind { source: None, .. } => {
            "a service sandbox has no temporary directories of the host; say a source, or use ram"
        }
        Mount::HostBind {
            source: Some(source),
            ..
        } if !source.is_absolute() => "its source is not an absolute path",
        Mount::HostBind { .. } | Mount::GuestBind { .. } | Mount::Ram { .. } => return Ok(()),
    };
    Err(Error::refused(format!("the mount '{mount}': {reason}")))
}

#[cfg(test)]
impl SandboxConfig {
    /// Returns a small config for tests to start from.
    pub(crate) fn example() -> Self {
        let workload = Workload::Units(vec!["apache2.service".to_owned()]);
        Self {
            uuid: uuid::Uuid::from_u128(7),
            ..Self::new(
                "web1".parse().unwrap(),
                "lxc:///",
                workload,
                "/var/lib/libvirt/filesystems/web1".into(),
            )
        }
    }
}

#[cfg(test)]
mod tests;
