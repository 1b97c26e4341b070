//! Restrictions that keep root inside a sandbox from being root of the host.

use crate::config::{Capabilities, Idmap, SandboxConfig, Seccomp};
use crate::error::{Error, Result};

/// Restrictions of root inside a sandbox, in addition to the hypervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Confinement")]
pub struct Confinement {
    /// Ids of the host that stand for those inside: auto, no, START or START:COUNT
    #[arg(long, value_name = "IDS", default_value_t)]
    pub idmap: Idmap,
    #[command(flatten)]
    pub capabilities: Capabilities,
    /// Filter of system calls: default, off or a profile in the JSON of OCI
    #[arg(long, value_name = "FILTER", default_value_t)]
    pub seccomp: Seccomp,
}

impl Confinement {
    /// Checks that a virtual machine can have the restrictions; its kernel is its own.
    ///
    /// # Errors
    /// Names the setting that is for containers only.
    pub fn check_machine(&self) -> Result<()> {
        let asked = match self {
            Self {
                idmap: Idmap::Range(_),
                ..
            } => "--idmap",
            Self {
                seccomp: Seccomp::Profile(_),
                ..
            } => "--seccomp",
            Self { capabilities, .. } if !capabilities.is_usual() => "--cap-add and --cap-drop",
            _ => return Ok(()),
        };
        Err(Error::refused(format!(
            "{asked}: a virtual machine has a kernel of its own, which root inside may do with as it likes; leave it out, or \
             use a container"
        )))
    }

    /// Returns the restrictions of a service.
    #[must_use]
    pub fn of_service(config: &SandboxConfig) -> Self {
        Self {
            idmap: config.idmap,
            capabilities: config.capabilities.clone(),
            seccomp: config.seccomp.clone(),
        }
    }
}
