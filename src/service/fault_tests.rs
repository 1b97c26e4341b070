//! Commands that fail or die before each of their steps: after the next command there is the state before or the one after,
//! nothing between, and the command can be given again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use uuid::Uuid;

use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::{Idmap, SandboxConfig, SandboxName, TreeImage};
use crate::error::{Error, Result};
use crate::guest::PRIVATE_DIRS;
use crate::hypervisor::Hypervisor;
use crate::service::base::{Base, Provenance};
use crate::service::journal::{Intent, Step, UndoLog};
use crate::service::provision::{clone, import};
use crate::service::tests::Host;
use crate::service::upgrade::steps::Work;
use crate::sys::fault::{self, Fault, Outcome};
use crate::sys::root::Root;
use crate::tree::manifest::{Entry, Manifest};

/// Files and domains of a host, by name; paths, identities and times are left out.
type World = BTreeMap<String, String>;

fn name(name: &str) -> SandboxName {
    name.parse().unwrap()
}

fn world(host: &Host) -> World {
    let store = host.store();
    let names = store.names().unwrap();
    let configs = names.iter().filter_map(|name| store.load(name).ok());
    let uuids: Vec<(String, String)> = configs
        .map(|config| (config.uuid.to_string(), config.name.to_string()))
        .collect();
    let root = host.root.path().to_str().unwrap();
    let plain = |text: &str| {
        let text = text.replace(root, "ROOT");
        uuids.iter().fold(text, |text, (uuid, name)| {
            let short = uuid.replace('-', "");
            text.replace(uuid, name).replace(&short, name)
        })
    };
    let mut world = World::new();
    for name in &names {
        let definition = host.hypervisor.definition(name.as_str()).unwrap();
        let state = host.hypervisor.state(name.as_str()).unwrap();
        let text = format!("{} {}", state.as_str(), definition.unwrap_or_default());
        world.insert(format!("domain {name}"), plain(&text));
    }
    for top in [&store.configs, &store.trees, &store.units] {
        for entry in walkdir::WalkDir::new(top)
            .min_depth(1)
            .into_iter()
            .flatten()
        {
            let file = entry.file_name().to_str().unwrap();
            if ["lock", "upgrade.lock"].contains(&file) {
                continue;
            }
            // Snapshots have the time of their creation.
            let text = match entry.file_type().is_file() && file != "snapshot.json" {
                true => fs::read_to_string(entry.path()).unwrap(),
                false => String::new(),
            };
            world.insert(plain(entry.path().to_str().unwrap()), plain(&text));
        }
    }
    for stage in fs::read_dir(&store.stages).into_iter().flatten().flatten() {
        world.insert(
            format!("stage {}", stage.file_name().display()),
            String::new(),
        );
    }
    world
}

/// Returns the paths whose content differs.
fn differences(one: &World, other: &World) -> Vec<String> {
    let paths = one.keys().chain(other.keys());
    let mut paths: Vec<String> = paths
        .filter(|path| one.get(*path) != other.get(*path))
        .cloned()
        .collect();
    paths.dedup();
    paths
}

/// Gives a command with each fault at each of its steps.
fn with_every_fault(setup: impl Fn() -> Host, command: impl Fn(&Host) -> Result<()>) {
    let host = setup();
    let before = world(&host);
    command(&host).unwrap();
    let after = world(&host);
    assert_ne!(before, after);
    for fault in [Fault::Error, Fault::Death] {
        for step in 0.. {
            let host = setup();
            let outcome = fault::with(fault, step, || command(&host));
            if let Outcome::NotReached(result) = outcome {
                result.unwrap();
                assert!(step > 1, "a command without steps");
                break;
            }
            host.sandboxes.recover().unwrap();
            let now = world(&host);
            let (undone, done) = (differences(&before, &now), differences(&after, &now));
            assert!(
                undone.is_empty() || done.is_empty(),
                "{fault:?} at {step}, {outcome:?}: {undone:?} are not undone, {done:?} are not done"
            );
            if let Outcome::Returned(Ok(())) = outcome {
                assert!(done.is_empty(), "{fault:?} at {step} is hidden: {done:?}");
            }
            if done.is_empty() {
                continue;
            }
            command(&host).unwrap_or_else(|error| {
                panic!("{fault:?} at {step}, and once more: {}", error.chain())
            });
            let left = differences(&after, &world(&host));
            assert!(
                left.is_empty(),
                "{fault:?} at {step}, and once more: {left:?}"
            );
        }
    }
}

fn config(host: &Host, of: &str) -> SandboxConfig {
    SandboxConfig {
        name: name(of),
        uuid: Uuid::from_u128(7),
        path: host.tree(&name(of)),
        idmap: Idmap::No,
        hostname: of.to_owned(),
        ..SandboxConfig::example()
    }
}

/// Creates a sandbox with a small tree.
fn create(host: &Host, of: &str) -> Result<()> {
    host.sandboxes.provision(&config(host, of), &mut |tree| {
        for dir in PRIVATE_DIRS {
            let dir = tree.join(dir.trim_start_matches('/'));
            fault::point().map_err(Error::io("creating", &dir))?;
            fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
        }
        fs::write(tree.join("etc/hostname"), format!("{of}\n")).unwrap();
        Ok(Provenance {
            manifest: Manifest::scan(tree, &[Path::new("/etc")])?,
            base: Base::default(),
        })
    })
}

/// Returns a host with another tree, so that the directory of trees stays.
fn host() -> Host {
    let host = Host::new();
    fs::create_dir_all(host.store().trees.join("another")).unwrap();
    host
}

fn host_with(of: &str) -> Host {
    let host = host();
    create(&host, of).unwrap();
    host
}

#[test]
fn a_create_cut_short_is_undone() {
    with_every_fault(host, |host| create(host, "web1"));
}

#[test]
fn a_delete_cut_short_is_finished() {
    let delete = |host: &Host| host.sandboxes.get(&name("web1"))?.delete(false);
    with_every_fault(|| host_with("web1"), delete);
}

#[test]
fn a_delete_that_failed_anywhere_can_be_given_again() {
    for step in 0.. {
        let host = host_with("web1");
        let sandbox = || host.sandboxes.get_for_stop(&name("web1"));
        let outcome = fault::with(Fault::Error, step, || sandbox()?.delete(false));
        if let Outcome::NotReached(result) = outcome {
            return result.unwrap();
        }
        match sandbox() {
            Ok(sandbox) => sandbox.delete(false).unwrap(),
            // It has not even a configuration any more.
            Err(_) => host.sandboxes.recover().unwrap(),
        }
        assert!(!host.store().dir(&name("web1")).exists(), "{step}");
        assert!(!host.tree(&name("web1")).exists(), "{step}");
    }
}

#[test]
fn a_clone_cut_short_is_undone() {
    with_every_fault(
        || host_with("web1"),
        |host| {
            let request = clone::Request {
                name: name("web2"),
                base: None,
                hostname: None,
                security: None,
            };
            let source = host.sandboxes.get(&name("web1"))?;
            source.clone_as(&request).map(drop)
        },
    );
}

#[test]
fn a_clone_cut_short_leaves_its_running_source_running() {
    let running = || {
        let host = host_with("web1");
        host.hypervisor.start("web1").unwrap();
        host
    };
    with_every_fault(running, |host| {
        let request = clone::Request {
            name: name("web2"),
            base: None,
            hostname: None,
            security: None,
        };
        let source = host.sandboxes.get(&name("web1"))?;
        source.clone_as(&request).map(drop)
    });
}

#[test]
fn a_rename_cut_short_is_undone_or_finished() {
    let rename = |host: &Host| host.sandboxes.get(&name("web1"))?.rename(&name("web2"));
    with_every_fault(|| host_with("web1"), rename);
}

#[test]
fn an_import_cut_short_is_undone() {
    let mut archive = Vec::new();
    let source = host_with("web1");
    let sandbox = source.sandboxes.get(&name("web1")).unwrap();
    sandbox.lock().unwrap().export(&mut archive).unwrap();
    with_every_fault(host, |host| {
        let imported = host
            .sandboxes
            .import(&*archive, &import::Request::default());
        imported.map(drop)
    });
}

/// Makes a sandbox whose image is no filesystem, with a snapshot and a later change.
fn host_with_snapshot() -> Host {
    let host = host_with("web1");
    let config = SandboxConfig {
        image: Some(TreeImage {
            size: "64M".parse().unwrap(),
            format: TreeFormat::Raw,
            filesystem: TreeFilesystem::Ext4,
        }),
        ..config(&host, "web1")
    };
    config.save(&host.store().config(&config.name)).unwrap();
    let file = config.image_file().unwrap();
    fs::write(&file, "one").unwrap();
    let sandbox = host.sandboxes.get(&config.name).unwrap().lock().unwrap();
    sandbox.create_snapshot(&"one".parse().unwrap()).unwrap();
    fs::write(&file, "two").unwrap();
    host
}

#[test]
fn a_snapshot_cut_short_is_there_or_not() {
    with_every_fault(host_with_snapshot, |host| {
        let sandbox = host.sandboxes.get(&name("web1"))?.lock()?;
        sandbox.create_snapshot(&"two".parse().unwrap())
    });
}

#[test]
fn a_deletion_of_a_snapshot_cut_short_is_undone_or_finished() {
    with_every_fault(host_with_snapshot, |host| {
        let sandbox = host.sandboxes.get(&name("web1"))?.lock()?;
        sandbox.delete_snapshot(&"one".parse().unwrap())
    });
}

#[test]
fn a_revert_cut_short_is_undone_or_finished() {
    with_every_fault(host_with_snapshot, |host| {
        let sandbox = host.sandboxes.get(&name("web1"))?.lock()?;
        sandbox.revert(&"one".parse().unwrap())
    });
}

/// Makes a sandbox whose upgrade was killed after its last step.
fn upgraded_host() -> (Host, UndoLog) {
    let host = host_with("web1");
    let (name, store) = (name("web1"), host.store());
    let config = store.load(&name).unwrap();
    let etc = config.path.join("etc");
    fs::write(etc.join("gone"), "gone").unwrap();
    let work = Work::of(&config.path, &config.path);
    work.make().unwrap();
    for (slot, content) in [("1", "new hostname"), ("2", "added")] {
        fs::write(work.slots().join(slot), content).unwrap();
    }
    let (tree, slots) = (
        Root::new(&config.path).unwrap(),
        Root::new(&work.slots()).unwrap(),
    );
    let entry = |path: &str| {
        Entry::read(
            &tree.plain_object(Path::new(path)).unwrap(),
            Path::new(path),
        )
        .unwrap()
    };
    let inode = slots
        .plain_object(Path::new("/1"))
        .unwrap()
        .inode()
        .unwrap();
    let steps = [
        (
            Step::Remove {
                path: "/etc/gone".into(),
                slot: 3,
            },
            entry("/etc/gone"),
        ),
        (
            Step::Replace {
                path: "/etc/hostname".into(),
                slot: 1,
                inode,
            },
            entry("/etc/hostname"),
        ),
        (
            Step::Add {
                path: "/etc/added".into(),
                slot: 2,
            },
            None,
        ),
    ];
    let mut log = UndoLog {
        tree: config.path.clone(),
        image: None,
        steps: steps.iter().map(|(step, _)| step.clone()).collect(),
        saved: vec![],
        domain: None,
        restarting: false,
    };
    let records = store.upgrade(&name);
    fs::create_dir(&records).unwrap();
    log.keep(&records, store.config(&name)).unwrap();
    store.begin(&name, Intent::Upgrade(log.clone())).unwrap();
    for (step, before) in &steps {
        step.apply(&tree, &slots, before.as_ref()).unwrap();
    }
    let upgraded = SandboxConfig {
        timeout: 7,
        ..config
    };
    upgraded.save(&store.config(&name)).unwrap();
    (host, log)
}

#[test]
fn an_undo_of_an_upgrade_cut_short_is_finished() {
    let recover = |host: &Host| host.sandboxes.recover();
    with_every_fault(|| upgraded_host().0, recover);
    let host = upgraded_host().0;
    host.sandboxes.recover().unwrap();
    let config = host.store().load(&name("web1")).unwrap();
    assert_ne!(config.timeout, 7);
    let read = |file: &str| fs::read_to_string(config.path.join("etc").join(file)).ok();
    let expected = [Some("web1\n".to_owned()), Some("gone".to_owned()), None];
    assert_eq!(["hostname", "gone", "added"].map(read), expected);
}

#[test]
fn an_end_of_an_upgrade_cut_short_is_finished() {
    let finish = |host: &Host| {
        let intents = host.store().intents(&name("web1"))?;
        match &intents[..] {
            [Intent::Upgrade(log)] => host.sandboxes.finish_upgrade(&name("web1"), log.emptied()),
            _ => Ok(()),
        }
    };
    let finishing = || {
        let (host, log) = upgraded_host();
        let intent = Intent::Upgrade(log.emptied());
        host.store().begin(&name("web1"), intent).unwrap();
        host
    };
    with_every_fault(finishing, finish);
}
