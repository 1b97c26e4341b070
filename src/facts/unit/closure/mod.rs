//! Closure of a set of units: the requested ones and all that they pull in.
//!
//! The closure follows requirements, wants, `Also=`, and the triggers of services (sockets, timers, paths).
//! `PartOf=`, `Before=`, `After=` and `OnFailure=` are ignored, because they pull nothing into a start. Special
//! targets stay names, because they would pull in everything that the host has enabled.

use std::collections::{BTreeMap, VecDeque};

use super::facts::UnitFacts;
use super::load::dirs::{Located, UnitDirs};
use super::load::{LoadError, Unit};
use super::name::{UnitKind, UnitName};
use super::special::{Role, role};
use super::syntax::specifier::Specifiers;

/// Reason why a unit is in a closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The user requested it.
    Asked,
    /// The named unit requires it: `Requires=`, `Requisite=`, `BindsTo=`, `.requires`.
    RequiredBy(UnitName),
    /// The named unit wants it: `Wants=`, `Upholds=`, `Sockets=`, `.wants`.
    WantedBy(UnitName),
    /// `Also=` enables it together with the named unit.
    Also(UnitName),
    /// Trigger of the named unit by its `Service=` or `Unit=`.
    Triggers(UnitName),
    /// The named socket, timer or path starts it.
    TriggeredBy(UnitName),
}

impl Reason {
    /// Returns true if the sandbox cannot work without the unit.
    fn is_must(&self) -> bool {
        match self {
            Self::Asked | Self::RequiredBy(_) | Self::TriggeredBy(_) => true,
            Self::WantedBy(_) | Self::Also(_) | Self::Triggers(_) => false,
        }
    }
}

/// A unit of a closure.
#[derive(Debug, Clone)]
pub struct Member {
    /// Canonical name.
    pub name: UnitName,
    /// Role in the sandbox.
    pub role: Role,
    /// Reasons in the order in which they were found; never empty.
    pub reasons: Vec<Reason>,
    /// The unit and its facts, or `None` where only the name matters.
    pub loaded: Option<Box<(Unit, UnitFacts)>>,
}

/// A required unit that cannot be loaded.
#[derive(Debug)]
pub struct Missing {
    /// Name of the unit.
    pub name: UnitName,
    /// Reason why it is required.
    pub reason: Reason,
    /// Error of the load.
    pub error: LoadError,
}

/// Units that belong together.
#[derive(Debug, Default)]
pub struct Closure {
    /// Members: the requested units first, then in the order in which they were found.
    pub members: Vec<Member>,
    /// Required units that do not exist or are masked.
    pub missing: Vec<Missing>,
}

impl Closure {
    /// Makes a closure of one unit that pulls in no other.
    pub fn alone(unit: Unit, specifiers: &Specifiers) -> Self {
        let facts = unit.facts(specifiers);
        Self {
            members: vec![Member {
                name: unit.name.clone(),
                role: Role::Service,
                reasons: vec![Reason::Asked],
                loaded: Some(Box::new((unit, facts))),
            }],
            missing: vec![],
        }
    }

    /// Returns the member with this name or alias.
    pub fn member(&self, name: &UnitName) -> Option<&Member> {
        self.members.iter().find(|member| {
            member.name == *name
                || member
                    .loaded
                    .as_ref()
                    .is_some_and(|loaded| loaded.0.aliases.contains(name))
        })
    }
}

/// Computes the closure of the requested units.
pub fn closure(dirs: &UnitDirs, asked: &[UnitName], specifiers: &Specifiers) -> Closure {
    let triggers = triggers_by_service(dirs, specifiers);
    let mut closure = Closure::default();
    let mut queue: VecDeque<(UnitName, Reason)> = asked
        .iter()
        .map(|name| (name.clone(), Reason::Asked))
        .collect();
    while let Some((name, reason)) = queue.pop_front() {
        let canonical = match dirs.locate(&name) {
            Located::Fragment { name, .. } | Located::SysV { name, .. } => name,
            Located::Masked { .. } | Located::Dangling { .. } | Located::Nowhere => name.clone(),
        };
        if let Some(known) = closure
            .members
            .iter_mut()
            .find(|member| member.name == canonical)
        {
            if !known.reasons.contains(&reason) {
                known.reasons.push(reason);
            }
            continue;
        }
        // An alias may be special while the name is not: D-Bus has several implementations.
        let role = if role(&name) == Role::System {
            Role::System
        } else {
            role(&canonical)
        };
        match member(dirs, &name, role, &reason, specifiers) {
            Ok(member) => {
                if let Some(loaded) = &member.loaded {
                    queue.extend(followed(&loaded.1, triggers.get(&canonical)));
                }
                closure.members.push(member);
            }
            Err(error) if reason.is_must() => {
                if closure.missing.iter().all(|other| other.name != name) {
                    closure.missing.push(Missing {
                        name,
                        reason,
                        error,
                    });
                }
            }
            // A unit that is only wanted may be absent; systemd ignores that too.
            Err(_) => {}
        }
    }
    closure
}

/// Loads a unit whose needs matter.
fn member(
    dirs: &UnitDirs,
    name: &UnitName,
    role: Role,
    reason: &Reason,
    specifiers: &Specifiers,
) -> Result<Member, LoadError> {
    let member = |name: &UnitName, loaded| Member {
        name: name.clone(),
        role,
        reasons: vec![reason.clone()],
        loaded,
    };
    // Mounts and slices come from fstab or on demand, so there may be no file.
    if role == Role::NameOnly {
        return Ok(member(name, None));
    }
    let mut unit = dirs.load(name)?;
    let mut facts = unit.facts(specifiers);
    // A socket with Accept=yes makes instances of its template for each connection,
    // so the sandbox needs the template itself. Any other template means its default instance.
    if unit.name.is_template() && !matches!(reason, Reason::TriggeredBy(_)) {
        let default = facts.install.default_instance.as_deref();
        let instance = default.and_then(|instance| unit.name.instantiate(instance).ok());
        unit = match instance {
            Some(instance) => dirs.load(&instance)?,
            None => return Err(LoadError::NoInstance { name: unit.name }),
        };
        facts = unit.facts(specifiers);
    }
    let asked_for = *reason == Reason::Asked && name.kind() != UnitKind::Target;
    let name = unit.name.clone();
    let loaded = (role == Role::Service || asked_for).then(|| Box::new((unit, facts)));
    Ok(member(&name, loaded))
}

/// Returns the units that a unit pulls in, and its triggers.
fn followed(
    facts: &UnitFacts,
    triggers: Option<&Vec<(UnitName, Vec<UnitName>)>>,
) -> Vec<(UnitName, Reason)> {
    let own = &facts.name;
    let dependencies = &facts.dependencies;
    // Within an instance, a template means the instance of the same name.
    let here = |name: &UnitName| match own.instance() {
        Some(instance) => name.instantiate(instance).unwrap_or_else(|_| name.clone()),
        None => name.clone(),
    };
    let mut all = Vec::new();
    all.extend(
        dependencies
            .requires
            .iter()
            .map(|name| (here(name), Reason::RequiredBy(own.clone()))),
    );
    all.extend(
        dependencies
            .triggers
            .iter()
            .map(|name| (here(name), Reason::TriggeredBy(own.clone()))),
    );
    all.extend(
        dependencies
            .wants
            .iter()
            .map(|name| (here(name), Reason::WantedBy(own.clone()))),
    );
    all.extend(
        dependencies
            .sockets
            .iter()
            .map(|name| (here(name), Reason::WantedBy(own.clone()))),
    );
    all.extend(
        facts
            .install
            .also
            .iter()
            .map(|name| (here(name), Reason::Also(own.clone()))),
    );
    for (trigger, conflicts) in triggers.into_iter().flatten() {
        // A socket that conflicts with its service is an alternative to it, not a part of it.
        if !conflicts.contains(own) && !dependencies.conflicts.contains(trigger) {
            all.push((trigger.clone(), Reason::Triggers(own.clone())));
        }
    }
    all
}

/// Returns the triggers of each unit: sockets, timers and paths that name it, and enabled sockets of the same name,
/// each with the units that it conflicts with.
fn triggers_by_service(
    dirs: &UnitDirs,
    specifiers: &Specifiers,
) -> BTreeMap<UnitName, Vec<(UnitName, Vec<UnitName>)>> {
    let mut found: BTreeMap<UnitName, Vec<(UnitName, Vec<UnitName>)>> = BTreeMap::new();
    // A service may run with or without its socket: the administrator decides by enabling it.
    let enabled: Vec<UnitName> = UnitName::exact("sockets.target")
        .ok()
        .and_then(|sockets| dirs.load(&sockets).ok())
        .map(|sockets| sockets.wants_links)
        .unwrap_or_default();
    for name in dirs.names() {
        let starts_others = matches!(
            name.kind(),
            UnitKind::Socket | UnitKind::Timer | UnitKind::Path
        );
        if !starts_others || name.is_template() || role(name) == Role::System {
            continue;
        }
        let Ok(unit) = dirs.load(name) else { continue };
        // Skip aliases: the unit is listed under its own name.
        if unit.name != *name {
            continue;
        }
        let dependencies = unit.facts(specifiers).dependencies;
        if let Some(service) = dependencies
            .triggers
            .filter(|_| dependencies.triggers_named || enabled.contains(name))
        {
            let service = match dirs.locate(&service) {
                Located::Fragment { name, .. } | Located::SysV { name, .. } => name,
                Located::Masked { .. } | Located::Dangling { .. } | Located::Nowhere => service,
            };
            found
                .entry(service)
                .or_default()
                .push((unit.name, dependencies.conflicts));
        }
    }
    found
}

#[cfg(test)]
mod tests;
