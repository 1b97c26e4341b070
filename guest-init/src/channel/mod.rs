//! The channel between host and guest: what they say, and how it is sent.

pub mod agent_request;
#[cfg(feature = "link")]
pub mod link;
pub mod wire;
