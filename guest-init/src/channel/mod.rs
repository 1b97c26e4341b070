//! Channel between host and guest: frames, requests, and the file they are sent on.

pub mod agent_request;
#[cfg(feature = "link")]
pub mod link;
pub mod wire;
