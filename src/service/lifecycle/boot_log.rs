//! Log of guest-init since the start of a sandbox.

use crate::error::Error;
use crate::service::sandbox::Sandbox;
use crate::sys::file::bounded_read;

/// Maximum size of the part of the log that is read, in bytes: root in a virtual machine can write anything there.
const LONGEST: u64 = 64 << 10;

/// Maximum number of warnings that are shown.
const MOST_WARNINGS: usize = 20;

/// Start of the lines that guest-init writes; the console of a virtual machine has others.
const OWN: &str = "guest-init: ";

impl Sandbox<'_> {
    /// Returns the warnings of guest-init since the start, such as a NIC that got no address. They end at its hand-over to
    /// systemd or the command.
    #[must_use]
    pub fn boot_warnings(&self) -> Vec<String> {
        match shows_steps() {
            true => vec![],
            false => warnings(&self.boot_log()),
        }
    }

    /// Shows every step of guest-init, if requested.
    pub(super) fn show_boot(&self) {
        if shows_steps() {
            for line in self.boot_log().lines() {
                log::info!("{line}");
            }
        }
    }

    /// Returns the error for a sandbox that has ended during its start.
    pub(super) fn ended_early(&self) -> Error {
        let said = match self.boot_log().trim() {
            "" => "it said nothing".to_owned(),
            said => format!("its init said:\n{said}"),
        };
        Error::not_ready(format!(
            "the sandbox '{}' ended before its units were up; {said}",
            self.name()
        ))
    }

    /// Returns the last lines of the log.
    fn boot_log(&self) -> String {
        let path = self.store().init_log(self.name());
        bounded_read::tail(&path, LONGEST).unwrap_or_default()
    }
}

/// Returns true if the user wants to see every step of the boot, which guest-init then logs beside its warnings.
fn shows_steps() -> bool {
    std::env::var_os("LIBVIRT_SANDBOX_INIT_DEBUG").is_some()
}

fn warnings(log: &str) -> Vec<String> {
    let own = log.lines().filter_map(|line| line.strip_prefix(OWN));
    own.take(MOST_WARNINGS).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_guest_init_are_warnings_of_the_boot() {
        let log = "[    0.1] Linux\nguest-init: asking for an address on eth0\r\nWelcome\n";
        assert_eq!(warnings(log), ["asking for an address on eth0"]);
        assert_eq!(warnings(&"guest-init: x\n".repeat(99)).len(), MOST_WARNINGS);
    }
}
