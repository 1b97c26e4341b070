//! Hypervisor in memory, for unit tests of everything above it.
//!
//! Domains run only by name. What the trait promises holds, as libvirt does it: a definition outlives the domain, a domain without
//! one is gone when it ends, and a second domain of the same name or identity is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard};

use uuid::Uuid;

use super::{DomainState, Hypervisor, Limit, Subnet, Usage, parse};
use crate::error::{Error, Result};
use crate::sys::fault;

/// Hypervisor in memory.
#[derive(Debug, Default)]
pub struct Fake(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    domains: BTreeMap<String, Domain>,
    networks: BTreeMap<String, Network>,
    /// Calls that fail, by the name of the method.
    failing: BTreeSet<&'static str>,
    /// Number of the domain that was started last.
    last_id: u32,
}

#[derive(Debug, Clone)]
struct Domain {
    uuid: Uuid,
    /// Document, if the domain is defined.
    definition: Option<String>,
    run: Option<Run>,
}

#[derive(Debug, Clone)]
struct Run {
    id: u32,
    is_frozen: bool,
    limits: Vec<Limit>,
}

#[derive(Debug)]
struct Network {
    xml: String,
    is_active: bool,
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Adds an inactive virtual network with this document.
    pub(crate) fn add_network(&self, name: &str, xml: &str) {
        let network = Network {
            xml: xml.to_owned(),
            is_active: false,
        };
        (self.lock().networks).insert(name.to_owned(), network);
    }

    /// Has every later call of a method fail, as if libvirt refused.
    pub(crate) fn fail(&self, method: &'static str) {
        self.lock().failing.insert(method);
    }

    /// Has all later calls succeed again.
    pub(crate) fn succeed(&self) {
        self.lock().failing.clear();
    }

    /// Returns the limits that were set of a running domain.
    pub(crate) fn limits(&self, name: &str) -> Vec<Limit> {
        let state = self.lock();
        let run = state
            .domains
            .get(name)
            .and_then(|domain| domain.run.clone());
        run.map(|run| run.limits).unwrap_or_default()
    }

    fn attempt(&self, method: &'static str, name: &str) -> Result<()> {
        fault::point().map_err(|fault| refused(method, name, &fault.to_string()))?;
        match self.lock().failing.contains(method) {
            true => Err(refused(method, name, "it was told to fail")),
            false => Ok(()),
        }
    }

    /// Changes a running domain.
    fn with_run(&self, method: &'static str, name: &str, act: impl FnOnce(&mut Run)) -> Result<()> {
        self.attempt(method, name)?;
        let mut state = self.lock();
        let domain = state.domains.get_mut(name).ok_or_else(|| missing(name))?;
        let run = domain.run.as_mut();
        act(run.ok_or_else(|| refused(method, name, "domain is not running"))?);
        Ok(())
    }

    fn network<T>(&self, name: &str, act: impl FnOnce(&mut Network) -> T) -> Result<T> {
        let mut state = self.lock();
        let network = state.networks.get_mut(name);
        let network =
            network.ok_or_else(|| Error::not_found(format!("libvirt has no network '{name}'")))?;
        Ok(act(network))
    }
}

impl State {
    /// Checks that a document may take its name, and returns its domain as it is to be.
    fn domain_of(&self, xml: &str) -> Result<(String, Domain)> {
        let (name, uuid) = identity(xml)
            .ok_or_else(|| refused("define", "", "the document has no name or no uuid"))?;
        let has_it =
            |(other, domain): (&String, &Domain)| (*other == name) != (domain.uuid == uuid);
        if self.domains.iter().any(has_it) {
            return Err(refused(
                "define",
                &name,
                "a domain has this name or uuid already",
            ));
        }
        let known = self.domains.get(&name).cloned();
        let new = Domain {
            uuid,
            definition: None,
            run: None,
        };
        Ok((name, known.unwrap_or(new)))
    }

    fn run(&mut self) -> Option<Run> {
        self.last_id += 1;
        Some(Run {
            id: self.last_id,
            is_frozen: false,
            limits: vec![],
        })
    }

    /// Drops domains that neither run nor are defined.
    fn sweep(&mut self) {
        (self.domains).retain(|_, domain| domain.definition.is_some() || domain.run.is_some());
    }
}

impl Hypervisor for Fake {
    fn define(&self, xml: &str) -> Result<()> {
        self.attempt("define", "")?;
        let mut state = self.lock();
        let (name, mut domain) = state.domain_of(xml)?;
        domain.definition = Some(xml.to_owned());
        state.domains.insert(name, domain);
        Ok(())
    }

    fn undefine(&self, name: &str) -> Result<()> {
        self.attempt("undefine", name)?;
        let mut state = self.lock();
        if let Some(domain) = state.domains.get_mut(name) {
            domain.definition = None;
        }
        state.sweep();
        Ok(())
    }

    fn definition(&self, name: &str) -> Result<Option<String>> {
        let state = self.lock();
        Ok((state.domains.get(name)).and_then(|domain| domain.definition.clone()))
    }

    fn start(&self, name: &str) -> Result<()> {
        self.attempt("start", name)?;
        let mut state = self.lock();
        let run = state.run();
        let domain = state.domains.get_mut(name).ok_or_else(|| missing(name))?;
        if domain.run.is_some() {
            return Err(refused("start", name, "domain is already running"));
        }
        domain.run = run;
        Ok(())
    }

    fn run(&self, xml: &str, _files: &[BorrowedFd<'_>]) -> Result<()> {
        self.attempt("run", "")?;
        let mut state = self.lock();
        let (name, mut domain) = state.domain_of(xml)?;
        if domain.run.is_some() {
            return Err(refused("run", &name, "domain is already running"));
        }
        domain.run = state.run();
        state.domains.insert(name, domain);
        Ok(())
    }

    fn destroy(&self, name: &str) -> Result<()> {
        self.attempt("destroy", name)?;
        let mut state = self.lock();
        if let Some(domain) = state.domains.get_mut(name) {
            domain.run = None;
        }
        state.sweep();
        Ok(())
    }

    fn destroy_own(&self, name: &str, uuid: Uuid) -> Result<()> {
        let is_own = (self.lock().domains.get(name)).is_some_and(|domain| domain.uuid == uuid);
        match is_own {
            true => self.destroy(name),
            false => Ok(()),
        }
    }

    fn freeze(&self, name: &str) -> Result<()> {
        self.with_run("freeze", name, |run| run.is_frozen = true)
    }

    fn thaw(&self, name: &str) -> Result<()> {
        self.attempt("thaw", name)?;
        let mut state = self.lock();
        let run = state
            .domains
            .get_mut(name)
            .and_then(|domain| domain.run.as_mut());
        if let Some(run) = run {
            run.is_frozen = false;
        }
        Ok(())
    }

    fn limit(&self, name: &str, limit: &Limit) -> Result<()> {
        self.with_run("limit", name, |run| run.limits.push(limit.clone()))
    }

    fn usage(&self, name: &str) -> Result<Usage> {
        self.with_run("usage", name, |_| {})?;
        Ok(Usage::default())
    }

    fn is_known(&self, uuid: &Uuid) -> Result<bool> {
        let state = self.lock();
        Ok(state.domains.values().any(|domain| domain.uuid == *uuid))
    }

    fn state(&self, name: &str) -> Result<DomainState> {
        self.attempt("state", name)?;
        let state = self.lock();
        Ok(match state.domains.get(name).map(|domain| &domain.run) {
            None => DomainState::Missing,
            Some(None) => DomainState::Stopped,
            Some(Some(run)) if run.is_frozen => DomainState::Frozen { id: run.id },
            Some(Some(run)) => DomainState::Running { id: run.id },
        })
    }

    fn is_network_active(&self, name: &str) -> Result<bool> {
        self.network(name, |network| network.is_active)
    }

    fn check_filter(&self, name: &str) -> Result<()> {
        self.attempt("check_filter", name)
    }

    fn leased_range(&self, name: &str) -> Result<Option<RangeInclusive<Ipv4Addr>>> {
        self.network(name, |network| parse::range(&network.xml))
    }

    fn subnets(&self, name: &str) -> Result<Vec<Subnet>> {
        self.network(name, |network| parse::subnets(&network.xml))
    }

    fn start_network(&self, name: &str) -> Result<()> {
        self.attempt("start_network", name)?;
        self.network(name, |network| network.is_active = true)
    }

    fn capabilities(&self) -> Result<String> {
        Ok("<capabilities><host/></capabilities>".to_owned())
    }
}

/// Returns the name and the identity in the document of a domain.
fn identity(xml: &str) -> Option<(String, Uuid)> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let text = |name| {
        let mut children = document.root_element().children();
        children.find(|child| child.has_tag_name(name))?.text()
    };
    Some((text("name")?.to_owned(), text("uuid")?.parse().ok()?))
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("libvirt has no domain '{name}'"))
}

fn refused(method: &str, name: &str, reason: &str) -> Error {
    Error::Libvirt {
        doing: format!("{method} '{name}'"),
        reason: reason.to_owned(),
    }
}

/// Returns a document with nothing but a name and an identity.
pub(crate) fn document(name: &str, uuid: Uuid) -> String {
    format!("<domain><name>{name}</name><uuid>{uuid}</uuid></domain>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    #[test]
    fn a_defined_domain_outlives_its_run() {
        let fake = Fake::default();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Missing);
        fake.define(&document("web1", ONE)).unwrap();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Stopped);
        fake.start("web1").unwrap();
        assert!(fake.start("web1").is_err(), "it runs already");
        assert!(fake.state("web1").unwrap().is_active());
        fake.destroy("web1").unwrap();
        fake.destroy("web1").unwrap();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Stopped);
        fake.undefine("web1").unwrap();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Missing);
        let error = fake.start("web1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_domain_without_a_definition_is_gone_when_it_ends() {
        let fake = Fake::default();
        fake.run(&document("web1", ONE), &[]).unwrap();
        assert!(fake.is_known(&ONE).unwrap());
        fake.destroy_own("web1", TWO).unwrap();
        assert!(fake.state("web1").unwrap().is_active(), "another's");
        fake.destroy_own("web1", ONE).unwrap();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Missing);
        assert!(!fake.is_known(&ONE).unwrap());
    }

    #[test]
    fn an_undefined_domain_runs_on() {
        let fake = Fake::default();
        fake.define(&document("web1", ONE)).unwrap();
        fake.start("web1").unwrap();
        fake.undefine("web1").unwrap();
        assert_eq!(fake.definition("web1").unwrap(), None);
        assert!(fake.state("web1").unwrap().is_active());
    }

    #[test]
    fn names_and_identities_are_taken_once() {
        let fake = Fake::default();
        fake.define(&document("web1", ONE)).unwrap();
        fake.define(&document("web1", ONE)).unwrap();
        assert!(fake.define(&document("web1", TWO)).is_err());
        assert!(fake.define(&document("web2", ONE)).is_err());
        assert!(fake.define("<domain/>").is_err() && fake.define("").is_err());
        fake.define(&document("web2", TWO)).unwrap();
    }

    #[test]
    fn a_running_domain_is_frozen_and_thawed() {
        let fake = Fake::default();
        fake.define(&document("web1", ONE)).unwrap();
        assert!(fake.freeze("web1").is_err(), "it does not run");
        fake.start("web1").unwrap();
        fake.freeze("web1").unwrap();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Frozen { id: 1 });
        fake.thaw("web1").unwrap();
        fake.thaw("web1").unwrap();
        assert_eq!(fake.state("web1").unwrap(), DomainState::Running { id: 1 });
        fake.limit("web1", &Limit::Memory(1024)).unwrap();
        assert_eq!(fake.limits("web1"), [Limit::Memory(1024)]);
        fake.destroy("web1").unwrap();
        assert_eq!(fake.limits("web1"), []);
    }

    #[test]
    fn a_network_is_started_once_and_suggests_an_address() {
        let fake = Fake::default();
        let error = fake.ensure_network("lab").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        fake.add_network(
            "lab",
            "<network><ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.8' end='192.0.2.9'/></dhcp></ip></network>",
        );
        fake.ensure_network("lab").unwrap();
        assert!(fake.is_network_active("lab").unwrap());
        fake.fail("start_network");
        fake.ensure_network("lab").unwrap();
        let address = fake.likely_address("lab", &ONE).unwrap();
        assert_eq!(address, Some(Ipv4Addr::new(192, 0, 2, 9)));
        assert_eq!(fake.subnets("lab").unwrap()[0].prefix, 24);
    }
}
