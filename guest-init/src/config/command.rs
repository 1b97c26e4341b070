//! A command that a guest runs: its user, directory and streams.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A command that PID 1 starts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Command {
    /// Program and arguments; the program is looked up in the `PATH` of `environment`. Never empty.
    pub argv: Vec<OsString>,
    /// Complete environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Working directory.
    pub directory: Directory,
    /// User and groups.
    pub identity: Identity,
    /// Standard streams.
    pub stdio: Stdio,
}

/// Shows only the names of the environment: debug output gets into logs.
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

/// Working directory of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    tag = "type",
    content = "path"
)]
pub enum Directory {
    /// Directory without which the command does not start.
    Must(PathBuf),
    /// Directory that is replaced by `/` if it cannot be entered.
    Try(PathBuf),
}

/// User and groups of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Other group ids.
    pub groups: Vec<u32>,
    /// Whether the command keeps the capabilities of PID 1. Otherwise it has none and cannot gain any (`PR_SET_NO_NEW_PRIVS(2const)`).
    pub privileged: bool,
}

/// Standard streams of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdio {
    /// Terminal of the sandbox, with its data on the channel.
    Terminal(WindowSize),
    /// Standard input, output and error.
    Streams([Stream; 3]),
}

/// One standard stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Stream of the caller, inherited as a file descriptor.
    Inherited,
    /// Pipe, with its data on the channel.
    Channel,
    /// `/dev/null`.
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
