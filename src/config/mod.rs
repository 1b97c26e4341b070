//! What the user asked for: one noun a file, each with one written form for the command line and
//! for `sandbox.toml`.
//!
//! Parsing checks all that can be checked without the host; nothing here looks at it. The only I/O
//! is reading and writing the file.

pub mod capability;
pub mod change;
pub mod confinement;
pub mod credential;
pub mod device;
pub mod disk;
pub mod environment;
mod escape;
pub mod hostname;
pub mod idmap;
pub mod image;
pub mod include;
pub mod kernel;
pub mod mac;
pub mod mount;
pub mod name;
pub mod network;
pub mod path;
pub mod publish;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod service;
pub mod size;
pub mod snapshot;
pub mod storage;
pub mod trust;
pub mod workload;

pub use capability::{Capabilities, Capability};
pub use change::Change;
pub use confinement::Confinement;
pub use credential::Credential;
pub use device::Device;
pub use disk::Disk;
pub(crate) use escape::is_unwritable;
pub use hostname::Hostname;
pub use idmap::Idmap;
pub use image::ImageFormat;
pub use include::Include;
pub use kernel::KernelRequest;
pub use mac::Mac;
pub use mount::Mount;
pub use name::SandboxName;
pub use network::Network;
pub use path::GuestPath;
pub use publish::Publish;
pub use resources::Resources;
pub use seccomp::Seccomp;
pub use security::{FileType, Security};
pub use service::{SandboxConfig, State};
pub use size::Bytes;
pub use snapshot::SnapshotName;
pub use storage::TreeImage;
pub use trust::Trust;
pub use workload::{Command, Workload};

/// Makes serde use the written form of a type (`FromStr` and `Display`).
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
