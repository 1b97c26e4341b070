//! User configuration: each type has one written form for the command line and for `sandbox.toml`.
//!
//! Parsing checks everything that can be checked without looking at the host. The only I/O is reading and
//! writing `sandbox.toml`.

pub mod device;
pub mod kernel;
pub mod network;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod storage;
pub mod values;
pub mod workload;

pub use device::Device;
pub use kernel::KernelRequest;
pub use network::Network;
pub use network::hostname::Hostname;
pub use network::mac::Mac;
pub use network::publish::Publish;
pub use resources::Resources;
pub use resources::change::Change;
pub use sandbox::{SandboxConfig, State};
pub use security::capability::{Capabilities, Capability};
pub use security::confinement::Confinement;
pub use security::idmap::Idmap;
pub use security::seccomp::Seccomp;
pub use security::trust::Trust;
pub use security::{FileType, Security};
pub use storage::disk::Disk;
pub use storage::image::ImageFormat;
pub use storage::include::Include;
pub use storage::mount::Mount;
pub use storage::tree_image::TreeImage;
pub(crate) use values::escape::is_unwritable;
pub use values::name::SandboxName;
pub use values::path::GuestPath;
pub use values::size::Bytes;
pub use values::snapshot::SnapshotName;
pub use workload::credential::Credential;
pub use workload::{Command, Workload};

/// Implements serde with the written form of a type (`FromStr` and `Display`).
macro_rules! as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use as_text;
