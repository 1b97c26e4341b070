//! Exit status of a sandbox that ended by itself.
//!
//! For a command that runs once, the journal has the answer: systemd's messages about units have ids and fields
//! (systemd.journal-fields(7), `systemd/sd-messages.h`). A sandbox of units does not end: systemd inside restarts its units
//! as they are configured, and it stays up for inspection if they fail, so ending by itself is a failure.

use std::io::{BufRead, BufReader, Read};
use std::time::SystemTime;

use guest_init::POWER_REQUEST;
use serde::Deserialize;

use crate::config::SandboxName;
use crate::config::workload::{COMMAND_UNIT, Restart};
use crate::error::{Error, Result};
use crate::service::inspect::journal;
use crate::service::lifecycle::failure;
use crate::service::sandbox::Sandbox;

/// `SD_MESSAGE_UNIT_SUCCESS`: a unit has ended successfully.
const SUCCESS: &str = "7ad2d189f7e94e70a38c781354912448";

/// `SD_MESSAGE_UNIT_FAILURE_RESULT`: a unit has failed.
const FAILURE: &str = "d9b373ed55a64feb8242e02dbe79a49c";

/// `SD_MESSAGE_UNIT_PROCESS_EXIT`: exit status of its process.
const EXIT: &str = "98e322203f7a4ed290d09fe03c09fe15";

/// Maximum number of bytes that are read from a journal.
const MOST_SAID: u64 = 1 << 20;

/// Reason why a sandbox has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Text for people.
    pub text: String,
    /// Exit status of the command, or 128 plus the signal as in shells, or 1.
    pub status: u8,
}

/// Journal entry about a unit; numbers are strings there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE", default)]
struct Entry {
    message_id: String,
    unit_result: Option<String>,
    exit_code: Option<String>,
    exit_status: Option<String>,
}

impl Sandbox<'_> {
    /// Returns why the sandbox has ended by itself, or `None` if it ended as intended.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        let (name, config) = (self.name(), self.config());
        if self.was_shut_down() {
            return None;
        }
        let Some(command) = config.workload.command() else {
            return Some(Failure {
                text: format!("the sandbox '{name}' has ended by itself"),
                status: 1,
            });
        };
        match command.restart {
            Restart::No => {}
            // The command ends successfully or is restarted.
            Restart::OnFailure => return None,
            Restart::Always => {
                return Some(Failure {
                    text: format!("the sandbox '{name}' has ended, and its command was to run on"),
                    status: 1,
                });
            }
        }
        match self.command_entries(SystemTime::UNIX_EPOCH) {
            Ok(entries) => judge(name, &entries),
            Err(error) => {
                log::warn!("finding out how the command of '{name}' ended: {error}");
                None
            }
        }
    }

    /// Returns the exit status of a command that runs once and was started after `since`, if it has ended by itself with a failure.
    #[must_use]
    pub fn command_failure(&self, since: SystemTime) -> Option<u8> {
        let command = self.config().workload.command()?;
        if command.restart != Restart::No {
            return None;
        }
        let entries = self.command_entries(since).ok()?;
        let failure = judge(self.name(), &entries).filter(|_| !entries.is_empty())?;
        // systemd ends a command that is not ready in time with a signal.
        (failure.status < 128).then_some(failure.status)
    }

    /// Returns whether a client of libvirt has asked the last run of the sandbox to shut down, as guest-init notes in the journal.
    fn was_shut_down(&self) -> bool {
        let note = [
            "--output=cat".to_owned(),
            format!("MESSAGE_ID={POWER_REQUEST}"),
        ];
        let lines = self.read_journal(SystemTime::UNIX_EPOCH, &note);
        lines.is_ok_and(|lines| !lines.is_empty())
    }

    /// Returns how a command started at `since` has ended, if it and its sandbox ended before the first
    /// check. Returns `None` if the sandbox ended for another reason.
    pub(in crate::service) fn finished_command(&self, since: SystemTime) -> Option<Result<()>> {
        let config = self.config();
        let command = config.workload.command()?;
        if command.restart != Restart::No {
            return None;
        }
        let entries = self.command_entries(since).ok()?;
        if entries.is_empty() {
            return None;
        }
        let Some(failure) = judge(&config.name, &entries) else {
            return Some(Ok(()));
        };
        let awaited = failure::awaited(command.ready).unwrap_or_default();
        let arguments = ["--output=cat", failure::LINES].map(str::to_owned);
        let own = [format!("--unit={COMMAND_UNIT}")];
        let lines = self.read_journal(since, &[arguments.as_slice(), &own].concat());
        let shown: String = lines
            .unwrap_or_default()
            .iter()
            .map(|line| failure::quoted(line))
            .collect();
        Some(Err(Error::not_ready(format!(
            "{}{awaited}{shown}",
            failure.text
        ))))
    }

    /// Returns systemd's entry about the end of the command in the last run, if that began after `since`.
    fn command_entries(&self, since: SystemTime) -> Result<Vec<Entry>> {
        let mut arguments = [
            "--output=json",
            "--output-fields=MESSAGE_ID,UNIT_RESULT,EXIT_CODE,EXIT_STATUS",
            "_PID=1",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("UNIT={COMMAND_UNIT}"));
        arguments.extend([SUCCESS, FAILURE, EXIT].map(|id| format!("MESSAGE_ID={id}")));
        let lines = self.read_journal(since, &arguments)?;
        Ok(lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// Returns lines of the journal of the last run, from `since` on.
    fn read_journal(&self, since: SystemTime, arguments: &[String]) -> Result<Vec<String>> {
        let since = since.duration_since(SystemTime::UNIX_EPOCH);
        let since = format!("--since=@{}", since.unwrap_or_default().as_secs());
        let all = ["--boot".to_owned(), "--quiet".to_owned(), since];
        let mut child = journal::read(self, &[all.as_slice(), arguments].concat())?;
        // Root inside can write the journal too.
        let lines = child.stdout.take().map(|stdout| stdout.take(MOST_SAID));
        let lines = lines.map(BufReader::new);
        let lines = lines
            .into_iter()
            .flat_map(BufRead::lines)
            .map_while(std::result::Result::ok)
            .collect();
        child.wait().map_err(Error::step("running journalctl"))?;
        Ok(lines)
    }
}

fn judge(name: &SandboxName, entries: &[Entry]) -> Option<Failure> {
    let last = |id: &str| entries.iter().rev().find(|entry| entry.message_id == id);
    let Some(failure) = last(FAILURE) else {
        let has_ended = last(SUCCESS).is_some();
        return (!has_ended).then(|| Failure {
            text: format!("the sandbox '{name}' has ended before its command"),
            status: 1,
        });
    };
    let exit = last(EXIT);
    let number = exit.and_then(|exit| exit.exit_status.as_ref()?.parse::<u8>().ok());
    let (how, status) = match (exit.and_then(|exit| exit.exit_code.as_deref()), number) {
        (Some("exited"), Some(status)) => (format!(", status {status}"), status.max(1)),
        (Some("killed" | "dumped"), Some(signal)) => {
            (format!(", signal {signal}"), signal.saturating_add(128))
        }
        (Some(_) | None, _) => (String::new(), 1),
    };
    let result = failure.unit_result.as_deref().unwrap_or("failed");
    Some(Failure {
        text: format!(
            "the command of the sandbox '{name}' has failed: {COMMAND_UNIT}: {result}{how}"
        ),
        status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Option<Failure> {
        let entries: Vec<Entry> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        judge(&"a".parse().unwrap(), &entries)
    }

    #[test]
    fn the_journal_tells_how_a_command_has_ended() {
        let success = format!(r#"{{"MESSAGE_ID":"{SUCCESS}"}}"#);
        let failure = |result: &str| {
            format!(r#"{{"MESSAGE_ID":"{FAILURE}","UNIT_RESULT":"{result}","__CURSOR":"x"}}"#)
        };
        let exit = |code: &str, status: &str| {
            format!(r#"{{"MESSAGE_ID":"{EXIT}","EXIT_CODE":"{code}","EXIT_STATUS":"{status}"}}"#)
        };
        assert_eq!(said(&[&success]), None);
        let seven = said(&[&exit("exited", "7"), &failure("exit-code")]).unwrap();
        assert_eq!(seven.status, 7);
        assert!(
            seven.text.ends_with(".service: exit-code, status 7"),
            "{seven:?}"
        );
        let killed = said(&[&exit("killed", "9"), &failure("signal")]).unwrap();
        assert_eq!(killed.status, 137);
        assert!(killed.text.ends_with("signal, signal 9"), "{killed:?}");
        // For example a command that ended well but whose unit was killed after a timeout.
        let timeout = said(&[&exit("exited", "0"), &failure("timeout")]).unwrap();
        assert_eq!(timeout.status, 1);
        assert!(said(&[]).unwrap().text.contains("before its command"));
    }
}
