//! What keeps the root of a sandbox from being the host's.

use crate::config::{Capabilities, Idmap, SandboxConfig, Seccomp};

/// What keeps the root of a sandbox from being the host's, beside the hypervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Confinement")]
pub struct Confinement {
    /// Ids of the host that stand for those inside: auto, no or START[:COUNT]
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
