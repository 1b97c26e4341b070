//! Units of libvirt's daemons that serve the sandboxes of a driver.
//!
//! libvirt has one monolithic daemon, libvirtd, or one daemon for each driver. A host may have the units of both, but uses one kind:
//! the sockets of virtlxcd, virtqemud and virtnetworkd conflict with `libvirtd.socket` (libvirt's `src/*/virt*d.socket.in`), so
//! wanting those of the other kind would stop the daemons that serve this host.

use std::collections::BTreeMap;

use crate::driver::Driver;
use crate::host;
use crate::sys::process::command;

/// Monolithic daemon.
const MONOLITHIC: &str = "libvirtd";

/// Modular daemon for virtual networks.
const NETWORK: &str = "virtnetworkd";

/// Relation of the host's systemd to a unit. Units that are neither are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Started at boot.
    Enabled,
    /// Running or listening now.
    Active,
}

/// Units that are enabled or active.
type States = BTreeMap<String, State>;

impl Driver {
    /// Returns the units of the daemons of this host that serve sandboxes, for units that want them; none if systemd does not run
    /// the host, or does not answer.
    #[must_use]
    pub fn daemon_units(self) -> Vec<String> {
        if !host::runs_systemd() {
            return vec![];
        }
        let names = [MONOLITHIC, modular(self), NETWORK];
        let units: Vec<String> = names.into_iter().flat_map(units).collect();
        let arguments = ["show", "--property=Id,UnitFileState,ActiveState", "--"].into_iter();
        let answer = command::capture(
            "systemctl",
            arguments.chain(units.iter().map(String::as_str)),
        );
        answer.map_or_else(|_| vec![], |answer| choose(self, &parse(&answer.stdout)))
    }
}

/// Returns the modular daemon of a driver.
fn modular(driver: Driver) -> &'static str {
    match driver {
        Driver::Lxc => "virtlxcd",
        Driver::Qemu(_) => "virtqemud",
    }
}

/// Returns the units of a daemon, the socket first: it starts the service when somebody connects.
fn units(daemon: &str) -> [String; 2] {
    [format!("{daemon}.socket"), format!("{daemon}.service")]
}

/// Parses the answer of `systemctl show`: properties of units, with an empty line between two of them.
fn parse(answer: &str) -> States {
    let parse_unit = |text: &str| {
        let property = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let state = match (property("ActiveState"), property("UnitFileState")) {
            (Some("active" | "activating" | "reloading"), _) => State::Active,
            (_, Some("enabled" | "enabled-runtime")) => State::Enabled,
            _ => return None,
        };
        Some((property("Id")?.to_owned(), state))
    };
    answer.split("\n\n").filter_map(parse_unit).collect()
}

/// Chooses the units of the kind of daemons in use: active ones come before those that are only enabled, and the monolithic
/// daemon before modular ones that are as much in use. Each daemon has its socket, or its service where the socket is not used.
fn choose(driver: Driver, states: &States) -> Vec<String> {
    let unit = |daemon: &str| {
        units(daemon)
            .into_iter()
            .find(|unit| states.contains_key(unit))
    };
    let used = |daemon: &str| {
        let states = units(daemon).map(|unit| states.get(&unit).copied());
        states.into_iter().max().flatten()
    };
    let daemons = match used(MONOLITHIC) >= used(modular(driver)) {
        true => vec![MONOLITHIC],
        false => vec![modular(driver), NETWORK],
    };
    daemons.into_iter().filter_map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Qemu;

    /// Returns the units that sandboxes of each driver want on a host with these ones, as `(unit, UnitFileState, ActiveState)`.
    fn wanted_by(units: &[(&str, &str, &str)]) -> [Vec<String>; 2] {
        let shown = units.iter().map(|(id, file, active)| {
            format!("Id={id}\nActiveState={active}\nUnitFileState={file}\n")
        });
        let states = parse(&shown.collect::<Vec<_>>().join("\n"));
        [Driver::Lxc, Driver::Qemu(Qemu::System)].map(|driver| choose(driver, &states))
    }

    #[test]
    fn monolithic_daemons_are_wanted_where_there_are_no_others() {
        let wanted = wanted_by(&[
            ("libvirtd.socket", "enabled", "active"),
            ("libvirtd.service", "enabled", "inactive"),
            ("virtlxcd.socket", "", "inactive"),
        ]);
        assert_eq!(wanted, [["libvirtd.socket"], ["libvirtd.socket"]]);
    }

    #[test]
    fn modular_daemons_are_wanted_where_there_are_no_others() {
        let wanted = wanted_by(&[
            ("virtlxcd.socket", "enabled", "active"),
            ("virtlxcd.service", "enabled", "active"),
            ("virtqemud.socket", "enabled", "active"),
            ("virtnetworkd.socket", "enabled", "active"),
            ("virtproxyd.socket", "enabled", "active"),
        ]);
        assert_eq!(wanted[0], ["virtlxcd.socket", "virtnetworkd.socket"]);
        assert_eq!(wanted[1], ["virtqemud.socket", "virtnetworkd.socket"]);
    }

    #[test]
    fn modular_units_that_are_enabled_never_replace_an_active_libvirtd() {
        let wanted = wanted_by(&[
            ("libvirtd.socket", "disabled", "active"),
            ("virtlxcd.socket", "enabled", "inactive"),
            ("virtqemud.socket", "disabled", "inactive"),
            ("virtnetworkd.socket", "enabled", "inactive"),
        ]);
        assert_eq!(wanted, [["libvirtd.socket"], ["libvirtd.socket"]]);
    }

    #[test]
    fn an_enabled_libvirtd_never_replaces_active_modular_daemons() {
        let wanted = wanted_by(&[
            ("libvirtd.socket", "enabled", "inactive"),
            ("libvirtd.service", "enabled", "inactive"),
            ("virtlxcd.socket", "disabled", "active"),
            ("virtqemud.service", "disabled", "active"),
            ("virtnetworkd.socket", "disabled", "active"),
        ]);
        assert_eq!(wanted[0], ["virtlxcd.socket", "virtnetworkd.socket"]);
        assert_eq!(wanted[1], ["virtqemud.service", "virtnetworkd.socket"]);
    }

    #[test]
    fn a_daemon_without_its_socket_is_wanted_by_its_service() {
        let wanted = wanted_by(&[
            ("libvirtd.socket", "masked", "inactive"),
            ("libvirtd.service", "enabled", "active"),
        ]);
        assert_eq!(wanted, [["libvirtd.service"], ["libvirtd.service"]]);
    }

    #[test]
    fn without_units_in_use_none_is_wanted() {
        let none: Vec<String> = vec![];
        assert_eq!(wanted_by(&[]), [none.clone(), none.clone()]);
        let installed = wanted_by(&[("libvirtd.socket", "disabled", "inactive")]);
        assert_eq!(installed, [none.clone(), none]);
    }
}
