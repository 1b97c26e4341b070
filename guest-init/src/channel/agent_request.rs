//! What the host asks of a virtual machine that lives by itself.
//!
//! Such a machine has several ports, each a way in for one host program at a time. Whoever takes one says
//! [`Attach`](crate::channel::wire::Frame::Attach) with a number nobody else has said and waits for the [`Hello`](crate::channel::wire::Frame::Hello)
//! that has it: all that comes before is what a predecessor has left. From then on each [`Config`](crate::channel::wire::Frame::Config) is
//! an [`AgentRequest`], answered with the streams and at last the [`Exit`](crate::channel::wire::Frame::Exit).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Stdio;

/// Version of what is said on such ports. A machine may have been started by another version of the host's program.
pub const VERSION: u32 = 1;

/// Names of the ports begin with it, a number follows.
pub const PORTS: &str = "org.virt-sandbox.way.";

/// One thing that is asked for.
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
    /// Say on standard output what is in these files, as a JSON array of strings: empty for one that cannot be read.
    Read {
        /// Absolute paths.
        paths: Vec<PathBuf>,
    },
    /// Carry connections to ports of the sandbox, until the host is gone.
    Tunnel,
    /// Set the clock.
    Clock {
        /// Since the beginning of 1970, in nanoseconds.
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
    /// The directory it starts in; the user's home if absent.
    pub directory: Option<PathBuf>,
    /// Added to its environment.
    pub environment: Vec<(String, String)>,
    /// What its standard streams are.
    pub stdio: Stdio,
}
