//! Workload of a service sandbox: units of the host, or one command.

pub mod credential;
pub mod environment;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::{as_text, is_unwritable};
use crate::error::{Error, Result};

/// Workload of a service sandbox. In the file it is `units = [...]` or a table `[command]`, never both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Units of the host, or of the sandbox's own `/etc`. Never empty.
    Units(Vec<String>),
    /// A command, for which a unit is generated.
    Command(Command),
}

/// Name of the unit that is generated for a command.
pub const COMMAND_UNIT: &str = "virt-sandbox-command.service";

static COMMAND_UNITS: LazyLock<Vec<String>> = LazyLock::new(|| vec![COMMAND_UNIT.to_owned()]);

/// Command with the settings of its unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Command {
    /// Program, by its absolute path once it was resolved, and arguments. Never empty.
    pub argv: Vec<String>,
    /// Name of the account to run as; root if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// User id of the account, if it differs from the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group id, if it differs from the account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Home directory, if it differs from the account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<PathBuf>,
    /// Working directory; `/` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Reaction to the end of the command.
    #[serde(default)]
    pub restart: Restart,
    /// Condition for the command to be up.
    #[serde(default)]
    pub ready: Ready,
    /// Additional environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// Reaction to the end of a command, in the words of `systemd.service(5)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// End the sandbox, too
    #[default]
    No,
    /// Start it again after a failure; end the sandbox after success
    OnFailure,
    /// Always start it again
    Always,
}

impl Restart {
    /// Returns systemd's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

/// Condition for a command to be up: `started`, `output`, `port=N[/udp]` or `notify`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ready {
    /// The process was started.
    #[default]
    Started,
    /// The process has written something.
    Output,
    /// A process in the sandbox listens on a port.
    Port {
        /// Port number, not 0.
        port: u16,
        /// Whether it is a UDP port, and not a TCP one.
        udp: bool,
    },
    /// The process reports readiness itself (`sd_notify(3)`).
    Notify,
}

/// Error of parsing a readiness condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' does not say when the command is up: use started, output, port=N, port=N/udp or notify"
)]
pub struct ParseReadyError(String);

impl FromStr for Ready {
    type Err = ParseReadyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseReadyError(text.to_owned());
        match text {
            "started" => Ok(Self::Started),
            "output" => Ok(Self::Output),
            "notify" => Ok(Self::Notify),
            _ => {
                let port = text.strip_prefix("port=").ok_or_else(wrong)?;
                let (number, udp) = match port.split_once('/') {
                    None | Some((_, "tcp")) => (port.trim_end_matches("/tcp"), false),
                    Some((number, "udp")) => (number, true),
                    Some(_) => return Err(wrong()),
                };
                let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                match number.parse() {
                    Ok(port) if port != 0 && is_number => Ok(Self::Port { port, udp }),
                    Ok(_) | Err(_) => Err(wrong()),
                }
            }
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Output => f.write_str("output"),
            Self::Notify => f.write_str("notify"),
            Self::Port { port, udp: false } => write!(f, "port={port}"),
            Self::Port { port, udp: true } => write!(f, "port={port}/udp"),
        }
    }
}

as_text!(Ready);

impl Workload {
    /// Returns the units that are watched in the sandbox: those of the host, or the one generated for the
    /// command.
    #[must_use]
    pub fn units(&self) -> &[String] {
        match self {
            Self::Units(units) => units,
            Self::Command(_) => &COMMAND_UNITS,
        }
    }

    /// Returns the units that the host or the tree has to provide.
    #[must_use]
    pub fn host_units(&self) -> &[String] {
        match self {
            Self::Units(units) => units,
            Self::Command(_) => &[],
        }
    }

    /// Returns the command, if the workload is one.
    #[must_use]
    pub fn command(&self) -> Option<&Command> {
        match self {
            Self::Units(_) => None,
            Self::Command(command) => Some(command),
        }
    }

    /// Returns whether the command reports readiness itself, so that nothing else has to be awaited.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.command()
            .is_some_and(|command| command.ready != Ready::Started)
    }

    /// Checks that a unit can carry the workload.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Units(units) if units.is_empty() => Err(Error::refused("'units' is empty")),
            Self::Units(_) => Ok(()),
            Self::Command(command) => command.check(),
        }
    }
}

/// Displays the names of the units, or the command as one would type it.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Units(units) => f.write_str(&units.join(" ")),
            Self::Command(command) => command.fmt(f),
        }
    }
}

impl Command {
    /// Returns the program. Empty only in a command that [`check`](Workload) refuses.
    #[must_use]
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    /// Checks that a unit can carry the command.
    ///
    /// # Errors
    /// The problem, as a sentence.
    pub fn check(&self) -> Result<()> {
        if self.program().is_empty() {
            return Err(Error::refused("the command is empty"));
        }
        if let Some(word) = self.argv.iter().find(|word| word.contains('\0')) {
            return Err(Error::refused(format!("the command has a NUL in {word:?}")));
        }
        if let Some(user) = self.user.as_ref().filter(|user| !is_account(user)) {
            return Err(Error::refused(format!(
                "'{user}' is not a name of an account"
            )));
        }
        for path in self.directory.iter().chain(&self.home) {
            let text = path.to_str().unwrap_or("\0");
            // ':' ends a field of passwd(5).
            let is_plain =
                path.is_absolute() && !text.contains(|c: char| c == ':' || is_control(c));
            if !is_plain {
                return Err(Error::refused(format!(
                    "'{}' is not an absolute path that a unit can carry",
                    path.display()
                )));
            }
        }
        for (key, value) in &self.environment {
            if !environment::is_name(key) {
                return Err(Error::refused(format!(
                    "'{key}' is not a name of a variable"
                )));
            }
            if value.contains(|c: char| c != '\t' && is_control(c)) {
                return Err(Error::refused(format!(
                    "the value of the variable '{key}' has a character that a unit cannot carry"
                )));
            }
        }
        Ok(())
    }
}

/// Returns whether a character is a control character: systemd drops variables with them.
fn is_control(c: char) -> bool {
    c.is_control() || is_unwritable(c)
}

/// Returns whether systemd, useradd(8) and passwd(5) accept a name of an account.
fn is_account(name: &str) -> bool {
    name.len() <= 31
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&command_line(&self.argv))
    }
}

/// Quotes a command as one would type it, in one line.
#[must_use]
pub fn command_line(argv: &[String]) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%^".contains(c);
    let word = |word: &String| {
        if !word.is_empty() && word.chars().all(is_plain) {
            return word.clone();
        }
        let escaped = word.chars().flat_map(|c| match c {
            c if is_control(c) => c.escape_default().collect::<Vec<_>>(),
            '\'' => "'\\''".chars().collect(),
            c => vec![c],
        });
        format!("'{}'", escaped.collect::<String>())
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_read_and_written() {
        for text in ["started", "output", "notify", "port=80", "port=53/udp"] {
            assert_eq!(text.parse::<Ready>().unwrap().to_string(), text);
        }
        assert_eq!("port=80/tcp".parse::<Ready>(), "port=80".parse());
        for bad in [
            "",
            "port",
            "port=",
            "port=0",
            "port=+80",
            "port=65536",
            "port=80/sctp",
            "port=/udp",
            "80",
            "Started",
        ] {
            let error = bad.parse::<Ready>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let command = Command {
            argv: ["/usr/bin/a", "b c", "it's", "", "x\ny", "--k=v"]
                .map(str::to_owned)
                .to_vec(),
            ..Command::default()
        };
        assert_eq!(
            command.to_string(),
            r"/usr/bin/a 'b c' 'it'\''s' '' 'x\ny' --k=v"
        );
    }

    #[test]
    fn what_a_unit_cannot_carry_is_refused() {
        let good = Command {
            argv: vec!["/usr/bin/a".into()],
            ..Command::default()
        };
        good.check().unwrap();
        let environment = |key: &str, value: &str| Command {
            environment: [(key.to_owned(), value.to_owned())].into(),
            ..good.clone()
        };
        environment("A_1", "%n $x \"'\\").check().unwrap();
        let bad = [
            Command::default(),
            environment("1A", ""),
            environment("A B", ""),
            environment("A", "x\ny"),
            Command {
                user: Some("x\nExecStart=/y".into()),
                ..good.clone()
            },
            Command {
                home: Some("/x:0".into()),
                ..good.clone()
            },
            Command {
                directory: Some("x".into()),
                ..good.clone()
            },
        ];
        for command in bad {
            assert!(command.check().is_err(), "{command:?}");
        }
    }
}
