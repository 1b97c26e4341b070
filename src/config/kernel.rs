//! Choice of the kernel that a virtual machine boots.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Which kernel was asked for; all of it is optional. `[kernel]` of `sandbox.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelRequest {
    /// Release of the kernel of a virtual machine [default: that of the host, else the newest]
    #[arg(
        id = "kernver",
        long,
        value_name = "RELEASE",
        help_heading = "Virtual machine"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Image of the kernel [default: /boot/vmlinuz-RELEASE]
    #[arg(
        id = "kernpath",
        long,
        value_name = "FILE",
        help_heading = "Virtual machine"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Directory of kernels' modules, or of those of this one [default: /lib/modules]
    #[arg(
        id = "kmodpath",
        long,
        value_name = "DIR",
        help_heading = "Virtual machine"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<PathBuf>,
}

impl KernelRequest {
    /// Returns whether the default kernel is requested.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the request with its paths made absolute relative to `cwd`.
    #[must_use]
    pub fn absolute(self, cwd: &Path) -> Self {
        Self {
            path: self.path.map(|path| cwd.join(path)),
            modules: self.modules.map(|path| cwd.join(path)),
            ..self
        }
    }
}
