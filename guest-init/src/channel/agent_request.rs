//! Requests to the agent of a virtual machine.
//!
//! The machine of a service has several ports, each for one client at a time. A client sends
//! [`Attach`](crate::channel::wire::Frame::Attach) with a random number and waits for the [`Hello`](crate::channel::wire::Frame::Hello)
//! with that number. Everything before it was left by the previous client. Then each [`Config`](crate::channel::wire::Frame::Config) is
//! an [`AgentRequest`], answered with data of streams and finally the [`Exit`](crate::channel::wire::Frame::Exit).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Stdio;

/// Version of the protocol on these ports. A machine may have been started by another version of the program on the host.
pub const VERSION: u32 = 1;

/// Prefix of the names of the ports; a number follows.
pub const PORTS: &str = "org.virt-sandbox.way.";

/// Request to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub enum AgentRequest {
    /// Run a command to its end.
    Execute(Execute),
    /// Send the contents of these files as standard output: a JSON array of strings, empty for a file that cannot be read.
    Read {
        /// Absolute paths.
        paths: Vec<PathBuf>,
    },
    /// Carry connections to ports of the sandbox, until the client is gone.
    Tunnel,
    /// Set the clock.
    Clock {
        /// Nanoseconds since the Epoch.
        nanoseconds: u64,
    },
}

/// A command of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Execute {
    /// The program with its arguments, looked up in the usual `PATH`. Never empty.
    pub command: Vec<String>,
    /// User of the sandbox, by name or number; root if absent.
    pub user: Option<String>,
    /// Working directory; the user's home if absent.
    pub directory: Option<PathBuf>,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// Standard streams.
    pub stdio: Stdio,
}
