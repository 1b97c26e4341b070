//! Stopping a sandbox.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::config::{SandboxConfig, SandboxName};
use crate::error::Result;
use crate::guest::kernel;
use crate::host::cgroup;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::service::image;
use crate::service::init_units::POWER_OFF;
use crate::service::sandboxes::Sandboxes;

/// Seconds the units inside may take to stop before the sandbox is ended by force.
pub const STOP_SECONDS: u64 = 90;

/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

impl Sandboxes {
    /// Stops a sandbox: its units are asked to, and what has not ended in time is ended. The host's unit of it is stopped, too. One
    /// that does not run is no error.
    ///
    /// # Errors
    /// Where there is no such sandbox or libvirt does not answer.
    pub fn stop(&self, name: &SandboxName) -> Result<()> {
        self.store.load_to_end(name)?;
        self.stop_unit(name);
        self.halt(name)
    }

    /// [`stop`](Self::stop) for the host's unit itself.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn halt(&self, name: &SandboxName) -> Result<()> {
        let (_lock, config) = self.store.lock_to_end(name)?;
        self.end(&config)
    }

    pub(in crate::service) fn end(&self, config: &SandboxConfig) -> Result<()> {
        let name = config.name.as_str();
        let state = self.hypervisor(config)?.state(name)?;
        let is_frozen = matches!(state, DomainState::Paused { .. });
        if let Some(inside) = self.guest_of(config, state)?.filter(|_| !is_frozen) {
            let begin = Instant::now();
            let limit = Duration::from_secs(STOP_SECONDS);
            let asked = inside.capture_within(&POWER_OFF, limit);
            if asked.is_ok_and(|asked| asked.is_some_and(|asked| asked.success)) {
                while inside.is_alive() && begin.elapsed() < limit {
                    sleep(LOOK);
                }
                if inside.is_alive() {
                    log::warn!("'{name}' did not stop within {STOP_SECONDS} s: ending it");
                }
            }
        }
        let hypervisor = self.hypervisor(config)?;
        // The daemon takes a moment to notice that a domain has ended.
        let begin = Instant::now();
        while self
            .guest(config, &hypervisor)?
            .is_some_and(|inside| !inside.is_alive())
            && begin.elapsed() < Duration::from_secs(5)
        {
            sleep(LOOK);
        }
        hypervisor.destroy(name)?;
        let stage = self.store.stage(&config.name);
        kernel::Boot::remove(&stage.join(kernel::BOOT_FILES))?;
        cgroup::remove(&config.name);
        self.release_ports(&config.name);
        image::await_release(config, &stage);
        self.driver(config)?.relabel(config);
        if !config.credentials.is_empty() {
            // What it boots from has them no more: they are read again at the next start.
            self.render(config, &hypervisor)?;
        }
        Ok(())
    }
}
