//! Daemons of libvirt on this host, and their units.
//!
//! libvirt has one monolithic daemon, libvirtd, or one daemon for each driver. A host may have the units of both, but uses one kind:
//! the sockets of virtlxcd, virtqemud and virtnetworkd conflict with `libvirtd.socket` (libvirt's `src/*/virt*d.socket.in`), so
//! wanting those of the other kind would stop the daemons that serve this host.

use std::collections::BTreeMap;
use std::path::Path;

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

/// Directories of units on the host (systemd.unit(5)).
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Directory with the sockets of the system's daemons.
const SOCKETS: &str = "/run/libvirt";

/// Returns the modular daemon of a driver, by the scheme of its URIs.
#[must_use]
pub fn modular(scheme: &str) -> &'static str {
    match scheme {
        "lxc" => "virtlxcd",
        _ => "virtqemud",
    }
}

/// Returns whether the socket of a daemon of the system is there; virtproxyd has that of libvirtd.
#[must_use]
pub fn listens(root: &Path, daemon: &str) -> bool {
    let name = match daemon {
        MONOLITHIC => "libvirt-sock".to_owned(),
        _ => format!("{daemon}-sock"),
    };
    below(root, SOCKETS).join(name).exists()
}

/// Returns whether a daemon is installed.
#[must_use]
pub fn is_installed(root: &Path, daemon: &str) -> bool {
    let has_unit = |unit: &String| UNITS.iter().any(|dir| below(root, dir).join(unit).exists());
    units(daemon).iter().any(has_unit) || below(root, "/usr/sbin").join(daemon).exists()
}

/// Returns whether no daemon has the driver of `modular`: another daemon listens, but that one is not installed.
#[must_use]
pub fn lack_driver(root: &Path, modular: &str) -> bool {
    let others = [MONOLITHIC, "virtlxcd", "virtqemud"];
    !is_installed(root, modular) && others.iter().any(|daemon| listens(root, daemon))
}

/// Returns how to start the daemons that have the driver of `modular`.
#[must_use]
pub fn remedy(root: &Path, modular: &str) -> String {
    let daemons = match (is_installed(root, MONOLITHIC), is_installed(root, modular)) {
        (false, true) => vec![modular, NETWORK],
        (true, true) if modular_is_used(&states(modular), modular) => vec![modular, NETWORK],
        (true, _) => vec![MONOLITHIC],
        (false, false) => return "install libvirt's daemon".to_owned(),
    };
    match host::runs_systemd() {
        true => {
            let sockets = daemons.iter().map(|daemon| format!("{daemon}.socket"));
            let sockets = sockets.collect::<Vec<_>>().join(" ");
            format!("start it with 'systemctl start {sockets}'")
        }
        false => {
            let commands = daemons.iter().map(|daemon| format!("'{daemon} -d'"));
            format!(
                "start it with {}",
                commands.collect::<Vec<_>>().join(" and ")
            )
        }
    }
}

/// Returns the units of the daemons of this host that have the driver of `modular`, for units that want them; none if systemd does
/// not run the host, or does not answer.
#[must_use]
pub fn wanted_units(modular: &str) -> Vec<String> {
    choose(modular, &states(modular))
}

fn below(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Asks the host's systemd for the states of units.
fn states(modular: &str) -> States {
    if !host::runs_systemd() {
        return States::new();
    }
    let names = [MONOLITHIC, modular, NETWORK];
    let units: Vec<String> = names.into_iter().flat_map(units).collect();
    let arguments = ["show", "--property=Id,UnitFileState,ActiveState", "--"].into_iter();
    let answer = command::capture(
        "systemctl",
        arguments.chain(units.iter().map(String::as_str)),
    );
    answer.map_or_else(|_| States::new(), |answer| parse(&answer.stdout))
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

/// Returns whether the modular daemons are in use: active units come before those that are only enabled, and the monolithic daemon
/// before modular ones that are as much in use.
fn modular_is_used(states: &States, modular: &str) -> bool {
    let used = |daemon: &str| {
        let states = units(daemon).map(|unit| states.get(&unit).copied());
        states.into_iter().max().flatten()
    };
    used(modular) > used(MONOLITHIC)
}

/// Chooses the units of the kind of daemons in use. Each daemon has its socket, or its service where the socket is not used.
fn choose(modular: &str, states: &States) -> Vec<String> {
    let unit = |daemon: &str| {
        let mut units = units(daemon).into_iter();
        units.find(|unit| states.contains_key(unit))
    };
    let daemons = match modular_is_used(states, modular) {
        true => vec![modular, NETWORK],
        false => vec![MONOLITHIC],
    };
    daemons.into_iter().filter_map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the units that sandboxes of each driver want on a host with these ones, as `(unit, UnitFileState, ActiveState)`.
    fn wanted_by(units: &[(&str, &str, &str)]) -> [Vec<String>; 2] {
        let shown = units.iter().map(|(id, file, active)| {
            format!("Id={id}\nActiveState={active}\nUnitFileState={file}\n")
        });
        let states = parse(&shown.collect::<Vec<_>>().join("\n"));
        ["virtlxcd", "virtqemud"].map(|modular| choose(modular, &states))
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

    /// Makes a host with these files.
    fn host(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn a_driver_is_lacked_where_other_daemons_listen() {
        let lacks = |files: &[&str], modular| lack_driver(host(files).path(), modular);
        let proxy = [
            "run/libvirt/libvirt-sock",
            "run/libvirt/virtqemud-sock",
            "usr/sbin/virtqemud",
        ];
        assert!(lacks(&proxy, "virtlxcd"));
        assert!(!lacks(&proxy, "virtqemud"));
        // Its daemon does not run, or nothing is known.
        let stopped = [
            "run/libvirt/libvirt-sock",
            "usr/lib/systemd/system/virtlxcd.socket",
        ];
        assert!(!lacks(&stopped, "virtlxcd"));
        assert!(!lacks(&["usr/sbin/libvirtd"], "virtlxcd"));
    }

    #[test]
    fn the_remedy_names_a_daemon_that_is_installed() {
        let remedy = |files: &[&str]| remedy(host(files).path(), "virtlxcd");
        let monolithic = remedy(&["usr/sbin/libvirtd"]);
        assert!(
            monolithic.contains("libvirtd") && !monolithic.contains("virtlxcd"),
            "{monolithic}"
        );
        let modular = remedy(&["lib/systemd/system/virtlxcd.socket"]);
        assert!(
            modular.contains("virtlxcd") && modular.contains("virtnetworkd"),
            "{modular}"
        );
        assert!(remedy(&[]).contains("install"));
    }
}
