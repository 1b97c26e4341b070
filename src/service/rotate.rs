//! The logs of a running sandbox, rotated.
//!
//! logrotate(8) works by names, as root, in directories that belong to the sandbox, and runs what is written in the
//! sandbox's `/etc`. On the host every link that the sandbox makes would lead to the host's files, and no option of
//! logrotate's keeps it below a directory. So it runs in the sandbox, where all names are the sandbox's and what it is told to
//! run can do what the sandbox can; the program is the host's, in the `/usr` they share.

use std::time::Duration;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::service::sandboxes::Sandboxes;

/// Runs logrotate by the sandbox's configuration, with the state where logrotate itself has it: in the sandbox's `/var`. A
/// sandbox without `/etc/logrotate.conf` still has what packages say of their logs in `/etc/logrotate.d`.
const SCRIPT: &str = r#"
command -v logrotate >/dev/null || exit 127
state=$(logrotate --version 2>&1 | sed -n 's/^ *Default state file path: *//p')
mkdir -p "$(dirname "${state:-/var/lib/logrotate/status}")"
config=/etc/logrotate.conf
if ! [ -e "$config" ]; then
    [ -d /etc/logrotate.d ] || exit 0
    config=/run/virt-sandbox.logrotate.conf
    printf '%s\n' weekly 'rotate 4' create 'include /etc/logrotate.d' >"$config"
fi
exec logrotate "$@" "$config"
"#;

/// The script's status where there is no logrotate.
const MISSING: i32 = 127;

/// Those of timeout(1), and of what it had to kill.
const LATE: i32 = 124;
const KILLED: i32 = 137;

impl Sandboxes {
    /// Rotates the logs of a running sandbox: those that are due, or all with `force`. What logrotate says is logged.
    ///
    /// # Errors
    /// Where it does not run, the host has no logrotate, or that fails or takes longer than `limit`, when it is ended.
    pub fn rotate(&self, name: &SandboxName, force: bool, limit: Duration) -> Result<()> {
        // timeout(1) ends all that logrotate has started. That the sandbox might see to it that it does not is ours to mind.
        let seconds = limit.as_secs().to_string();
        let mut command = vec!["timeout", "--kill-after=5", &seconds];
        command.extend(["sh", "-c", SCRIPT, "logrotate"]);
        command.extend(force.then_some("--force"));
        command.extend(log::log_enabled!(log::Level::Debug).then_some("--verbose"));
        let inside = self.enter(name)?;
        let done = inside.capture_within(&command, limit + Duration::from_secs(10))?;
        let late = format!("not done after {seconds} s, and ended; --timeout gives it more");
        let reason = match &done {
            None => late,
            Some(done) => match done.code {
                Some(0) => {
                    for line in done.said.lines() {
                        log::debug!("{name}: {line}");
                    }
                    return Ok(());
                }
                Some(MISSING) => {
                    "there is no logrotate in /usr, which the sandbox has from the host; install it there".to_owned()
                }
                Some(LATE | KILLED) => late,
                Some(_) | None => done.said.trim().to_owned(),
            },
        };
        Err(Error::refused(format!(
            "rotating the logs of '{name}': {reason}"
        )))
    }
}
