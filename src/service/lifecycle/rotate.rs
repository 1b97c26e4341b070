//! Rotation of logs in a running sandbox.
//!
//! logrotate(8) works with path names, as root, in directories that belong to the sandbox, and runs commands from the
//! sandbox's `/etc`. On the host, every link that the sandbox makes would lead to the host's files, and no option of
//! logrotate confines it to a directory. So it runs inside the sandbox, where all paths are the sandbox's and its
//! commands have the sandbox's rights; the program is the host's, in the shared `/usr`.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::service::sandbox::Sandbox;

/// Script that runs logrotate with the sandbox's configuration for a limited time, with its state in the usual place in the
/// sandbox's `/var`. A sandbox without `/etc/logrotate.conf` still has the files of packages in `/etc/logrotate.d`.
/// timeout(1) ends everything that logrotate has started.
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

/// Additional time on the host, in case the sandbox defeats the limit inside.
const GRACE: Duration = Duration::from_secs(10);

impl Sandbox<'_> {
    /// Rotates the logs of a running sandbox: those that are due, or all with `force`. Output of logrotate is logged.
    ///
    /// # Errors
    /// The sandbox does not run, the host has no logrotate, or logrotate fails or exceeds `limit`.
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
        // Without --verbose, logrotate only prints problems.
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
