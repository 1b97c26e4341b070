//! A command that a guest runs: as whom, where, and with which streams.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A command that PID 1 starts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Command {
    /// The program with its arguments, looked up in the `PATH` of `environment`. Never empty.
    pub argv: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub directory: Directory,
    /// Who it runs as.
    pub identity: Identity,
    /// What its standard streams are.
    pub stdio: Stdio,
}

/// Shows of the environment the names only: what is shown gets into logs.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            argv,
            environment,
            directory,
            identity,
            stdio,
        } = self;
        let names: Vec<&OsString> = environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Command")
            .field("argv", argv)
            .field("environment", &names)
            .field("directory", directory)
            .field("identity", identity)
            .field("stdio", stdio)
            .finish()
    }
}

/// The directory a command starts in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    tag = "type",
    content = "path"
)]
pub enum Directory {
    /// This one, or the command does not start.
    Must(PathBuf),
    /// This one if it can be entered, else `/`.
    Try(PathBuf),
}

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Other group ids.
    pub groups: Vec<u32>,
    /// Whether it keeps the capabilities of PID 1. Otherwise it has none and cannot get any (`PR_SET_NO_NEW_PRIVS(2const)`).
    pub privileged: bool,
}

/// What the standard streams of a command are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdio {
    /// A terminal of the sandbox, its bytes on the channel.
    Terminal(WindowSize),
    /// Each on its own, in the order standard input, output, error.
    Streams([Stream; 3]),
}

/// One standard stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// The caller's own, handed down as a file descriptor.
    Inherited,
    /// A pipe, its bytes on the channel.
    Channel,
    /// Nothing: `/dev/null`.
    None,
}

/// The size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}
