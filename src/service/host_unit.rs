//! Units of a sandbox for the host's systemd: the one that runs it, and the socket of one that starts on demand.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::config::network::Source;
use crate::config::network::publish::Protocol;
use crate::config::workload::Restart;
use crate::config::{Publish, SandboxConfig, SandboxName, Workload};
use crate::domain::template::Template;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::host;
use crate::service::store::Store;
use crate::sys::file::{atomic, remove};
use crate::sys::process::command as program;

/// Seconds the units inside may take to stop before the sandbox is ended by force.
pub(super) const STOP_SECONDS: u64 = 90;

/// Removes the host's units of a sandbox.
pub(super) fn remove(name: &SandboxName, store: &Store) -> Result<()> {
    let socket = remove_socket(name, store);
    let unit = store.unit(name);
    if store.is_enabled(name) {
        systemctl(&["disable", "--quiet", &name.unit()]);
    }
    let removed = remove::file(&unit).map_err(Error::io("removing", &unit));
    // systemd reads no other directory.
    if host::runs_systemd() && store.units == Store::default().units {
        systemctl(&["daemon-reload"]);
        reset_failed(&name.unit());
    }
    Error::of_all([socket, removed])
}

/// Removes the socket unit of a sandbox, if there is one.
fn remove_socket(name: &SandboxName, store: &Store) -> Result<()> {
    let socket = store.socket(name);
    if !socket.exists() {
        return Ok(());
    }
    if host::runs_systemd() {
        systemctl(&["disable", "--quiet", "--now", &name.socket()]);
        reset_failed(&name.socket());
    }
    remove::file(&socket).map_err(Error::io("removing", &socket))
}

/// Stops the host's unit of a sandbox, if one runs it. The caller must not hold the sandbox's lock: the
/// command of the unit takes it too.
pub(super) fn stop(name: &SandboxName, store: &Store) {
    if host::runs_systemd() && store.unit(name).exists() {
        systemctl(&["stop", "--", &name.unit()]);
    }
}

/// Reloads the host's systemd, if it runs.
pub(super) fn reload_host() {
    if host::runs_systemd() {
        systemctl(&["daemon-reload"]);
    }
}

pub(super) fn systemctl(arguments: &[&str]) {
    let shown = || format!("systemctl {}", arguments.join(" "));
    match program::capture("systemctl", arguments.iter().copied()) {
        Ok(captured) if captured.success => {}
        Ok(captured) => log::warn!("{}: {}", shown(), captured.stderr),
        Err(error) => log::warn!("{}: {error}", shown()),
    }
}

/// Writes the host's units of a sandbox. Returns false if the host has no directory for units.
pub(super) fn write(config: &SandboxConfig, store: &Store) -> Result<bool> {
    if !store.units.is_dir() {
        return Ok(false);
    }
    let name = &config.name;
    let mut units = vec![(store.unit(name), service(config, store)?)];
    if config.on_demand {
        units.push((store.socket(name), socket(config, store)?));
    } else {
        remove_socket(name, store)?;
    }
    units.retain(|(path, unit)| std::fs::read_to_string(path).ok().as_deref() != Some(unit));
    for (path, unit) in &units {
        atomic::write(path, unit.as_bytes(), 0o644)?;
    }
    if !units.is_empty() {
        reload_host();
    }
    Ok(true)
}

/// Renders the socket unit of a sandbox.
fn socket(config: &SandboxConfig, store: &Store) -> Result<String> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a SandboxName,
        ports: Vec<(&'static str, String)>,
    }
    let view = View {
        name: &config.name,
        ports: config.publish.iter().map(listening).collect(),
    };
    Template::HostSocket.render(&view, Some(&store.templates))
}

/// Renders the host's unit of a sandbox.
fn service(config: &SandboxConfig, store: &Store) -> Result<String> {
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
        daemons: Vec<String>,
    }
    let driver = Driver::of_service(&config.connection)?;
    let program = program::current_exe().map_err(Error::step("finding this program"))?;
    let view = View {
        name: &config.name,
        units: config.workload.host_units(),
        what: config.workload.to_string(),
        // A sandbox that ends with its command has succeeded.
        restart: match &config.workload {
            Workload::Command(command) => match command.restart {
                Restart::No => Restart::No,
                Restart::OnFailure | Restart::Always => Restart::OnFailure,
            },
            Workload::Units(_) => Restart::OnFailure,
        },
        program: program.display().to_string(),
        // If the units do not become active, the sandbox is stopped before the error is reported.
        start_seconds: u64::from(config.timeout)
            + driver.boot_time()?.as_secs()
            + STOP_SECONDS
            + 30,
        stop_seconds: STOP_SECONDS + 30,
        tree: config.path.display().to_string(),
        socket: config.on_demand.then(|| config.name.socket()),
        needs_online: needs_online(config),
        daemons: driver.daemon_units(),
    };
    Template::HostUnit.render(&view, Some(&store.templates))
}
/// Returns the setting that has systemd listen for a published port: `ListenStream=` and the like of systemd.socket(5).
fn listening(publish: &Publish) -> (&'static str, String) {
    let setting = match publish.protocol {
        Protocol::Tcp => "ListenStream",
        Protocol::Udp => "ListenDatagram",
    };
    let place = match publish.address {
        None => publish.host.to_string(),
        // A port alone would mean every address of both families.
        Some(address) => SocketAddr::new(address, publish.host.get()).to_string(),
    };
    (setting, place)
}

/// Resets the failed state of a unit in the host's systemd, which would keep listing it without a file.
fn reset_failed(unit: &str) {
    // The unit may not have failed at all.
    let _ = program::capture("systemctl", ["reset-failed", "--", unit]);
}

/// Returns true if a sandbox must wait for the host's network: a NIC is attached to it, or a port is published on an address of the host.
/// libvirt's own networks are ready with libvirt itself.
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
    fn sandboxes_on_the_hosts_network_wait_for_it() {
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

    #[test]
    fn the_socket_unit_listens_on_the_published_ports() {
        for (text, setting, place) in [
            ("8080:80", "ListenStream", "8080"),
            ("127.0.0.1:53:53/udp", "ListenDatagram", "127.0.0.1:53"),
            ("[::1]:8080:80", "ListenStream", "[::1]:8080"),
        ] {
            let publish = text.parse().unwrap();
            assert_eq!(listening(&publish), (setting, place.to_owned()));
        }
    }
}
