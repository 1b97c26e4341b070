//! The host's units of a sandbox: the one that runs it, and the one that listens for it where it is started on demand.

use std::net::IpAddr;

use serde::Serialize;

use crate::config::network::Source;
use crate::config::workload::Restart;
use crate::config::{SandboxConfig, SandboxName, Workload};
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::host;
use crate::service::lifecycle::ports;
use crate::service::sandboxes::Sandboxes;
use crate::sys::file::atomic;
use crate::sys::process::command as program;

impl Sandboxes {
    /// Removes the host's unit of a sandbox.
    pub(in crate::service) fn remove_unit(&self, name: &SandboxName) {
        self.remove_socket(name);
        let unit = self.store.unit(name);
        if self.store.is_enabled(name) {
            self.systemctl(&["disable", "--quiet", &name.unit()]);
        }
        let _ = std::fs::remove_file(&unit);
        self.reload_host();
        if host::runs_systemd() {
            reset_failed(&name.unit());
        }
    }

    /// Removes the host's unit that listens for a sandbox, where there is one.
    fn remove_socket(&self, name: &SandboxName) {
        let socket = self.store.socket(name);
        if !socket.exists() {
            return;
        }
        if host::runs_systemd() {
            self.systemctl(&["disable", "--quiet", "--now", &name.socket()]);
            reset_failed(&name.socket());
        }
        let _ = std::fs::remove_file(&socket);
    }

    /// Stops the host's unit of a sandbox, where there is one that runs it. Not to be called under the sandbox's lock, which
    /// what the unit runs takes too.
    pub(in crate::service) fn stop_unit(&self, name: &SandboxName) {
        if host::runs_systemd() && self.store.unit(name).exists() {
            self.systemctl(&["stop", "--", &name.unit()]);
        }
    }

    /// Has the host's systemd read its units again, where there is one.
    pub(in crate::service) fn reload_host(&self) {
        if host::runs_systemd() {
            self.systemctl(&["daemon-reload"]);
        }
    }

    pub(in crate::service) fn systemctl(&self, arguments: &[&str]) {
        let shown = || format!("systemctl {}", arguments.join(" "));
        match program::capture("systemctl", arguments.iter().copied()) {
            Ok(captured) if captured.success => {}
            Ok(captured) => log::warn!("{}: {}", shown(), captured.stderr),
            Err(error) => log::warn!("{}: {error}", shown()),
        }
    }

    /// Writes the host's units of a sandbox. `false` if the host has no place for units.
    pub(in crate::service) fn write_unit(&self, config: &SandboxConfig) -> Result<bool> {
        if !self.store.units.is_dir() {
            return Ok(false);
        }
        let name = &config.name;
        let mut units = vec![(self.store.unit(name), self.host_unit(config)?)];
        if config.on_demand {
            units.push((self.store.socket(name), self.host_socket(config)?));
        } else {
            self.remove_socket(name);
        }
        units.retain(|(path, unit)| std::fs::read_to_string(path).ok().as_deref() != Some(unit));
        for (path, unit) in &units {
            atomic::write(path, unit.as_bytes(), 0o644)?;
        }
        if !units.is_empty() {
            self.reload_host();
        }
        Ok(true)
    }

    /// The host's unit that listens for a sandbox.
    ///
    /// # Errors
    /// Where the template is wrong.
    pub fn host_socket(&self, config: &SandboxConfig) -> Result<String> {
        #[derive(Serialize)]
        struct View<'a> {
            name: &'a SandboxName,
            ports: Vec<(&'static str, String)>,
        }
        let view = View {
            name: &config.name,
            ports: config.publish.iter().map(ports::listening).collect(),
        };
        Template::HostSocket.render(&view, Some(&self.store.templates))
    }

    /// The host's unit of a sandbox.
    ///
    /// # Errors
    /// Where the template is wrong.
    pub fn host_unit(&self, config: &SandboxConfig) -> Result<String> {
        #[derive(Serialize)]
        struct View<'a> {
            name: &'a SandboxName,
            units: &'a [String],
            what: String,
            restart: Restart,
            program: String,
            start_seconds: u64,
            stop_seconds: u64,
            tree: String,
            socket: Option<String>,
            needs_online: bool,
        }
        let program = program::current_exe().map_err(Error::step("finding this program"))?;
        let view = View {
            name: &config.name,
            units: config.workload.host_units(),
            what: config.workload.to_string(),
            // One that ends with its command has done what it was for.
            restart: match &config.workload {
                Workload::Command(command) => match command.restart {
                    Restart::No => Restart::No,
                    Restart::OnFailure | Restart::Always => Restart::OnFailure,
                },
                Workload::Units(_) => Restart::OnFailure,
            },
            program: program.display().to_string(),
            // Where the units do not come up the sandbox is stopped again before it is said why.
            start_seconds: u64::from(config.timeout)
                + self.driver(config)?.boot_time()?.as_secs()
                + super::stop::STOP_SECONDS
                + 30,
            stop_seconds: super::stop::STOP_SECONDS + 30,
            tree: config.path.display().to_string(),
            socket: config.on_demand.then(|| config.name.socket()),
            needs_online: needs_online(config),
        };
        Template::HostUnit.render(&view, Some(&self.store.templates))
    }
}

/// Has the host's systemd forget that a unit has failed, which would stay in its list without a file.
fn reset_failed(unit: &str) {
    // That it has not failed is no matter.
    let _ = program::capture("systemctl", ["reset-failed", "--", unit]);
}

/// Whether a sandbox has to wait for the host's network to be configured: it is plugged into it, or answers on one address of the host.
/// One of libvirt's own networks is there as soon as libvirt is.
fn needs_online(config: &SandboxConfig) -> bool {
    let is_outside = |source: &Source| match source {
        Source::Bridge(_) | Source::Direct { .. } => true,
        Source::Network(_) | Source::User => false,
    };
    let is_of_host = |address: IpAddr| !address.is_unspecified() && !address.is_loopback();
    config
        .networks
        .iter()
        .filter_map(|nic| nic.source.as_ref())
        .any(is_outside)
        || config
            .publish
            .iter()
            .filter_map(|port| port.address)
            .any(is_of_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_hosts_network_waits_for_it() {
        let sandbox = |nics: &[&str], ports: &[&str]| SandboxConfig {
            networks: nics.iter().map(|text| text.parse().unwrap()).collect(),
            publish: ports.iter().map(|text| text.parse().unwrap()).collect(),
            ..SandboxConfig::example()
        };
        assert!(!needs_online(&sandbox(&[], &[])));
        assert!(!needs_online(&sandbox(
            &["dhcp,source=default", "dhcp"],
            &["8080:80", "127.0.0.1:81:81", "[::1]:82:82", "0.0.0.0:83:83"]
        )));
        assert!(needs_online(&sandbox(&["dhcp,bridge=br0"], &[])));
        assert!(needs_online(&sandbox(&["dhcp,direct=eth0"], &[])));
        assert!(needs_online(&sandbox(&[], &["192.0.2.1:80:80"])));
    }
}
