//! Starting a sandbox and waiting until its units are up.

use std::os::fd::RawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{SandboxConfig, SandboxName};
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::guest::{self, kernel};
use crate::host::cgroup;
use crate::hypervisor::{DomainState, Hypervisor};

use crate::ports::forward::Outcome;
use crate::service::connections::Presence;
use crate::service::image::{self, Device};
use crate::service::lifecycle::failure::failure;
use crate::service::lifecycle::ports::Ports;
use crate::service::lifecycle::ready::{self, Readiness, UnitState, judge};
use crate::service::preflight;
use crate::service::sandboxes::{Occasion, Sandboxes};
use crate::sys::file::bounded_read;

/// Bytes that are shown of what the init of a sandbox has said: root in a virtual machine writes there what it likes.
const SAID: u64 = 64 << 10;

/// How long libvirt may take to start a sandbox anew that reboots.
const REBOOT: Duration = Duration::from_secs(3);

/// How long a sandbox may take to mount the image of its tree.
const MOUNTING: Duration = Duration::from_secs(30);

/// Between two looks at the units.
const LOOK: Duration = Duration::from_millis(100);

/// How long units that cannot tell that they are up have to stay so without a restart.
const STABLE: Duration = Duration::from_millis(700);

impl Sandboxes {
    /// Starts a sandbox and waits until its units are up, for `timeout` or the time of its configuration. `interrupted` is
    /// asked meanwhile; once it says so the sandbox is stopped again.
    ///
    /// # Errors
    /// Where it runs already, a port that it publishes is taken, or it does not start. Where its units do not come up,
    /// [`ErrorKind::NotReady`](crate::error::ErrorKind::NotReady) names them, their result, the end of their journal, and what may help; the sandbox is stopped again.
    pub fn start(
        &self,
        name: &SandboxName,
        timeout: Option<Duration>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<()> {
        let ports = self.start_with(name, &[], timeout, interrupted)?;
        self.leave_ports(name, &ports)
            .inspect_err(|_| match self.halt(name) {
                Ok(()) => {}
                Err(error) => log::warn!("stopping '{name}': {error}"),
            })
    }

    fn start_with(
        &self,
        name: &SandboxName,
        sockets: &[RawFd],
        timeout: Option<Duration>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Ports> {
        let (_lock, config) = self.store.lock_with_tree(name)?;
        let hypervisor = self.hypervisor(&config)?;
        if hypervisor.state(name.as_str())?.is_active() {
            return Err(Error::running(format!(
                "the sandbox '{name}' is running already"
            )));
        }
        // One that has ended by itself a moment ago.
        self.release_ports(name);
        let ports = self.open_ports(&config, sockets)?;
        // Ours until the sandbox has mounted it, which keeps it.
        let device = image::device(&config, &self.store.stage(name))?;
        let begun = SystemTime::now();
        let inside = self.boot(&config, device.as_ref(), &hypervisor)?;
        drop(hypervisor);
        let outcome = self.wait_ready(&config, &*inside, begun, timeout, interrupted);
        self.show_boot(name);
        if device.is_some() {
            // Whoever starts the domain without us must not give it what has the device's name another time.
            self.render(&config, &self.hypervisor(&config)?)?;
        }
        match outcome {
            Ok(()) => {
                if let Some(device) = device {
                    device.leave();
                }
                Ok(ports)
            }
            Err(error) => {
                drop(device);
                self.end(&config)?;
                Err(error)
            }
        }
    }

    /// Starts a sandbox, whose lock has to be held, without waiting for its units.
    ///
    /// # Errors
    /// Where a port that it publishes is taken, or it does not start.
    pub(in crate::service) fn start_unwatched(&self, config: &SandboxConfig) -> Result<()> {
        let ports = self.open_ports(config, &[])?;
        let device = image::device(config, &self.store.stage(&config.name))?;
        let inside = self.boot(config, device.as_ref(), &self.hypervisor(config)?)?;
        if let Some(device) = device {
            let begin = Instant::now();
            while inside.is_alive() && begin.elapsed() < MOUNTING {
                if inside.answers() && look(&*inside, config.units()).is_some() {
                    break;
                }
                sleep(LOOK);
            }
            self.render(config, &self.hypervisor(config)?)?;
            device.leave();
        }
        self.leave_ports(&config.name, &ports)
    }

    /// As [`start`](Self::start), but a sandbox that runs already is taken over: who kept it before may have been killed. Gives
    /// its ports, for [`wait`](Self::wait) to serve; those of `sockets` are open already.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn take_over(
        &self,
        name: &SandboxName,
        sockets: &[RawFd],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Ports> {
        let config = self.store.load(name)?;
        let state = self.hypervisor(&config)?.state(name.as_str())?;
        match self.guest_of(&config, state)? {
            Some(inside) if !matches!(state, DomainState::Paused { .. }) => {
                inside.share_controllers();
                self.release_ports(name);
                let ports = self.open_ports(&config, sockets)?;
                self.wait_ready(&config, &*inside, SystemTime::UNIX_EPOCH, None, interrupted)?;
                Ok(ports)
            }
            Some(_) | None => self.start_with(name, sockets, None, interrupted),
        }
    }

    /// Starts the domain; gives the way into it.
    pub(in crate::service) fn boot(
        &self,
        config: &SandboxConfig,
        device: Option<&Device>,
        hypervisor: &dyn Hypervisor,
    ) -> Result<Box<dyn Guest>> {
        let name = &config.name;
        if let Some(unit) = preflight::missing_unit(Path::new("/"), config, config.units())? {
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
        self.forget_failure(name)?;
        let occasion = Occasion::Start {
            device: device.map(Device::path),
            credentials: guest::credentials(&config.credentials)?,
        };
        let started = self
            .render_with(config, occasion, hypervisor)
            .and_then(|()| hypervisor.start(name.as_str()));
        let stage = self.store.stage(name);
        match started {
            Ok(()) => self.driver(config)?.empty_boot_files(&stage)?,
            Err(error) => {
                kernel::Boot::remove(&stage.join(kernel::BOOT_FILES))?;
                return Err(error);
            }
        }
        let inside = self.guest(config, hypervisor)?;
        if let Some(inside) = &inside {
            inside.share_controllers();
        }
        config.save(&self.store.started(name))?;
        inside.ok_or_else(|| self.ended_early(name))
    }

    /// What the init of a sandbox has said last since its start.
    fn init_log(&self, name: &SandboxName) -> String {
        bounded_read::tail(&self.store.init_log(name), SAID).unwrap_or_default()
    }

    fn ended_early(&self, name: &SandboxName) -> Error {
        let said = match self.init_log(name).trim() {
            "" => "it said nothing".to_owned(),
            said => format!("its init said:\n{said}"),
        };
        Error::not_ready(format!(
            "the sandbox '{name}' ended before its units were up; {said}"
        ))
    }

    /// Shows what the init did, if that was asked for.
    fn show_boot(&self, name: &SandboxName) {
        if std::env::var_os("LIBVIRT_SANDBOX_INIT_DEBUG").is_some() {
            for line in self.init_log(name).lines() {
                log::info!("{line}");
            }
        }
    }

    fn wait_ready(
        &self,
        config: &SandboxConfig,
        inside: &dyn Guest,
        begun: SystemTime,
        timeout: Option<Duration>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<()> {
        let timeout = match timeout {
            Some(timeout) => timeout,
            None => {
                Duration::from_secs(config.timeout.into()) + self.driver(config)?.boot_time()?
            }
        };
        let begin = Instant::now();
        let mut since: Option<(String, Instant)> = None;
        loop {
            if interrupted() {
                return Err(Error::Interrupted);
            }
            if !inside.is_alive() {
                let over = self.was_over(config, begun);
                return over.unwrap_or_else(|| Err(self.ended_early(&config.name)));
            }
            let looked_at = Instant::now();
            let looked = match inside.answers() {
                true => look(inside, config.units()),
                false => None,
            };
            let waiting = match looked {
                Some(Readiness::Failed(units)) => {
                    return Err(failure(inside, config, &units));
                }
                Some(Readiness::Ready { told, .. }) if told || config.workload.notifies() => {
                    return Ok(());
                }
                Some(Readiness::Ready { run, .. }) => {
                    match &since {
                        Some((before, begin)) if *before == run => {
                            if begin.elapsed() >= STABLE {
                                return Ok(());
                            }
                        }
                        Some(_) | None => since = Some((run, Instant::now())),
                    }
                    vec![]
                }
                Some(Readiness::Waiting(units)) => {
                    since = None;
                    units
                }
                None => {
                    since = None;
                    vec![]
                }
            };
            if begin.elapsed() > timeout {
                return Err(Error::not_ready(if waiting.is_empty() {
                    format!(
                        "the sandbox '{}' did not come up within {} s; --timeout gives it more",
                        config.name,
                        timeout.as_secs()
                    )
                } else {
                    let error = failure(inside, config, &waiting);
                    format!(
                        "{error}\n(waited {} s; --timeout gives it more)",
                        timeout.as_secs()
                    )
                }));
            }
            // To look must not keep it from coming up.
            sleep(LOOK.max(looked_at.elapsed()));
        }
    }

    /// Serves the ports of a sandbox until it has ended, `stop` says so, or nobody has come for as long as it was configured with.
    /// One that reboots has not ended.
    ///
    /// # Errors
    /// Where there is no such sandbox, libvirt does not answer, or the ports cannot be served.
    pub fn wait(
        &self,
        name: &SandboxName,
        ports: &Ports,
        stop: &dyn Fn() -> bool,
    ) -> Result<Outcome> {
        let config = self.store.load(name)?;
        let _presence = Presence::new(&config.connection, config.name.as_str());
        let look = || -> Result<Option<Box<dyn Guest>>> {
            self.guest(&config, &self.hypervisor(&config)?)
        };
        let mut inside = look()?;
        while let Some(watched) = inside {
            let served = ports.serve(&*watched, stop);
            match served.map_err(Error::step(format!("serving the ports of '{name}'")))? {
                Outcome::Gone => {}
                end @ (Outcome::Stopped | Outcome::Idle) => return Ok(end),
            }
            let begin = Instant::now();
            inside = None;
            while inside.is_none() && begin.elapsed() < REBOOT {
                inside = look().ok().flatten().filter(|inside| inside.is_alive());
                sleep(LOOK);
            }
            if let Some(inside) = &inside {
                inside.share_controllers();
            }
        }
        Ok(Outcome::Gone)
    }
}

/// What systemd inside says of the units; `None` while it does not answer yet.
fn look(inside: &dyn Guest, units: &[String]) -> Option<Readiness> {
    let asked = show(inside, units.iter().map(String::as_str))?;
    let mut services: Vec<&str> = asked.iter().flat_map(UnitState::services).collect();
    services.sort_unstable();
    services.dedup();
    let behind = if services.is_empty() {
        vec![]
    } else {
        show(inside, services.into_iter())?
    };
    Some(judge(&asked, &behind))
}

fn show<'a>(inside: &dyn Guest, units: impl Iterator<Item = &'a str>) -> Option<Vec<UnitState>> {
    let mut command = vec!["systemctl", "show", "--property", ready::PROPERTIES, "--"];
    command.extend(units);
    let shown = inside
        .capture(&command)
        .ok()
        .filter(|shown| shown.success)?;
    Some(ready::parse(&shown.stdout))
}
