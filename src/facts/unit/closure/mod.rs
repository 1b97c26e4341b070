//! The units that belong together: what is asked for, and what these pull in.
//!
//! Followed are requirements, wishes, `Also=`, and sockets, timers and paths with their services.
//! `PartOf=`, `Before=`, `After=` and `OnFailure=` are not: they pull nothing into a start. Special
//! targets are kept as names, since they pull in whatever the host has enabled.

use std::collections::{BTreeMap, VecDeque};

use super::facts::UnitFacts;
use super::load::dirs::{Located, UnitDirs};
use super::load::{LoadError, Unit};
use super::name::{UnitKind, UnitName};
use super::special::{Role, role};
use super::syntax::specifier::Specifiers;

/// Why a unit is in a closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was asked for.
    Asked,
    /// This unit needs it: `Requires=`, `Requisite=`, `BindsTo=`, `.requires`.
    RequiredBy(UnitName),
    /// This unit wishes it: `Wants=`, `Upholds=`, `Sockets=`, `.wants`.
    WantedBy(UnitName),
    /// It is enabled together with this unit: `Also=`.
    Also(UnitName),
    /// It starts this unit, which it names in `Service=` or `Unit=`.
    Triggers(UnitName),
    /// This socket, timer or path starts it.
    TriggeredBy(UnitName),
}

impl Reason {
    /// Whether the sandbox cannot do without the unit.
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
    /// Its name, with aliases followed.
    pub name: UnitName,
    /// What it is to the sandbox.
    pub role: Role,
    /// Why it is here, the first reason first; never empty.
    pub reasons: Vec<Reason>,
    /// The unit and its facts; not loaded where only the name counts.
    pub loaded: Option<Box<(Unit, UnitFacts)>>,
}

/// A unit that is needed and cannot be had.
#[derive(Debug)]
pub struct Missing {
    /// Its name.
    pub name: UnitName,
    /// Why it is needed.
    pub reason: Reason,
    /// What is wrong with it.
    pub error: LoadError,
}

/// Units that belong together.
#[derive(Debug, Default)]
pub struct Closure {
    /// Those asked for first, then in the order they were met.
    pub members: Vec<Member>,
    /// Those that are required and are not there, or are masked.
    pub missing: Vec<Missing>,
}

impl Closure {
    /// A unit that pulls in no other.
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

    /// The member of a name or alias.
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

/// Gathers `asked` and all that belongs to them.
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
        // An alias may be special where the name is not: the message bus has several makers.
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
            // What is only wished for may be absent: systemd passes over it too.
            Err(_) => {}
        }
    }
    closure
}

/// Loads a unit if its needs count.
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
    // Mounts and slices come from fstab or are made as needed: there may be no file.
    if role == Role::NameOnly {
        return Ok(member(name, None));
    }
    let mut unit = dirs.load(name)?;
    let mut facts = unit.facts(specifiers);
    // The template behind a socket with Accept=yes is itself what the sandbox needs: its instances
    // come with connections. Any other stands for its default instance.
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

/// The units a unit pulls in, and those that start it.
fn followed(
    facts: &UnitFacts,
    triggers: Option<&Vec<(UnitName, Vec<UnitName>)>>,
) -> Vec<(UnitName, Reason)> {
    let own = &facts.name;
    let dependencies = &facts.dependencies;
    // In an instance a template means the instance of the same name.
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
        // A socket that excludes its service is the other way to run it, not a part of it.
        if !conflicts.contains(own) && !dependencies.conflicts.contains(trigger) {
            all.push((trigger.clone(), Reason::Triggers(own.clone())));
        }
    }
    all
}

/// Of each unit the sockets, timers and paths that name it, and the sockets of its own name that the host has enabled, with
/// what these conflict with.
fn triggers_by_service(
    dirs: &UnitDirs,
    specifiers: &Specifiers,
) -> BTreeMap<UnitName, Vec<(UnitName, Vec<UnitName>)>> {
    let mut found: BTreeMap<UnitName, Vec<(UnitName, Vec<UnitName>)>> = BTreeMap::new();
    // The admin's choice where a service may run with or without its socket.
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
        // Aliases would give the unit once more.
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
