//! What keeps the root of a sandbox from being the host's.

use crate::config::{Capabilities, Idmap, SandboxConfig, Seccomp};

/// What keeps the root of a sandbox from being the host's, beside the hypervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Confinement")]
pub struct Confinement {
    /// Ids of the host that stand for those inside: auto, no, START or START:COUNT
    #[arg(long, value_name = "IDS", default_value_t)]
    pub idmap: Idmap,
    #[command(flatten)]
    #[allow(missing_docs)] // The text would be that of the command.
    pub capabilities: Capabilities,
    /// Filter of system calls: default, off or a profile in the JSON of OCI
    #[arg(long, value_name = "FILTER", default_value_t)]
    pub seccomp: Seccomp,
}

impl Confinement {
    /// Whether a virtual machine can have it, whose kernel is its own.
    ///
    /// # Errors
    /// Names what is of containers alone.
    pub fn check_machine(&self) -> Result<(), String> {
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
        Err(format!(
            "{asked}: a virtual machine has a kernel of its own, which root inside may do with as it likes; leave it out, or \
             use a container"
        ))
    }

    /// That of a service.
    #[must_use]
    pub fn of_service(config: &SandboxConfig) -> Self {
        Self {
            idmap: config.idmap,
            capabilities: config.capabilities.clone(),
            seccomp: config.seccomp.clone(),
        }
    }
}
