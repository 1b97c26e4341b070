//! The logs of a running sandbox, rotated.
//!
//! logrotate(8) works by names, as root, in directories that belong to the sandbox, and runs what is written in the
//! sandbox's `/etc`. On the host every link that the sandbox makes would lead to the host's files, and no option of
//! logrotate's keeps it below a directory. So it runs in the sandbox, where all names are the sandbox's and what it is told to
//! run can do what the sandbox can; the program is the host's, in the `/usr` they share.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::service::sandbox::Sandbox;

/// Runs logrotate by the sandbox's configuration, for so many seconds, with the state where logrotate itself has it: in the
/// sandbox's `/var`. A sandbox without `/etc/logrotate.conf` still has what packages say of their logs in `/etc/logrotate.d`.
/// timeout(1) ends all that logrotate has started.
const SCRIPT: &str = r#"
limit=$1; shift
if ! command -v logrotate >/dev/null; then
    echo 'there is no logrotate in /usr, which the sandbox has from the host; install it there' >&2
    exit 1
fi
state=$(logrotate --version 2>&1 | sed -n 's/^ *Default state file path: *//p')
mkdir -p "$(dirname "${state:-/var/lib/logrotate/status}")"
config=/etc/logrotate.conf
if ! [ -e "$config" ]; then
    [ -d /etc/logrotate.d ] || exit 0
    config=/run/virt-sandbox.logrotate.conf
    printf '%s\n' weekly 'rotate 4' create 'include /etc/logrotate.d' >"$config"
fi
timeout --kill-after=5 "$limit" logrotate "$@" "$config"
status=$?
case $status in
    124 | 137) echo "not done after $limit s, and ended; --timeout gives it more" >&2 ;;
esac
exit $status
"#;

/// What the sandbox is given beyond its time, should it see to it that it is not kept.
const GRACE: Duration = Duration::from_secs(10);

impl Sandbox<'_> {
    /// Rotates the logs of a running sandbox: those that are due, or all with `force`. What logrotate says is logged.
    ///
    /// # Errors
    /// Where it does not run, the host has no logrotate, or that fails or takes longer than `limit`, when it is ended.
    pub fn rotate(&self, force: bool, limit: Duration) -> Result<()> {
        let name = self.name();
        let seconds = limit.as_secs().to_string();
        let mut command = vec!["sh", "-c", SCRIPT, "rotate", &seconds];
        command.extend(force.then_some("--force"));
        command.extend(log::log_enabled!(log::Level::Debug).then_some("--verbose"));
        let done = self.enter()?.capture_within(&command, limit + GRACE)?;
        let said = done
            .as_ref()
            .map_or("the sandbox does not answer", |done| done.stderr.as_str());
        if !done.as_ref().is_some_and(|done| done.success) {
            return Err(Error::refused(format!(
                "rotating the logs of '{name}': {said}"
            )));
        }
        // Asked for no more than it says by itself, it speaks of what is wrong.
        for line in said.lines() {
            if log::log_enabled!(log::Level::Debug) {
                log::debug!("{name}: {line}");
            } else {
                log::warn!("{name}: {line}");
            }
        }
        Ok(())
    }
}
