//! NICs, as the templates see them.

use serde::Serialize;

use crate::config::network::Source;
use crate::config::{Bytes, Mac, Network, Resources};

/// A NIC.
#[derive(Debug, Serialize)]
pub(super) struct Interface {
    mac: Option<String>,
    #[serde(flatten)]
    plug: Plug,
    guest_name: String,
    /// Name of the other end on the host. libvirt binds the filter of a container's NIC before it has chosen a name itself.
    host_name: Option<String>,
    filter: Option<Filter>,
    receive_kib: Option<u64>,
    send_kib: Option<u64>,
}

/// Source of a NIC, in libvirt's words.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Plug {
    Network { network: String },
    Bridge { bridge: String },
    Direct { device: String, mode: &'static str },
    User,
}

#[derive(Debug, Serialize)]
struct Filter {
    name: String,
    parameters: Vec<Parameter>,
}

#[derive(Debug, Serialize)]
struct Parameter {
    name: String,
    value: String,
}

impl Interface {
    /// Returns NIC `index`, plugged into `source`, with the address `mac`.
    pub(super) fn new(
        index: usize,
        network: &Network,
        source: &Source,
        mac: Option<Mac>,
        resources: &Resources,
    ) -> Self {
        // libvirt's bandwidth is in KiB a second and not zero.
        let kib = |limit: Option<Bytes>| limit.map(|limit| limit.kibi().max(1));
        Self {
            mac: mac.map(|mac| mac.to_string()),
            plug: Plug::from(source),
            guest_name: format!("eth{index}"),
            host_name: (network.filter.as_ref().and(mac)).map(host_name),
            filter: network.filter.as_ref().map(|filter| Filter {
                name: filter.name.clone(),
                parameters: filter
                    .parameters
                    .iter()
                    .map(|(name, value)| Parameter {
                        name: name.clone(),
                        value: value.clone(),
                    })
                    .collect(),
            }),
            receive_kib: kib(resources.net_receive),
            send_kib: kib(resources.net_send),
        }
    }
}

/// Returns the name of a NIC on the host: the unique part of its address, in the 15 characters that the kernel allows.
fn host_name(mac: Mac) -> String {
    format!("vs{}", mac.to_string().replace(':', ""))
}

impl From<&Source> for Plug {
    fn from(source: &Source) -> Self {
        match source {
            Source::Network(name) => Self::Network {
                network: name.clone(),
            },
            Source::Bridge(name) => Self::Bridge {
                bridge: name.clone(),
            },
            Source::Direct { device, mode } => Self::Direct {
                device: device.clone(),
                mode: mode.as_str(),
            },
            Source::User => Self::User,
        }
    }
}
