//! A persistent sandbox as its file describes it: `sandbox.toml`, the source of truth from which the domain, the
//! host's unit and the guest config are made anew at any time.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::config::{
    Capabilities, Credential, Device, FileType, Idmap, KernelRequest, Mount, Network, Publish,
    Resources, SandboxName, Seccomp, Security, TreeImage, Workload,
};
use crate::error::{Error, Result};
use crate::sys::file::{atomic, bounded_read};

/// Version of the file's schema.
pub const VERSION: u32 = 1;

/// Longest file that is read, in bytes.
pub const LONGEST: u64 = 1 << 20;

/// A service sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SandboxConfig {
    /// [`VERSION`] of the file.
    pub version: u32,
    /// Name of the sandbox; also that of its libvirt domain.
    pub name: SandboxName,
    /// Identity of the domain and, without dashes, the machine id inside.
    pub uuid: uuid::Uuid,
    /// The libvirt connection it belongs to.
    pub connection: String,
    /// What runs in it: `units` or `[command]`.
    ///
    /// serde takes the key of the variant that it finds, and leaves all others to the check for unknown ones.
    #[serde(flatten)]
    pub workload: Workload,
    /// Packages named by the user beside those found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// The packages of the service: those that were found, and `packages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_packages: Vec<String>,
    /// Root of its private tree. Where that is in an image, the image is beside it: see [`image_file`](Self::image_file).
    pub path: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// Static boot-time dependencies of the host's `/usr` that stay, beside those every boot needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_units: Vec<String>,
    /// Seconds the units may take to become active.
    pub timeout: u32,
    /// NICs; none means no network but the loopback.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Mounts beside those every sandbox has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Devices of the host that it has as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Files of the host that what runs in it reads at `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Its security label, where it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// The type that SELinux knows its files by, where it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// Ports of it that the host answers on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Whether the host's systemd starts it when one of these ports is first asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_demand: bool,
    /// Seconds without a connection after which one that was started on demand is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_stop: Option<u32>,
    /// Which ids of the host stand for those inside.
    #[serde(default, skip_serializing_if = "Idmap::is_auto")]
    pub idmap: Idmap,
    /// Which system calls are made.
    #[serde(default, skip_serializing_if = "Seccomp::is_default")]
    pub seccomp: Seccomp,
    /// What root inside may have of the host's root.
    #[serde(default, skip_serializing_if = "Capabilities::is_usual")]
    pub capabilities: Capabilities,
    /// The kernel that it boots, where that is not the usual one.
    #[serde(default, skip_serializing_if = "KernelRequest::is_any")]
    pub kernel: KernelRequest,
    /// The image that holds its tree, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<TreeImage>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
}

/// What becomes of the state that a service has on the host.
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

/// Seconds the units may take to become active, unless said otherwise.
pub const DEFAULT_TIMEOUT: u32 = 90;

impl SandboxConfig {
    /// Reads the text of a `sandbox.toml`; `path` is for the message.
    ///
    /// # Errors
    /// Names the file, the line and what is wrong there.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::Config {
            path: path.to_owned(),
            reason,
        };
        // serde would say less of it.
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
                return Err(wrong(
                    "there are both 'units' and '[command]'; a sandbox runs one or the other"
                        .to_owned(),
                ));
            }
            Ok(Workloads {
                units: None,
                command: None,
            }) => {
                return Err(wrong("it says neither 'units' nor '[command]'".to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        let config: Self =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// The units that are watched in it; see [`Workload::units`].
    #[must_use]
    pub fn units(&self) -> &[String] {
        self.workload.units()
    }

    /// The file of the image that holds its tree, if one does.
    #[must_use]
    pub fn image_file(&self) -> Option<PathBuf> {
        self.image.map(|image| image.file(&self.path))
    }

    /// Whether a service sandbox can be so.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "version {}, but this program knows version {VERSION}",
                self.version
            ));
        }
        self.workload.check()?;
        if !self.path.is_absolute() {
            return Err(format!("'path' is not absolute: '{}'", self.path.display()));
        }
        self.check_ports()?;
        self.check_credentials()?;
        self.mounts.iter().try_for_each(check_mount)
    }

    fn check_ports(&self) -> std::result::Result<(), String> {
        for (index, publish) in self.publish.iter().enumerate() {
            let others = self.publish.iter().take(index);
            if let Some(other) = others.into_iter().find(|other| other.collides(publish)) {
                return Err(format!(
                    "'{other}' and '{publish}' publish the same port of the host"
                ));
            }
        }
        if self.on_demand && self.publish.is_empty() {
            return Err("starting on demand needs a published port that is asked for".to_owned());
        }
        if self.idle_stop.is_some() && !self.on_demand {
            return Err(
                "a sandbox that is stopped when it is idle has to be started on demand".to_owned(),
            );
        }
        if self.idle_stop == Some(0) {
            return Err("'idle-stop' is 0 seconds".to_owned());
        }
        Ok(())
    }

    fn check_credentials(&self) -> std::result::Result<(), String> {
        for (index, credential) in self.credentials.iter().enumerate() {
            let mut others = self.credentials.iter().take(index);
            if others.any(|other| other.id == credential.id) {
                return Err(format!("there are two credentials '{}'", credential.id));
            }
            if !credential.source.is_absolute() {
                return Err(format!(
                    "the file of the credential '{credential}' is not an absolute path"
                ));
            }
        }
        Ok(())
    }

    /// The same with the values of its variables replaced: what is shown gets into terminals, tickets and logs.
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

    /// The text of the file.
    ///
    /// # Errors
    /// Only if a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Config {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, and as [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self> {
        let text = bounded_read::whole(path, LONGEST).map_err(Error::io("reading", path))?;
        Self::parse(&text, path)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = format!(
            "# A sandbox of virt-sandbox; see the README.\n{}",
            self.to_toml()?
        );
        atomic::write(path, text.as_bytes(), 0o600)?;
        Ok(())
    }
}

/// A service lives in a container with a root of its own, and longer than anything temporary.
fn check_mount(mount: &Mount) -> std::result::Result<(), String> {
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
    Err(format!("the mount '{mount}': {reason}"))
}

#[cfg(test)]
impl SandboxConfig {
    /// A small config for tests to start from.
    pub(crate) fn example() -> Self {
        Self {
            version: VERSION,
            name: "web1".parse().unwrap(),
            uuid: uuid::Uuid::from_u128(7),
            connection: "lxc:///".to_owned(),
            workload: Workload::Units(vec!["apache2.service".to_owned()]),
            packages: vec![],
            service_packages: vec![],
            path: "/var/lib/libvirt/filesystems/web1".into(),
            hostname: "web1".to_owned(),
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
}

#[cfg(test)]
mod tests;
