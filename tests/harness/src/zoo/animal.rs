//! One service of the zoo: create, probe, stop, delete, look for leftovers.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::table::{Row, Where};
use crate::host;
use crate::libvirtd::URI_VARIABLE;
use crate::snapshot::Snapshot;

/// Time in which a service must answer after it is active.
const WARM_UP: Duration = Duration::from_secs(60);

/// Result of a visit.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Duration of `create`.
    pub created: Option<Duration>,
    /// Duration of `start`, which returns when the units are active.
    pub active: Option<Duration>,
    /// Number of probes until the service answered.
    pub tries: Option<u32>,
    /// Memory of the sandbox in bytes after the service answered.
    pub memory: Option<u64>,
    /// Failures, in order.
    pub trouble: Vec<String>,
}

impl Outcome {
    /// Returns the result of a visit that did not begin.
    pub fn failed(why: String) -> Self {
        Self {
            trouble: vec![why],
            ..Self::default()
        }
    }

    pub fn passed(&self) -> bool {
        self.trouble.is_empty()
    }

    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.trouble.push(format!("{error:#}")))
            .ok()
    }
}

/// Visits services with one program and keeps the output of those that failed.
#[derive(Debug)]
pub struct Visitor {
    pub program: PathBuf,
    pub output: PathBuf,
    /// Connection URI.
    pub uri: String,
    /// Factor for all time-outs; 1 for containers.
    pub pace: u32,
}

/// Part of the output of `list --format json`.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    #[serde(default)]
    addresses: Vec<String>,
}

/// Exit status, output and duration of a command.
struct CommandResult {
    text: String,
    ok: bool,
}

impl CommandResult {
    /// Returns the last line, where a failed command says why.
    fn why(&self) -> &str {
        self.text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no output")
            .trim()
    }

    fn check(&self, what: &str) -> Result<()> {
        if self.ok {
            Ok(())
        } else {
            bail!("{what}: {}", self.why())
        }
    }
}

impl Visitor {
    /// Creates a service, probes it and removes it again.
    pub fn visit(&self, row: &Row) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(before) = outcome.note(Snapshot::take()) else {
            return outcome;
        };
        let name = format!("zoo-{}", row.name.replace('.', "-"));

        let answered = self.create_and_ask(row, &name, &mut outcome);
        outcome.note(answered);
        if !outcome.passed() {
            // Best effort: the logs only explain a failure.
            let logs = self.tool(&["logs", &name], 30);
            self.keep(row, "logs", logs.as_ref().map_or("", |said| &said.text));
            if let Ok(inspect) = self.tool(&["status", &name], 30) {
                self.keep(row, "status", &inspect.text);
            }
        }
        for action in ["stop", "delete"] {
            let done = self
                .tool(&[action, &name], 60)
                .and_then(|said| said.check(action));
            // A failed `create` has undone itself, so there is nothing to remove.
            if outcome.created.is_some() {
                outcome.note(done);
            }
        }
        let left = before.leftovers();
        let left = left.map(|left| {
            let is_ours = |line: &String| host::is_of_run(line, &name);
            left.into_iter().filter(is_ours).collect::<Vec<_>>()
        });
        if let Some(left) = outcome.note(left)
            && !left.is_empty()
        {
            self.keep(row, "leftovers", &left.join("\n"));
            outcome
                .trouble
                .push(format!("left {} behind: {}", left.len(), left[0]));
        }
        outcome
    }

    fn create_and_ask(&self, row: &Row, name: &str, outcome: &mut Outcome) -> Result<()> {
        let took = |arguments: &[&str]| -> Result<Duration> {
            let begin = Instant::now();
            let done = self.tool(arguments, 120)?;
            if !done.ok {
                self.keep(row, arguments[0], &done.text);
            }
            done.check(arguments[0])?;
            Ok(begin.elapsed())
        };
        outcome.created = Some(took(&["create", "-u", &row.unit, name])?);
        outcome.active = Some(took(&["start", name])?);

        let start = Instant::now();
        for tries in 1.. {
            let said = self.ask(row, name)?;
            if said.ok {
                outcome.tries = Some(tries);
                break;
            }
            if start.elapsed() > WARM_UP * self.pace {
                self.keep(row, "probe", &said.text);
                bail!("no answer after {tries} tries: {}", said.why());
            }
            sleep(Duration::from_millis(500));
        }
        outcome.memory = memory(&self.uri, name);
        Ok(())
    }

    fn ask(&self, row: &Row, name: &str) -> Result<CommandResult> {
        match row.place {
            Where::Inside => self.tool(&["execute", name, "--", "sh", "-c", &row.probe], 30),
            Where::Host => match self.address(name)? {
                Some(address) => run(bounded(30 * self.pace)
                    .env("IP", address)
                    .args(["sh", "-c", &row.probe])),
                None => Ok(CommandResult {
                    text: "no address".into(),
                    ok: false,
                }),
            },
        }
    }

    fn address(&self, name: &str) -> Result<Option<String>> {
        let output = bounded(30)
            .arg(&self.program)
            .args(["list", "--format", "json"])
            .stdin(Stdio::null())
            .output()
            .context("running 'list'")?;
        let listed: Vec<Listed> =
            serde_json::from_slice(&output.stdout).context("reading 'list --format json'")?;
        let addresses = listed
            .into_iter()
            .filter(|sandbox| sandbox.name == name)
            .flat_map(|sandbox| sandbox.addresses);
        // `$IP` is used in URLs, so it must be an IPv4 address; a prefix length is cut off.
        Ok(addresses
            .map(|address| address.split('/').next().unwrap_or("").to_owned())
            .find(|address| address.contains('.')))
    }

    fn tool(&self, arguments: &[&str], seconds: u32) -> Result<CommandResult> {
        run(bounded(seconds * self.pace)
            .env(URI_VARIABLE, &self.uri)
            .arg(&self.program)
            .args(arguments))
    }

    fn keep(&self, row: &Row, what: &str, text: &str) {
        let dir = self.output.join(&row.name);
        let file = dir.join(format!("{what}.log"));
        if let Err(error) = fs::create_dir_all(&dir).and_then(|()| fs::write(&file, text)) {
            eprintln!("writing '{}': {error}", file.display());
        }
    }
}

/// Returns a command with a time-out: the zoo must reach its last line.
fn bounded(seconds: u32) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(seconds.to_string());
    command
}

/// Runs a command to its end; the output is its two streams, one after the other.
fn run(command: &mut Command) -> Result<CommandResult> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("running 'timeout'")?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(124) {
        text.push_str("\ntimed out\n");
    }
    Ok(CommandResult {
        text,
        ok: output.status.success(),
    })
}

/// Returns the memory of a domain's cgroup, from `virsh dommemstat`.
fn memory(uri: &str, domain: &str) -> Option<u64> {
    let output = Command::new("virsh")
        .args(["-c", uri, "--quiet", "dommemstat", domain])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("rss "))?
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}
