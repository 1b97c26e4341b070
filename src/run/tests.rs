//! Whole documents of one-shot sandboxes: the domain and the guest config that a request becomes.

use std::path::Path;

use guest_init::config::{Stdio as GuestStdio, Stream};

use super::*;
use crate::config::Seccomp;
use crate::domain::{LabelKind, SecLabel, SecModel};
use crate::driver::tests::Host;
use crate::driver::{BuildContext, disks};

/// The least that can be asked for, in a directory that does not depend on the test's.
fn request(host: &Host) -> Request {
    Request {
        name: None,
        root: None,
        volatile: false,
        who: Who::Privileged,
        environment: vec![],
        credentials: vec![],
        directory: Some("/srv".into()),
        hostname: None,
        mounts: vec![],
        includes: vec![],
        disks: vec![],
        networks: vec![],
        publish: vec![],
        security: None,
        resources: Resources {
            cpus: Some(2),
            pids: Some(100),
            ..Resources::default()
        },
        confinement: Confinement {
            idmap: crate::config::Idmap::No,
            ..Confinement::default()
        },
        shell: false,
        emulation: Some(Emulation::Kvm),
        terminal: false,
        hands_over: false,
        escape: None,
        timeout: None,
        start_timeout: None,
        kernel: host.kernel(),
        debug: false,
        command: vec!["ls".into(), "-l".into()],
    }
}

/// With mounts of every type but images, copies, credentials and a shell.
fn with_files(host: &Host) -> Request {
    let mounts = [
        "host-bind:/mnt/temporary=".to_owned(),
        format!("host-bind:/mnt/data={}", host.path("data").display()),
        format!("host-bind:/mnt/read={},ro", host.path("private").display()),
        format!("host-bind:/mnt/file={},ro", host.path("file").display()),
        format!(
            "host-bind:/mnt/nested={}",
            host.path("data/nested").display()
        ),
        "guest-bind:/mnt/again=/etc,ro".to_owned(),
        "ram:/mnt/ram=1M".to_owned(),
    ];
    Request {
        mounts: mounts.iter().map(|mount| mount.parse().unwrap()).collect(),
        includes: [
            format!("/opt/file={}", host.path("file").display()),
            format!("/opt/data={}", host.path("data").display()),
        ]
        .iter()
        .map(|include| include.parse().unwrap())
        .collect(),
        credentials: vec![Credential {
            id: "password".to_owned(),
            source: host.path("file"),
        }],
        environment: vec![("ADDED".into(), "value".into())],
        hostname: Some("named".parse().unwrap()),
        shell: true,
        debug: true,
        ..request(host)
    }
}

/// With a root of its own, and NICs.
fn with_root(host: &Host, networks: &[&str]) -> Request {
    Request {
        root: Some(host.path("data")),
        volatile: true,
        networks: networks.iter().map(|nic| nic.parse().unwrap()).collect(),
        who: Who::User("root".to_owned()),
        ..request(host)
    }
}

/// With a root, a mount and disks in images.
fn with_images(host: &Host) -> Request {
    let mut ext4 = vec![0; 8 << 10];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    host.write("root.img", &ext4);
    host.write("data.img", &ext4);
    host.write("disk.img", &ext4);
    let mounts = [
        format!("host-image:/={}", host.path("root.img").display()),
        format!(
            "host-image:/mnt/image={},partition=2,ro",
            host.path("data.img").display()
        ),
        format!("host-bind:/mnt/data={}", host.path("data").display()),
    ];
    let disks = [
        format!("file:one={}", host.path("disk.img").display()),
        format!("file:two={},ro", host.path("data.img").display()),
    ];
    Request {
        mounts: mounts.iter().map(|mount| mount.parse().unwrap()).collect(),
        disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
        ..request(host)
    }
}

/// Returns the documents of a one-shot sandbox on `host`.
fn built(host: &Host, driver: Driver, request: &Request) -> String {
    let name = &"one".parse().unwrap();
    let state = &host.path("state/one");
    std::fs::create_dir_all(state).unwrap();
    let places = &Places {
        runtime: host.path("state"),
        cache: host.path("cache"),
    };
    let planning = Planning {
        request,
        connection: &Connection {
            uri: String::new(),
            driver,
        },
        name,
        uuid: Uuid::from_u128(7),
        stdio: &GuestStdio::Streams([Stream::None, Stream::Channel, Stream::Inherited]),
        state,
        places,
        // With credentials.
        purpose: Purpose::Start,
        model: None,
    };
    let account = Account::find(&request.who).unwrap();
    let layout = layout::layout(request, driver, state).unwrap();
    let devices = disks::pretend(&layout).into_iter();
    let hostname = plan::hostname(request, name);
    let mut spec =
        plan::spec(&planning, &account, layout, &hostname, &request.confinement).unwrap();
    if request.volatile {
        spec.domain.security = Some(SecLabel {
            model: SecModel::SeLinux,
            kind: LabelKind::Dynamic { base: None },
        });
    }
    let (stage, _) = plan::channel(driver, state, request.debug);
    let context = BuildContext {
        facts: &host.facts(),
        init: &host.path("guest-init"),
        stage: &stage,
        record: state,
        registry: &host.registry(),
        has_boot_files: true,
        claims_ids: false,
        devices: devices.map(|attached| attached.device.clone()).collect(),
        templates: &host.path("templates"),
        cache: &places.cache,
    };
    host.documents(&host.build(driver, &spec, &context).unwrap())
}

#[test]
fn a_command_in_a_container() {
    let host = Host::new();
    insta::assert_snapshot!(built(&host, Driver::Lxc, &request(&host)));
}

#[test]
fn a_command_in_a_container_with_files() {
    let host = Host::new();
    insta::assert_snapshot!(built(&host, Driver::Lxc, &with_files(&host)));
}

#[test]
fn a_command_in_a_container_with_a_root() {
    let host = Host::new();
    let request = with_root(
        &host,
        &[
            "dhcp",
            "address=192.0.2.7/24,bridge=br0",
            "dhcp,direct=eth0",
        ],
    );
    insta::assert_snapshot!(built(&host, Driver::Lxc, &request));
}

#[test]
fn a_command_in_a_container_with_images() {
    let host = Host::new();
    insta::assert_snapshot!(built(&host, Driver::Lxc, &with_images(&host)));
}

#[test]
fn a_command_in_a_container_with_ids_of_its_own() {
    let host = Host::new();
    let request = Request {
        confinement: Confinement {
            idmap: "2000000:65536".parse().unwrap(),
            seccomp: Seccomp::Off,
            ..Confinement::default()
        },
        ..with_files(&host)
    };
    insta::assert_snapshot!(built(&host, Driver::Lxc, &request));
}

#[test]
fn a_command_in_a_machine() {
    let host = Host::new();
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::System), &request(&host)));
}

#[test]
fn a_command_in_a_machine_with_files() {
    let host = Host::new();
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::System), &with_files(&host)));
}

#[test]
fn a_command_in_a_machine_with_a_root() {
    let host = Host::new();
    let request = Request {
        publish: vec!["8080:80".parse().unwrap()],
        ..with_root(&host, &["user", "dhcp,source=default"])
    };
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::System), &request));
}

#[test]
fn a_command_in_a_machine_with_images() {
    let host = Host::new();
    insta::assert_snapshot!(built(
        &host,
        Driver::Qemu(Qemu::System),
        &with_images(&host)
    ));
}

#[test]
fn a_command_in_a_users_machine_gets_copies_of_files() {
    let host = Host::new();
    let mut request = with_files(&host);
    request.mounts.retain(|mount| !matches!(mount, Mount::HostBind { target, .. } if target.as_path() == Path::new("/mnt/nested")));
    request.shell = false;
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::Session), &request));
}
