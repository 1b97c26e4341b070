//! Start of a sandbox, up to the readiness of its units.

use std::os::fd::RawFd;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use guest_init::sys::poll;

use crate::config::SandboxConfig;
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::guest::{self, kernel};
use crate::host::cgroup;
use crate::hypervisor::DomainState;
use crate::ports::forward::Outcome;
use crate::service::connections::Presence;
use crate::service::image::{self, Device};
use crate::service::lifecycle::failure::{boot, failure};
use crate::service::lifecycle::ports::Ports;
use crate::service::lifecycle::ready::{self, Readiness, UnitState, judge};
use crate::service::preflight;
use crate::service::render::Occasion;
use crate::service::sandbox::{LockedSandbox, Sandbox};

/// Time that libvirt may take to restart a sandbox that reboots.
const REBOOT: Duration = Duration::from_secs(3);

/// Time that a sandbox may take to mount the image of its tree.
const MOUNTING: Duration = Duration::from_secs(30);

/// Interval between two checks of the units.
const LOOK: Duration = Duration::from_millis(100);

/// Time that units which do not report readiness must stay active without a restart.
const STABLE: Duration = Duration::from_millis(700);

impl LockedSandbox<'_> {
    /// Starts the sandbox and waits until its units are active, up to `timeout` or the configured time. A sandbox that does
    /// not become ready, or whose start is cancelled, is stopped again.
    ///
    /// # Errors
    /// The sandbox runs already, a published port is in use, or it does not start. If its units do not become active,
    /// [`ErrorKind::NotReady`](crate::error::ErrorKind::NotReady) names them, their result, the end of their journal, and what may help.
    pub fn start(&mut self, timeout: Option<Duration>) -> Result<()> {
        let ports = self.start_with_sockets(&[], timeout)?;
        let left = self.leave_ports(&ports);
        left.map_err(|error| error.followed_by(self.stop()))
    }

    /// Starts the sandbox as [`start`](Self::start) does, with open `sockets`, and returns its ports.
    fn start_with_sockets(
        &mut self,
        sockets: &[RawFd],
        timeout: Option<Duration>,
    ) -> Result<Ports> {
        self.check_tree()?;
        if self.state()?.is_active() {
            return Err(Error::running(format!(
                "the sandbox '{}' is running already",
                self.name()
            )));
        }
        // The sandbox may have ended by itself a moment ago.
        self.release_ports();
        let ports = self.open_ports(sockets)?;
        // The device is ours until the sandbox has mounted it and keeps it.
        let device = image::device(self.config(), &self.stage())?;
        let begun = SystemTime::now();
        let guest = self.boot(device.as_ref())?;
        self.disconnect();
        let outcome = self.wait_ready(&*guest, begun, timeout);
        self.show_boot();
        // A later start by libvirt alone could use another device of that name, or find no boot files.
        let is_unfit = device.is_some() || self.lacks_boot_files()?;
        let rendered = match is_unfit {
            true => self.render(),
            false => Ok(()),
        };
        match Error::of_all([outcome, rendered]) {
            Ok(()) => {
                if let Some(device) = device {
                    device.leave();
                }
                Ok(ports)
            }
            Err(error) => {
                drop(device);
                Err(error.followed_by(self.stop()))
            }
        }
    }

    /// Starts the sandbox without waiting for its units.
    ///
    /// # Errors
    /// A published port is in use, or the sandbox does not start.
    pub(in crate::service) fn start_unwatched(&self) -> Result<()> {
        let ports = self.open_ports(&[])?;
        let device = image::device(self.config(), &self.stage())?;
        let guest = self.boot(device.as_ref())?;
        let rendered = device.map_or(Ok(()), |device| {
            let is_ready =
                || guest.answers() && readiness(&*guest, self.config().units()).is_some();
            poll::until(MOUNTING, LOOK, || !guest.is_alive() || is_ready());
            device.leave();
            self.render()
        });
        Error::of_all([rendered, self.leave_ports(&ports)])
    }

    /// Starts the domain; returns a handle on its guest.
    fn boot(&self, device: Option<&Device>) -> Result<Box<dyn Guest>> {
        let (name, config, hypervisor) = (self.name(), self.config(), self.hypervisor()?);
        if let Some(unit) = preflight::missing_unit(&self.host().root, config, config.units())? {
            return Err(Error::unsupported(format!(
                "this host has no unit '{unit}' any more, which the sandbox '{name}' runs; install its package again, or remove \
                 the sandbox with 'virt-sandbox-service delete {name}'"
            )));
        }
        for network in &config.networks {
            if let Some(source) = network.container_network() {
                hypervisor.ensure_network(source)?;
            }
        }
        cgroup::remove(name);
        self.store().forget_failure(name)?;
        let occasion = Occasion::Start {
            device: device.map(Device::path),
            credentials: guest::credentials(&config.credentials)?,
        };
        let started = self
            .render_for(occasion)
            .and_then(|()| hypervisor.start(name.as_str()));
        if let Err(error) = started {
            let removed = match config.has_secrets() {
                true => kernel::Boot::remove(&self.stage().join(kernel::BOOT_FILES)),
                false => Ok(()),
            };
            return Err(error.followed_by(removed));
        }
        // A sandbox whose start fails does not run.
        self.register_start()
            .map_err(|error| error.followed_by(hypervisor.destroy(name.as_str())))
    }

    /// Returns whether the files that a machine boots from are gone once it runs.
    fn lacks_boot_files(&self) -> Result<bool> {
        Ok(self.config().has_secrets() && self.driver()?.has_own_kernel())
    }

    /// Records the start of the domain; returns a handle on its guest.
    fn register_start(&self) -> Result<Box<dyn Guest>> {
        if self.lacks_boot_files()? {
            kernel::Boot::empty(&self.stage().join(kernel::BOOT_FILES))?;
        }
        let guest = self.guest()?;
        if let Some(guest) = &guest {
            guest.share_controllers();
        }
        self.config().save(&self.store().started(self.name()))?;
        guest.ok_or_else(|| self.ended_early())
    }
}

impl Sandbox<'_> {
    /// Starts the sandbox as [`LockedSandbox::start`] does, or takes over a running one, whose former process may have been
    /// killed. Returns its ports for [`wait`](Self::wait); those of `sockets` are open already.
    ///
    /// # Errors
    /// Errors of [`LockedSandbox::start`].
    pub fn take_over(&self, sockets: &[RawFd]) -> Result<Ports> {
        let state = self.state()?;
        match self.guest_in(state)? {
            Some(guest) if !matches!(state, DomainState::Frozen { .. }) => {
                guest.share_controllers();
                self.release_ports();
                let ports = self.open_ports(sockets)?;
                self.wait_ready(&*guest, SystemTime::UNIX_EPOCH, None)?;
                Ok(ports)
            }
            Some(_) | None => self.lock()?.start_with_sockets(sockets, None),
        }
    }

    /// Waits until the units of a guest that was started at `begun` are active.
    fn wait_ready(
        &self,
        guest: &dyn Guest,
        begun: SystemTime,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let config = self.config();
        let timeout = match timeout {
            Some(timeout) => timeout,
            None => Duration::from_secs(config.timeout.into()) + self.driver()?.boot_time()?,
        };
        let begin = Instant::now();
        let mut stable = Stability::default();
        let mut shown = String::new();
        loop {
            self.host().cancellation.check()?;
            if !guest.is_alive() {
                let finished = self.finished_command(begun);
                return finished.unwrap_or_else(|| Err(self.ended_early()));
            }
            let looked_at = Instant::now();
            let looked = match guest.answers() {
                true => readiness(guest, config.units()),
                false => None,
            };
            let (waiting, run) = match looked {
                Some(Readiness::Failed(units)) => {
                    return Err(failure(guest, config, &units, &self.boot_warnings()));
                }
                Some(Readiness::Ready { told, .. }) if told || config.workload.notifies() => {
                    return Ok(());
                }
                Some(Readiness::Ready { run, .. }) => (vec![], Some(run)),
                Some(Readiness::Waiting(units)) => (units, None),
                None => (vec![], None),
            };
            let phase = phase(&waiting, run.as_deref());
            if phase != shown {
                let seconds = begin.elapsed().as_secs_f64();
                log::debug!("'{}' waits for {phase} ({seconds:.1} s)", config.name);
                shown = phase;
            }
            if stable.holds(run) {
                return Ok(());
            }
            if begin.elapsed() > timeout {
                let warnings = self.boot_warnings();
                return Err(timed_out(guest, config, &waiting, timeout, &warnings));
            }
            // Checks must not slow the start down.
            sleep(LOOK.max(looked_at.elapsed()));
        }
    }

    /// Forwards its ports until the sandbox ends, the wait is cancelled, or the idle time has passed. A sandbox that
    /// reboots has not ended.
    ///
    /// # Errors
    /// libvirt does not answer, or the ports cannot be forwarded.
    pub fn wait(&mut self, ports: &Ports) -> Result<Outcome> {
        self.disconnect();
        let name = self.name().as_str();
        let connection = &self.config().connection;
        let _presence = Presence::new(&self.host().connector, connection, name);
        // Connect each time: an open connection does not survive a restart of the daemon.
        let look = || self.guest_in(self.host().connector.open(connection)?.state(name)?);
        let stop = || self.host().is_cancelled();
        let mut guest = look()?;
        while let Some(watched) = guest {
            let served = ports.serve(&*watched, &stop);
            match served.map_err(Error::step(format!("serving the ports of '{name}'")))? {
                Outcome::Gone => {}
                end @ (Outcome::Stopped | Outcome::Idle) => return Ok(end),
            }
            guest = poll::find(REBOOT, LOOK, || {
                look().ok().flatten().filter(|guest| guest.is_alive())
            });
            if let Some(guest) = &guest {
                guest.share_controllers();
            }
        }
        Ok(Outcome::Gone)
    }
}

/// Run of units that do not report readiness, and its begin.
#[derive(Debug, Default)]
struct Stability(Option<(String, Instant)>);

impl Stability {
    /// Returns true once the same `run` has lasted for [`STABLE`].
    fn holds(&mut self, run: Option<String>) -> bool {
        let begin = match (self.0.take(), &run) {
            (Some((before, begin)), Some(run)) if before == *run => begin,
            _ => Instant::now(),
        };
        self.0 = run.map(|run| (run, begin));
        self.0.is_some() && begin.elapsed() >= STABLE
    }
}

/// Returns the reason why a start waits, for people.
fn phase(waiting: &[UnitState], run: Option<&str>) -> String {
    let unit = |unit: &UnitState| format!("{}: {}", unit.id(), unit.state());
    match (waiting, run) {
        ([], None) => "its boot".to_owned(),
        ([], Some(_)) => "its units to stay active".to_owned(),
        (waiting, _) => waiting.iter().map(unit).collect::<Vec<_>>().join(", "),
    }
}

/// Returns the error for units that have not become active in time.
fn timed_out(
    guest: &dyn Guest,
    config: &SandboxConfig,
    waiting: &[UnitState],
    timeout: Duration,
    warnings: &[String],
) -> Error {
    let seconds = timeout.as_secs();
    Error::not_ready(match waiting {
        [] => format!(
            "the sandbox '{}' did not come up within {seconds} s; --timeout gives it more{}",
            config.name,
            boot(warnings)
        ),
        waiting => {
            let error = failure(guest, config, waiting, warnings);
            format!("{error}\n(waited {seconds} s; --timeout gives it more)")
        }
    })
}

/// Queries systemd inside for its units; returns `None` while it does not answer yet.
fn readiness(guest: &dyn Guest, units: &[String]) -> Option<Readiness> {
    let asked = unit_states(guest, units.iter().map(String::as_str))?;
    let mut services: Vec<&str> = asked.iter().flat_map(UnitState::services).collect();
    services.sort_unstable();
    services.dedup();
    let behind = if services.is_empty() {
        vec![]
    } else {
        unit_states(guest, services.into_iter())?
    };
    Some(judge(&asked, &behind))
}

fn unit_states<'a>(
    guest: &dyn Guest,
    units: impl Iterator<Item = &'a str>,
) -> Option<Vec<UnitState>> {
    let mut command = vec!["systemctl", "show", "--property", ready::PROPERTIES, "--"];
    command.extend(units);
    let shown = guest.capture(&command).ok().filter(|shown| shown.success)?;
    Some(ready::parse(&shown.stdout))
}
