//! Operations on sandboxes of a hypervisor in memory. No daemon, no root.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use crate::config::{SandboxConfig, SandboxName};
use crate::error::ErrorKind;
use crate::hypervisor::fake::{self, Fake};
use crate::hypervisor::{Connector, DomainState, Hypervisor, Limit};
use crate::service::journal::{Intent, Removal};
use crate::service::store::Store;
use crate::service::{Mode, Outcome, Sandboxes};
use crate::tree::place;

/// Host with sandboxes in a directory of its own.
pub(super) struct Host {
    pub(super) hypervisor: Arc<Fake>,
    pub(super) sandboxes: Sandboxes,
    pub(super) root: tempfile::TempDir,
}

impl Host {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let hypervisor = Arc::new(Fake::default());
        let sandboxes = Sandboxes {
            store: Store::below(root.path()),
            connector: Connector::Fake(Arc::clone(&hypervisor)),
            ..Sandboxes::new("lxc:///")
        };
        Self {
            hypervisor,
            sandboxes,
            root,
        }
    }

    /// Adds a stopped sandbox: its configuration, tree and domain.
    pub(super) fn add(&self, name: &str, uuid: u128) -> SandboxName {
        let name: SandboxName = name.parse().unwrap();
        let config = SandboxConfig {
            name: name.clone(),
            uuid: Uuid::from_u128(uuid),
            path: self.tree(&name),
            ..SandboxConfig::example()
        };
        place::make(&config.path, config.uuid).unwrap();
        fs::create_dir_all(self.store().dir(&name)).unwrap();
        config.save(&self.store().config(&name)).unwrap();
        let document = fake::document(name.as_str(), config.uuid);
        self.hypervisor.define(&document).unwrap();
        name
    }

    pub(super) fn store(&self) -> &Store {
        &self.sandboxes.store
    }

    pub(super) fn tree(&self, name: &SandboxName) -> PathBuf {
        self.root.path().join("trees").join(name.as_str())
    }

    fn state(&self, name: &SandboxName) -> DomainState {
        self.hypervisor.state(name.as_str()).unwrap()
    }

    fn states(&self) -> Vec<(String, String)> {
        let summaries = self.sandboxes.list().unwrap();
        let pair = |summary: super::Summary| (summary.name.to_string(), summary.state);
        summaries.into_iter().map(pair).collect()
    }
}

#[test]
fn the_list_has_every_sandbox_with_the_state_of_its_domain() {
    let host = Host::new();
    let (frozen, stopped) = (host.add("b-frozen", 1), host.add("a-stopped", 2));
    let gone = host.add("c-undefined", 3);
    host.hypervisor.start(frozen.as_str()).unwrap();
    host.hypervisor.freeze(frozen.as_str()).unwrap();
    host.hypervisor.undefine(gone.as_str()).unwrap();
    // A directory without a configuration is no sandbox.
    fs::create_dir(host.store().configs.join("half-made")).unwrap();
    let pair = |name: &SandboxName, state: &str| (name.to_string(), state.to_owned());
    let expected = [
        pair(&stopped, "stopped"),
        pair(&frozen, "frozen"),
        pair(&gone, "undefined"),
    ];
    assert_eq!(host.states(), expected);
}

#[test]
fn the_list_fails_only_if_the_hypervisor_answers_for_no_sandbox() {
    let host = Host::new();
    assert_eq!(host.states(), []);
    host.add("t-web1", 1);
    host.hypervisor.fail("state");
    let error = host.sandboxes.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Libvirt);
}

#[test]
fn an_unknown_sandbox_is_not_found_and_others_are_named() {
    let host = Host::new();
    host.add("t-web1", 1);
    let error = host.sandboxes.get(&"t-web2".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("t-web1"), "{error}");
}

#[test]
fn a_lock_reads_the_configuration_again() {
    let host = Host::new();
    let name = host.add("web1", 1);
    let sandbox = host.sandboxes.get(&name).unwrap();
    let changed = SandboxConfig {
        timeout: 7,
        ..sandbox.config().clone()
    };
    changed.save(&host.store().config(&name)).unwrap();
    assert_ne!(sandbox.config(), &changed);
    assert_eq!(sandbox.lock().unwrap().config(), &changed);
    fs::remove_file(host.store().config(&name)).unwrap();
    let gone = sandbox.lock().unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn an_operation_in_two_parts_ends_with_the_sandbox_that_it_began_with() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    let lock = |uuid| host.sandboxes.lock_same(&name, Uuid::from_u128(uuid));
    drop(lock(1).unwrap());
    host.sandboxes.get(&name).unwrap().delete(false).unwrap();
    assert_eq!(lock(1).unwrap_err().kind(), ErrorKind::NotFound);
    host.add("t-web1", 2);
    let error = lock(1).unwrap_err();
    assert!(error.to_string().contains("another"), "{error}");
    drop(lock(2).unwrap());
}

#[test]
fn a_delete_without_the_tree_is_refused_unless_forced() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    let away = host.root.path().join("away");
    fs::rename(host.tree(&name), &away).unwrap();
    let delete = |force| host.sandboxes.get_for_stop(&name).unwrap().delete(force);
    // What its filesystem is mounted on.
    fs::create_dir(host.tree(&name)).unwrap();
    assert_eq!(delete(false).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(host.state(&name), DomainState::Stopped);
    assert!(host.store().config(&name).exists());
    delete(true).unwrap();
    assert!(!host.store().dir(&name).exists() && away.exists());
}

#[test]
fn a_delete_that_leaves_something_is_an_error_and_is_repaired() {
    let host = Host::new();
    let (name, other) = (host.add("t-web1", 1), host.add("t-web2", 2));
    // A tree that is not its own is not removed.
    fs::write(host.tree(&name).join(".virt-sandbox.json"), "{").unwrap();
    let error = host
        .sandboxes
        .get(&name)
        .unwrap()
        .delete(false)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!host.store().journal(&name).exists(), "nothing was begun");
    assert_eq!(host.state(&name), DomainState::Stopped);

    host.hypervisor.fail("undefine");
    assert!(host.sandboxes.get(&other).unwrap().delete(false).is_err());
    let repair = |mode| {
        let names = host.store().names().unwrap();
        let repairs = host.sandboxes.repair(&names, mode).unwrap();
        let result = |repair: super::Repair| (repair.name.unwrap(), repair.result);
        repairs.into_iter().map(result).collect::<Vec<_>>()
    };
    let expected = |outcome| [(other.clone(), outcome)];
    assert_eq!(repair(Mode::DryRun), expected(Outcome::Planned));
    assert_eq!(repair(Mode::Repair), expected(Outcome::Failed));
    host.hypervisor.succeed();
    assert_eq!(repair(Mode::Repair), expected(Outcome::Done));
    assert_eq!(repair(Mode::Repair), []);
    assert!(!host.store().dir(&other).exists() && host.store().configs.is_dir());
}

#[test]
fn a_running_sandbox_is_neither_deleted_nor_renamed() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    host.hypervisor.start(name.as_str()).unwrap();
    let sandbox = || host.sandboxes.get(&name).unwrap();
    let deleted = sandbox().delete(false).unwrap_err();
    let renamed = sandbox().rename(&"t-web2".parse().unwrap()).unwrap_err();
    for error in [deleted, renamed] {
        assert_eq!(error.kind(), ErrorKind::Running, "{error}");
    }
    assert!(host.state(&name).is_active() && host.tree(&name).is_dir());
}

#[test]
fn a_stopped_sandbox_is_not_entered() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    let error = host.sandboxes.get(&name).unwrap().enter().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning);
    host.hypervisor.start(name.as_str()).unwrap();
    host.hypervisor.freeze(name.as_str()).unwrap();
    let error = host.sandboxes.get(&name).unwrap().enter().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotReady, "{error}");
}

#[test]
fn a_deleted_sandbox_leaves_nothing_and_others_stay() {
    let host = Host::new();
    let (name, other) = (host.add("t-web1", 1), host.add("t-web2", 2));
    host.sandboxes.get(&name).unwrap().delete(false).unwrap();
    assert_eq!(host.state(&name), DomainState::Missing);
    assert!(!host.tree(&name).exists() && !host.store().dir(&name).exists());
    assert_eq!(host.state(&other), DomainState::Stopped);
    assert!(host.tree(&other).is_dir());
    assert_eq!(host.states().len(), 1);
}

#[test]
fn a_delete_that_libvirt_refuses_is_finished_by_the_next_command() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    host.hypervisor.fail("undefine");
    assert!(host.sandboxes.get(&name).unwrap().delete(false).is_err());
    host.sandboxes.recover().unwrap();
    assert!(host.tree(&name).is_dir(), "libvirt still refuses");
    host.hypervisor.succeed();
    host.sandboxes.recover().unwrap();
    assert_eq!(host.state(&name), DomainState::Missing);
    assert!(!host.tree(&name).exists() && !host.store().dir(&name).exists());
}

#[test]
fn an_interrupted_create_is_undone_by_the_next_command() {
    let host = Host::new();
    let name: SandboxName = "t-web1".parse().unwrap();
    let uuid = Uuid::from_u128(1);
    let lock = host.store().reserve(&name).unwrap();
    place::make(&host.tree(&name), uuid).unwrap();
    let removal = Removal {
        connection: "lxc:///".to_owned(),
        uuid,
        tree: Some(host.tree(&name)),
        image: None,
        registered: true,
    };
    host.store().begin(&name, Intent::Remove(removal)).unwrap();
    let document = fake::document(name.as_str(), uuid);
    host.hypervisor.define(&document).unwrap();
    host.sandboxes.recover().unwrap();
    assert!(host.tree(&name).is_dir(), "the command is still at work");
    drop(lock);
    host.sandboxes.recover().unwrap();
    assert_eq!(host.state(&name), DomainState::Missing);
    assert!(!host.tree(&name).exists() && !host.store().dir(&name).exists());
}

#[test]
fn a_sandbox_that_a_killed_command_left_frozen_runs_on() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    host.hypervisor.start(name.as_str()).unwrap();
    host.hypervisor.freeze(name.as_str()).unwrap();
    host.sandboxes.recover().unwrap();
    assert!(matches!(host.state(&name), DomainState::Frozen { .. }));
    host.store().begin(&name, Intent::Freeze).unwrap();
    host.sandboxes.recover().unwrap();
    assert!(matches!(host.state(&name), DomainState::Running { .. }));
}

#[test]
fn a_new_name_that_is_taken_changes_nothing() {
    let host = Host::new();
    let (name, other) = (host.add("t-web1", 1), host.add("t-web2", 2));
    let rename = |to: &SandboxName| host.sandboxes.get(&name).unwrap().rename(to).unwrap_err();
    assert_eq!(rename(&other).kind(), ErrorKind::Exists);
    // A domain that is no sandbox's.
    let document = fake::document("t-db", Uuid::from_u128(3));
    host.hypervisor.define(&document).unwrap();
    assert_eq!(rename(&"t-db".parse().unwrap()).kind(), ErrorKind::Exists);
    assert!(host.tree(&name).is_dir() && host.tree(&other).is_dir());
    assert_eq!(host.states().len(), 2);
}

#[test]
fn limits_reach_a_running_sandbox_and_the_rest_waits_for_the_next_start() {
    let host = Host::new();
    let name = host.add("t-web1", 1);
    let set = |change: &str| {
        let changes = [change.parse().unwrap()];
        let sandbox = host.sandboxes.get(&name).unwrap();
        sandbox.lock().unwrap().set(&changes).unwrap()
    };
    assert_eq!(set("memory=64M"), [], "it does not run");
    host.hypervisor.start(name.as_str()).unwrap();
    set("cpu-shares=512");
    host.hypervisor.fail("limit");
    let later = set("cpu-shares=256");
    assert_eq!(later.len(), 1, "{later:?}");
    let limits = host.hypervisor.limits(name.as_str());
    assert!(limits.contains(&Limit::CpuShares(512)), "{limits:?}");
    let config = SandboxConfig::load(&host.store().config(&name)).unwrap();
    assert_eq!(config.resources.cpu_shares, Some(256));
}
