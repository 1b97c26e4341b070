//! Stop of a sandbox.

use std::time::{Duration, Instant};

use guest_init::sys::poll;

use crate::error::Result;
use crate::guest::kernel;
use crate::host::cgroup;
use crate::hypervisor::DomainState;
use crate::service::host_unit::{self, STOP_SECONDS};
use crate::service::image;
use crate::service::init_units::POWER_OFF;
use crate::service::sandbox::{LockedSandbox, Sandbox};

/// Interval between two checks whether the sandbox has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Time that the daemon may take to notice the end of a domain.
const NOTICING: Duration = Duration::from_secs(5);

impl Sandbox<'_> {
    /// Stops the host's unit of the sandbox, then the sandbox itself as [`LockedSandbox::stop`] does.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn stop(&self) -> Result<()> {
        host_unit::stop(self.name(), self.store());
        self.lock_for_stop()?.stop()
    }
}

impl LockedSandbox<'_> {
    /// Stops the sandbox: systemd inside is asked to stop, and after the time-out the domain is ended. A stopped sandbox is no error.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn stop(&mut self) -> Result<()> {
        self.power_off()?;
        // The daemon may have been restarted meanwhile.
        self.disconnect();
        poll::find(NOTICING, LOOK, || match self.guest() {
            Ok(Some(guest)) if !guest.is_alive() => None,
            noticed => Some(noticed.map(drop)),
        })
        .transpose()?;
        let (name, stage) = (self.name(), self.stage());
        self.hypervisor()?.destroy(name.as_str())?;
        if self.config().has_secrets() {
            kernel::Boot::remove(&stage.join(kernel::BOOT_FILES))?;
        }
        cgroup::remove(name);
        self.release_ports();
        image::await_release(self.config(), &stage);
        self.driver()?.relabel(self.config());
        if !self.config().credentials.is_empty() {
            // Render without secrets, which are read again at the next start.
            self.render()?;
        }
        Ok(())
    }

    /// Asks systemd inside to power off, and waits for the end of the domain.
    fn power_off(&self) -> Result<()> {
        let state = self.state()?;
        if let DomainState::Frozen { .. } = state {
            return Ok(());
        }
        let Some(guest) = self.guest_in(state)? else {
            return Ok(());
        };
        let begin = Instant::now();
        let limit = Duration::from_secs(STOP_SECONDS);
        let asked = guest.capture_within(&POWER_OFF, limit);
        if asked.is_ok_and(|asked| asked.is_some_and(|asked| asked.success)) {
            let left = limit.saturating_sub(begin.elapsed());
            if !poll::until(left, LOOK, || !guest.is_alive()) {
                log::warn!(
                    "'{}' did not stop within {STOP_SECONDS} s: ending it",
                    self.name()
                );
            }
        }
        Ok(())
    }
}
