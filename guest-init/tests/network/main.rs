//! The network against a real kernel and a real DHCP server: two network namespaces, a veth pair
//! between them, and dnsmasq on the other side. Needs root, ip(8) and dnsmasq(8); skipped
//! without.
#![allow(clippy::unwrap_used)]

mod addresses;
mod dhcp;
mod remembered;
mod wire;
