//! What keeps the root of a sandbox from being the host's.

use crate::config::Idmap;

/// What keeps the root of a sandbox from being the host's, beside the hypervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Confinement")]
pub struct Confinement {
    /// Ids of the host that stand for those inside: auto, no or START[:COUNT]
    #[arg(long, value_name = "IDS", default_value_t)]
    pub idmap: Idmap,
}
