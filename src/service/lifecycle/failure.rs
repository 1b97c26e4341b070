//! Explanation of failed units, from systemd and the journal inside, with hints.

use crate::config::SandboxConfig;
use crate::config::workload::Ready;
use crate::driver::Guest;
use crate::error::Error;
use crate::service::lifecycle::ready::UnitState;

/// Number of journal lines that are shown of a failed unit.
pub(in crate::service) const LINES: &str = "--lines=15";

/// Returns the names of the units, the reasons, the end of their journal, hints, and the warnings of the boot.
pub(in crate::service) fn failure(
    inside: &dyn Guest,
    config: &SandboxConfig,
    units: &[UnitState],
    warnings: &[String],
) -> Error {
    let mut text = format!("the units of sandbox '{}' are not up:", config.name);
    let command = config.workload.command();
    text.extend(command.and_then(|command| awaited(command.ready)));
    for unit in units {
        text.push_str(&format!(
            "\n{}: {}, result {}",
            unit.id(),
            unit.state(),
            unit.result()
        ));
        let run = |command: &[&str]| {
            inside
                .capture(command)
                .map(|done| done.stdout)
                .unwrap_or_default()
        };
        let status = run(&[
            "systemctl",
            "status",
            "--no-pager",
            "--lines=0",
            "--",
            unit.id(),
        ]);
        let unmet: Vec<&str> = status
            .lines()
            .map(str::trim)
            .filter(|line| line.contains("was not met"))
            .collect();
        for line in &unmet {
            text.push_str(&format!("\n  {}", line.trim_start_matches("└─").trim()));
        }
        // --unit would miss messages: a process that ends at once is gone before journald has looked up its unit, and its
        // messages only count for --unit if PID 1 wrote them.
        let of_unit = ["_SYSTEMD_UNIT", "UNIT", "COREDUMP_UNIT"];
        let [by, about, dump] = of_unit.map(|field| format!("{field}={}", unit.id()));
        let journal = run(&[
            "journalctl",
            "--no-pager",
            "--output=cat",
            LINES,
            &by,
            "+",
            &about,
            "+",
            &dump,
        ]);
        text.extend(journal.lines().map(quoted));
        if let Some(hint) = hint(&unit.result(), &journal, !unmet.is_empty()) {
            text.push_str(&format!("\n  hint: {hint}"));
        }
    }
    text.push_str(&boot(warnings));
    Error::not_ready(text)
}

/// Returns lines about warnings of the boot, for the end of an error; empty if there are none.
pub(in crate::service) fn boot(warnings: &[String]) -> String {
    let lines = warnings.iter().map(|warning| quoted(warning));
    match warnings {
        [] => String::new(),
        _ => format!("\nwarnings of its boot:{}", lines.collect::<String>()),
    }
}

/// Formats a journal line below its subject.
pub(in crate::service) fn quoted(line: &str) -> String {
    format!("\n  | {line}")
}

/// Returns a line about the readiness condition of a command, if there is one.
pub(in crate::service) fn awaited(ready: Ready) -> Option<String> {
    let what = match ready {
        Ready::Started => return None,
        Ready::Output => "it has written something".to_owned(),
        Ready::Notify => "it says so itself".to_owned(),
        Ready::Port { port, udp } => {
            let protocol = if udp { "UDP" } else { "TCP" };
            format!("somebody in the sandbox listens on port {port} of {protocol}")
        }
    };
    Some(format!("\nthe command is up once {what} (--ready {ready})"))
}

/// Returns a hint for a known reason.
fn hint(result: &str, journal: &str, is_condition: bool) -> Option<&'static str> {
    let says = |text: &str| journal.contains(text);
    [
        (
            is_condition,
            "a condition of the unit is not met in a sandbox; a drop-in below the sandbox's /etc/systemd/system can change it",
        ),
        (
            result.contains("status 226"),
            "the kernel refused a mount that the unit's hardening asks for",
        ),
        (
            result.contains("status 203"),
            "the unit's program is not in the sandbox; -m host-bind:TARGET=SOURCE,ro shows it",
        ),
        (
            result.contains("timeout"),
            "it did not report that it is ready; --timeout and TimeoutStartSec= of the unit give it more time",
        ),
        (
            result.contains("oom") || says("Out of memory"),
            "it ran out of memory; --memory gives it more",
        ),
        (
            result == "signal, status 9",
            "it was killed, as the kernel does where memory runs out; --memory gives it more",
        ),
        (
            says("/dev/net/tun"),
            "it needs a device that a container does not have",
        ),
        (
            says("Operation not permitted") && says("capabilit"),
            "it asks for a capability that a sandbox does not have; 'create --cap-add' gives one: dac_read_search and audit_write are \
             what most programs ask for, and reach nothing of the host where the sandbox has ids of its own",
        ),
        (
            says("Operation not permitted"),
            "it asks for a privilege that a sandbox does not have",
        ),
        (
            says("No such file or directory"),
            "a path that it needs is not in the sandbox; 'create --dry-run' shows what is, --package and -m add to it",
        ),
        (
            says("Read-only file system"),
            "it writes to a place that the host shares read-only; -m ram:TARGET=SIZE or host-bind makes one of its own",
        ),
    ]
    .into_iter()
    .find(|(applies, _)| *applies)
    .map(|(_, hint)| hint)
}
