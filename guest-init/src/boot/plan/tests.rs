use super::*;
use crate::config::StaticUnits;

fn config() -> GuestConfig {
    let payload = Payload::Init {
        command: vec!["/usr/lib/systemd/systemd".into()],
        environment: vec![],
    };
    GuestConfig {
        mounts: vec![Mount::Symlink {
            points_to: "usr/bin".into(),
            target: "/bin".into(),
        }],
        static_units: Some(StaticUnits { keep: vec![] }),
        max_pids: Some(10),
        tmpfs_size: Some(1 << 20),
        ..GuestConfig::new("web1", "web1", Platform::Container, payload)
    }
}

#[test]
fn credentials_are_written_in_the_user_namespace_and_not_logged() {
    let config = GuestConfig {
        idmap: Some(IdMap {
            first: 1 << 20,
            count: 1 << 16,
        }),
        credentials: vec![Credential {
            id: "password".into(),
            content: crate::config::Secret(b"hunter2".to_vec()),
        }],
        files: vec![File {
            path: "/run/x".into(),
            mode: 0o600,
            content: "A=hunter2".into(),
        }],
        ..config()
    };
    let steps = plan(&config);
    let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    let written = at(|step| matches!(step, Step::Credentials { owner: (0, 0), .. }));
    assert!(at(|step| matches!(step, Step::ForkInto)) < written);
    assert!(written < at(|step| matches!(step, Step::Exec { .. })));
    assert!(!format!("{steps:?}").contains("hunter2"));
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<GuestConfig>(&text).unwrap(), config);
}

#[test]
fn only_a_tree_with_dhcp_gets_a_resolv_conf_of_its_own() {
    let tree = Root::Tree {
        source: "/host".into(),
        access: crate::config::Access::ReadOnly,
    };
    for (root, addressing, expected) in [
        (tree.clone(), Addressing::Dhcp, true),
        (tree, Addressing::None, false),
        (Root::Empty, Addressing::Dhcp, false),
    ] {
        let config = GuestConfig {
            root,
            network: vec![Nic {
                name: "eth0".into(),
                mac: None,
                addressing,
                hint: None,
            }],
            ..config()
        };
        let steps = plan(&config);
        assert_eq!(steps.contains(&Step::OwnResolvConf), expected);
        let Some(Step::NewRoot { targets, .. }) = steps.first() else {
            panic!("{steps:?}");
        };
        assert_eq!(targets.contains(&RESOLV_CONF.into()), expected);
    }
}

#[test]
fn the_user_namespace_is_made_first_and_entered_after_the_pivot() {
    let config = GuestConfig {
        idmap: Some(IdMap {
            first: 1 << 20,
            count: 1 << 16,
        }),
        ..config()
    };
    let steps = plan(&config);
    let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    let namespaces = at(|step| matches!(step, Step::Namespaces { .. }));
    let descent = at(|step| matches!(step, Step::ForkInto));
    assert!(namespaces < at(|step| matches!(step, Step::NewRoot { .. })));
    assert!(at(|step| matches!(step, Step::Pivot(_))) < descent);
    assert!(descent < at(|step| matches!(step, Step::Network(_))));
}

#[test]
fn the_agent_of_a_machine_is_outside_the_limit_of_processes() {
    let machine = GuestConfig {
        platform: Platform::Machine,
        agent_ports: 2,
        ..config()
    };
    let steps = plan(&machine);
    let end = &steps[steps.len() - 3..];
    let group = Step::PayloadGroup {
        max_pids: 10,
        enter: true,
    };
    assert!(
        matches!(end, [Step::Agent(2), found, Step::Exec { .. }] if *found == group),
        "{end:?}"
    );
    let command = crate::config::Command {
        argv: vec!["true".into()],
        environment: vec![],
        directory: crate::config::Directory::Try("/".into()),
        identity: crate::config::Identity {
            uid: 0,
            gid: 0,
            groups: vec![],
            privileged: true,
        },
        stdio: crate::config::Stdio::Streams([crate::config::Stream::None; 3]),
    };
    let machine = GuestConfig {
        payload: Payload::Command(command),
        ..machine
    };
    let group = Step::PayloadGroup {
        max_pids: 10,
        enter: false,
    };
    assert!(plan(&machine).contains(&group));
}

#[test]
fn mounts_are_shared_for_systemd_in_a_container() {
    let at = |config: &GuestConfig, wanted: &Step| {
        let steps = plan(config);
        steps.iter().position(|step| step == wanted)
    };
    let container = config();
    let shared = at(&container, &Step::ShareMounts);
    assert!(shared > at(&container, &Step::Pivot(Platform::Container)));
    assert!(shared < at(&container, &Step::Confine));
    // In a machine systemd shares them itself.
    let machine = GuestConfig {
        platform: Platform::Machine,
        ..config()
    };
    assert_eq!(at(&machine, &Step::ShareMounts), None);
}

#[test]
fn device_access_is_set_after_owners_are_mapped() {
    let device = Device {
        path: "/dev/net/tun".into(),
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let ids = IdMap {
        first: 1 << 16,
        count: 1 << 16,
    };
    let config = GuestConfig {
        idmap: Some(ids),
        devices: vec![device.clone()],
        ..config()
    };
    let steps = plan(&config);
    let at = |wanted: &Step| steps.iter().position(|step| step == wanted);
    assert!(at(&Step::AssignDevices(ids)) < at(&Step::Device(device.clone())));
    assert!(at(&Step::Device(device)) < at(&Step::Pivot(Platform::Container)));
}

#[test]
fn the_root_is_complete_before_the_pivot() {
    let config = config();
    let steps = plan(&config);
    let at = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
    let pivot = at(&Step::Pivot(Platform::Container));
    assert!(matches!(steps[0], Step::NewRoot { .. }));
    assert!(at(&Step::Mount(config.mounts[0].clone())) < pivot);
    assert!(at(&Step::Move("/dev".into())) < pivot);
    assert!(
        at(&Step::Cgroup {
            name: "virt-sandbox-web1".into(),
            max_pids: Some(10)
        }) < pivot
    );
    assert!(matches!(steps.last(), Some(Step::Exec { .. })));
}
