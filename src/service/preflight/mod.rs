//! Checks of a service before anything is created or started: missing units, and conditions that a sandbox does
//! not meet.

mod host_only;

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::{Capabilities, Device, SandboxConfig};
use crate::error::{Error, Result};
use crate::facts::discover::Service;
use crate::facts::unit::facts::capability::CapabilitySet;
use crate::facts::unit::facts::condition::{Check, Condition, Machine, Virtualization, unmet};
use crate::facts::unit::load::dirs::Located;
use crate::facts::unit::name::NameError;
use crate::facts::unit::special::Role;
use crate::facts::unit::{UnitDirs, UnitFacts, UnitName};
use crate::sys::root::Root;

/// Devices that libvirt gives to every container.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/console",
];

/// Returns the first of a sandbox's units that exists neither on the host nor in the sandbox's tree: systemd inside would guess another
/// unit from its name. A command has no units, and images are not checked.
///
/// # Errors
/// The units of the host cannot be listed, or a name is not that of a unit.
pub fn missing_unit<'u>(
    root: &Path,
    config: &SandboxConfig,
    units: &'u [String],
) -> Result<Option<&'u str>> {
    if config.workload.command().is_some() || config.image.is_some() || units.is_empty() {
        return Ok(None);
    }
    let dirs = UnitDirs::scan(root).map_err(Error::step("looking for units"))?;
    let tree = Root::new(&config.path)?;
    let is_own = |name: &UnitName| {
        let path = Path::new("/etc/systemd/system").join(name.as_str());
        tree.metadata(&path).is_ok()
    };
    for unit in units {
        let name: UnitName = unit
            .parse()
            .map_err(|error: NameError| Error::refused(error.to_string()))?;
        let is_there = !matches!(dirs.locate(&name), Located::Nowhere)
            || is_own(&name)
            || name.template().is_some_and(|template| is_own(&template));
        if !is_there {
            return Ok(Some(unit));
        }
    }
    Ok(None)
}

/// Refuses a requested unit that would silently not start in a container of the kind `container`, with these
/// `capabilities`, or in a virtual machine if that is `None`.
///
/// # Errors
/// The message names the unit and the condition or capability.
pub fn check(
    root: &Path,
    service: &Service,
    container: Option<&str>,
    capabilities: &Capabilities,
    devices: &[Device],
) -> Result<()> {
    host_only::check(root, service, container.is_some())?;
    let withheld: BTreeSet<String> = match container {
        Some(_) => (capabilities.dropped().iter())
            .map(|name| format!("CAP_{name}"))
            .collect(),
        // A machine has its own kernel.
        None => BTreeSet::new(),
    };
    let modules = loaded_modules();
    let machine = Machine {
        root,
        virtualization: match container {
            Some(container) => Virtualization::Container(container.to_owned()),
            None => Virtualization::Vm(String::new()),
        },
        capabilities: None,
        // A machine's own kernel loads modules on demand.
        modules: modules.as_ref().filter(|_| container.is_some()),
    };
    for unit in &service.units {
        let Some(member) = service.closure.member(unit) else {
            continue;
        };
        // Facts are not collected for these, so a missing one would only show at the start.
        if member.role == Role::NameOnly {
            return Err(Error::refused(format!(
                "'{unit}' is not a unit that can run in a sandbox; name a service, socket, timer, path or target"
            )));
        }
        let Some((_, facts)) = member.loaded.as_deref() else {
            continue;
        };
        if container.is_some() {
            warn_of_devices(unit, facts, devices);
        }
        check_conditions(unit, facts, &machine)?;
        check_capabilities(unit, facts, &withheld)?;
    }
    Ok(())
}

/// Warns of devices that the unit may use on the host, and that a container with `devices` does not have.
fn warn_of_devices(unit: &UnitName, facts: &UnitFacts, devices: &[Device]) {
    for rule in &facts.device_rules {
        let is_node = rule.device.starts_with("/dev/") && Path::new(&rule.device).exists();
        let is_there = DEVICES.contains(&rule.device.as_str())
            || (devices.iter()).any(|device| device.path() == Path::new(&rule.device));
        if is_node && !is_there {
            log::warn!(
                "'{unit}' uses '{0}', which a container does not have; '--device {0}' gives it to the sandbox",
                rule.device
            );
        }
    }
}

/// Refuses a unit with a condition that is not met in a sandbox.
fn check_conditions(unit: &UnitName, facts: &UnitFacts, machine: &Machine<'_>) -> Result<()> {
    let unmet = unmet(&facts.conditions, machine);
    let failed = unmet.into_iter().find(|condition| match &condition.check {
        Check::Virtualization(_) | Check::KernelModuleLoaded(_) => true,
        // The tree is a copy of these paths; files made at boot cannot be checked here.
        Check::PathExists(path)
        | Check::PathIsDirectory(path)
        | Check::FileNotEmpty(path)
        | Check::DirectoryNotEmpty(path) => ["/etc", "/usr", "/dev"]
            .iter()
            .any(|top| path.starts_with(top)),
        Check::Capability(_) | Check::Other { .. } => false,
    });
    failed.map_or(Ok(()), |condition| Err(refusal(unit, condition)))
}

/// Refuses a unit that needs a capability that is `withheld` from the whole sandbox.
fn check_capabilities(
    unit: &UnitName,
    facts: &UnitFacts,
    withheld: &BTreeSet<String>,
) -> Result<()> {
    let needed = facts
        .conditions
        .iter()
        .filter(|condition| !condition.negated);
    let conditions = needed.filter_map(|condition| match &condition.check {
        Check::Capability(name) => withheld.get(&name.to_ascii_uppercase()),
        Check::PathExists(_)
        | Check::PathIsDirectory(_)
        | Check::FileNotEmpty(_)
        | Check::DirectoryNotEmpty(_)
        | Check::Virtualization(_)
        | Check::KernelModuleLoaded(_)
        | Check::Other { .. } => None,
    });
    let conditions: Vec<&str> = conditions.map(String::as_str).collect();
    let withheld = || withheld.iter().map(String::as_str);
    // systemd fails if it cannot raise a capability (EXIT_CAPABILITIES, systemd.exec(5)); one in the bounding set alone is merely
    // absent.
    let ambient = facts.ambient_capabilities.among(withheld());
    if let Some(bounding) = &facts.bounding_set {
        let missing = match bounding {
            CapabilitySet::Only(_) => bounding.among(withheld()),
            CapabilitySet::AllBut(_) => vec![],
        };
        if !missing.is_empty() {
            log::debug!("'{unit}' will be without {}", missing.join(" "));
        }
    }
    for (key, missing) in [
        ("ConditionCapability=", conditions),
        ("AmbientCapabilities=", ambient),
    ] {
        if let Some(first) = missing.first() {
            let names = missing.join(" ");
            let option = first.trim_start_matches("CAP_").to_ascii_lowercase();
            return Err(Error::refused(format!(
                "'{unit}' would not start in a sandbox: its {key} asks for {names}, with which it would change the host itself; \
                 a drop-in for the unit can do without, and '--cap-add {option}' lets the sandbox have it"
            )));
        }
    }
    Ok(())
}

/// Makes the error for an unmet condition. A path missing below /etc or /usr is missing on the host too, where the administrator
/// must add it.
fn refusal(unit: &UnitName, condition: &Condition) -> Error {
    Error::refused(match condition.path() {
        Some(path) if !path.starts_with("/dev") => format!(
            "'{unit}' would not start, in a sandbox or on the host: its '{condition}' is not met; put '{}' right on the host first",
            path.display()
        ),
        Some(_) | None => format!(
            "'{unit}' would not start in a sandbox: its '{condition}' is not met there; if it works all the same, a drop-in for the \
             unit on the host can reset the condition"
        ),
    })
}

fn loaded_modules() -> Option<BTreeSet<String>> {
    let text = std::fs::read_to_string("/proc/modules").ok()?;
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    // A kernel without modules has everything built in and does not list it.
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_missing_files_of_the_host_from_those_of_a_sandbox() {
        let unit = UnitName::exact("web.service").unwrap();
        for (key, value, expected) in [
            (
                "ConditionPathExists",
                "/etc/web.conf",
                "put '/etc/web.conf' right",
            ),
            ("ConditionPathExists", "/dev/tty0", "in a sandbox: its"),
            ("ConditionVirtualization", "!container", "in a sandbox: its"),
        ] {
            let condition = Condition::parse(key, value).unwrap();
            let told = refusal(&unit, &condition).to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
