use super::*;
use crate::config::SandboxConfig;
use crate::domain::template::Template;
use crate::domain::tests::{
    assert_valid, attribute, block_device, every_limit, facts, hostile_path, networks, security,
    smallest,
};
use crate::domain::{BlockDevice, SecModel};

fn filesystem(source: &str, target: &str, read_only: bool) -> Filesystem {
    Filesystem {
        source: source.into(),
        target: target.into(),
        read_only,
    }
}

fn render_with(domain: &Domain, filesystems: Vec<Filesystem>) -> String {
    let view = LxcDomain::new(domain, &facts(), filesystems);
    Template::LxcDomain.render(&view, None).unwrap()
}

fn render(domain: &Domain) -> String {
    let filesystems = vec![
        filesystem("/stage", "/", false),
        filesystem("/usr<&'", "/host/usr", true),
    ];
    render_with(domain, filesystems)
}

#[test]
fn the_smallest_domain() {
    let xml = render(&Domain::of_service(&SandboxConfig::example()));
    assert_valid(&xml);
    insta::assert_snapshot!(xml);
}

#[test]
fn every_setting_is_in_the_domain() {
    let config = SandboxConfig {
        resources: every_limit(),
        networks: networks(&[
            "dhcp,mac=52:54:00:12:34:56,filter=clean-traffic,filter.ip=192.0.2.7",
            "address=192.0.2.7/24,source=lab",
        ]),
        ..SandboxConfig::example()
    };
    let xml = render(&Domain::of_service(&config));
    assert_valid(&xml);
    insta::assert_snapshot!(xml);
}

#[test]
fn a_one_shot_container_has_consoles_and_disks() {
    let domain = Domain {
        networks: networks(&["dhcp,bridge=br0", "direct=eth0,mode=private"]),
        security: Some(security(
            SecModel::SeLinux,
            None,
            Some("system_u:system_r:svirt_lxc_net_t:s0:c355,c412"),
        )),
        disks: vec![
            block_device("/dev/sdb", BlockKind::Block),
            BlockDevice {
                read_only: true,
                ..block_device("/dev/loop0", BlockKind::Block)
            },
        ],
        devices: vec!["/dev/net/tun".parse().unwrap()],
        consoles: 2,
        ..smallest()
    };
    check(&domain).unwrap();
    let xml = render(&domain);
    assert_valid(&xml);
    insta::assert_snapshot!(xml);
}

#[test]
fn unsupported_options_of_containers_are_refused() {
    let nic = Domain {
        networks: networks(&["dhcp,user"]),
        ..smallest()
    };
    let publish = Domain {
        publish: vec!["8080:80".parse().unwrap()],
        ..smallest()
    };
    let disk = Domain {
        disks: vec![block_device("/srv/a.img", BlockKind::File)],
        ..smallest()
    };
    for (domain, reason) in [
        (nic, "no user-mode network"),
        (publish, "8080:80"),
        (disk, "losetup"),
    ] {
        let error = check(&domain).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_path_breaks_the_document(path in hostile_path()) {
        let domain = Domain {
            disks: vec![block_device(&path, BlockKind::Block)],
            ..smallest()
        };
        let xml = render_with(&domain, vec![filesystem(&path, "/", true)]);
        proptest::prop_assert_eq!(attribute(&xml, "source", "dir"), path.as_str());
        proptest::prop_assert_eq!(attribute(&xml, "source", "dev"), path.as_str());
    }
}
