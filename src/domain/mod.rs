//! Domains as libvirt XML. Pure: neither libvirt nor the filesystem is asked.
//!
//! A [`Domain`] has the fields of every driver; [`lxc`] and [`qemu`] add their own, refuse what they cannot do, and fill their
//! template.

mod interface;
pub mod lxc;
pub mod qemu;
pub mod template;
pub mod tune;

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::config::security::Label;
use crate::config::{Device, ImageFormat, Network, Publish, Resources, SandboxConfig, SandboxName};

/// A domain of any driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Name of the sandbox.
    pub name: SandboxName,
    /// Identity of the domain and of the machine inside.
    pub uuid: Uuid,
    /// Purpose, in a line.
    pub description: String,
    /// Limits.
    pub resources: Resources,
    /// NICs in order.
    pub networks: Vec<Network>,
    /// Ports of the sandbox that the host answers on.
    pub publish: Vec<Publish>,
    /// Security label; libvirt's choice if absent.
    pub security: Option<SecLabel>,
    /// Disks in order.
    pub disks: Vec<BlockDevice>,
    /// Character devices of the host.
    pub devices: Vec<Device>,
    /// Number of consoles beside the first, each a terminal of the host.
    pub consoles: u32,
    /// Action when it reboots itself.
    pub on_reboot: OnReboot,
}

/// Action when a domain reboots itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReboot {
    /// Start it again.
    Restart,
    /// End it.
    Destroy,
}

impl OnReboot {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Destroy => "destroy",
        }
    }
}

/// The security label of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecLabel {
    /// Security model of the label.
    pub model: SecModel,
    /// The label.
    pub kind: LabelKind,
}

/// A security model that libvirt labels domains with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecModel {
    /// SELinux: labels are contexts.
    SeLinux,
    /// AppArmor: labels are names of profiles, and dynamic ones have no base.
    AppArmor,
}

impl SecModel {
    /// Returns the name in libvirt.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SeLinux => "selinux",
            Self::AppArmor => "apparmor",
        }
    }
}

/// Choice of a domain's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelKind {
    /// By libvirt, from a base or from its own.
    Dynamic {
        /// The label it starts from.
        base: Option<Label>,
    },
    /// By the user.
    Static {
        /// The label.
        label: Label,
    },
    /// None: the domain is not confined.
    Unconfined,
}

/// A host directory or file that libvirt places in the staging root.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Filesystem {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the staging root.
    pub target: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Absolute path of the image or the device on the host.
    pub source: PathBuf,
    /// Kind of the source.
    pub kind: BlockKind,
    /// Format of the content, which the hypervisor never guesses.
    pub format: ImageFormat,
    /// Whether the hypervisor also opens files that the image names.
    pub backing: bool,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
    /// Serial number, by which the guest of a virtual machine finds it: 1 to 20 letters, digits, `_`, `.` and `-`
    /// (`/sys/block/*/serial`). Containers have none.
    pub serial: String,
}

impl BlockDevice {
    /// Returns a block device of the host, as a container has it.
    #[must_use]
    pub fn of_host(path: &Path) -> Self {
        Self {
            source: path.to_owned(),
            kind: BlockKind::Block,
            format: ImageFormat::Raw,
            backing: false,
            read_only: false,
            serial: String::new(),
        }
    }
}

/// Source of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// An image file.
    File,
    /// A block device.
    Block,
}

impl Domain {
    /// Returns the domain of a service.
    #[must_use]
    pub fn of_service(config: &SandboxConfig) -> Self {
        Self {
            name: config.name.clone(),
            uuid: config.uuid,
            description: format!("virt-sandbox: {}", config.workload),
            resources: config.resources.clone(),
            networks: config.networks.clone(),
            publish: vec![],
            security: None,
            disks: vec![],
            devices: config.devices.clone(),
            consoles: 0,
            on_reboot: OnReboot::Restart,
        }
    }
}

/// Security label, as the templates see it.
#[derive(Debug, serde::Serialize)]
struct SecLabelView {
    model: &'static str,
    r#type: &'static str,
    label: Option<String>,
    base_label: Option<String>,
}

impl From<&SecLabel> for SecLabelView {
    fn from(security: &SecLabel) -> Self {
        let (r#type, label, base) = match (&security.kind, security.model) {
            (LabelKind::Dynamic { base }, SecModel::SeLinux) => ("dynamic", None, base.as_ref()),
            // libvirt names the profile itself.
            (LabelKind::Dynamic { .. }, SecModel::AppArmor) => ("dynamic", None, None),
            (LabelKind::Static { label }, SecModel::SeLinux | SecModel::AppArmor) => {
                ("static", Some(label), None)
            }
            (LabelKind::Unconfined, SecModel::SeLinux | SecModel::AppArmor) => ("none", None, None),
        };
        Self {
            model: security.model.as_str(),
            r#type,
            label: label.map(ToString::to_string),
            base_label: base.map(ToString::to_string),
        }
    }
}

/// Returns the name of disk `index`, from 0, as libvirt and the kernel count: `sda`…`sdz`, `sdaa`…
#[must_use]
pub fn disk_name(prefix: &str, index: usize) -> String {
    let mut letters = String::new();
    let mut rest = index + 1;
    while rest > 0 {
        rest -= 1;
        letters.insert(0, char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    format!("{prefix}{letters}")
}

#[cfg(test)]
mod tests;
