use super::*;
use crate::config::ImageFormat;
use crate::domain::template::Template;
use crate::domain::tests::{
    assert_valid, attribute, block_device, every_limit, facts, hostile_path, networks, security,
    smallest, text,
};
use crate::domain::{OnReboot, SecModel};

pub(super) fn machine() -> Machine {
    Machine {
        emulation: Emulation::Tcg,
        kernel: "/run/sandbox/kernel".into(),
        initrd: "/run/sandbox/initrd".into(),
        command_line: "console=hvc0 quiet panic=-1".to_owned(),
        channels: vec![Channel {
            name: guest_init::channel::wire::PORT.to_owned(),
            socket: "/run/sandbox/channel".into(),
        }],
        console: Console::Socket("/run/sandbox/console".into()),
        serial: None,
        shares: vec![],
        ends_itself: false,
        most_cpus: 1,
        has_balloon: false,
    }
}

pub(super) fn share(tag: &str, source: &str, transport: Transport) -> ShareDevice {
    ShareDevice {
        tag: tag.to_owned(),
        source: source.into(),
        transport,
    }
}

pub(super) fn plan9(squash: bool, read_only: bool) -> Transport {
    Transport::Plan9 { squash, read_only }
}

fn render(domain: &Domain, machine: &Machine) -> String {
    let view = QemuDomain::new(domain, machine, &facts());
    Template::QemuDomain.render(&view, None).unwrap()
}

#[test]
fn the_smallest_machine() {
    let xml = render(&smallest(), &machine());
    assert_valid(&xml);
    insta::assert_snapshot!(xml);
}

/// Returns the domain with a NIC that publishes a port, a serial port and a share, as a host of `arch` has it.
fn rendered_for(arch: Arch) -> String {
    let domain = Domain {
        networks: networks(&["dhcp,user", "dhcp,source=default"]),
        publish: vec!["8080:80".parse().unwrap()],
        disks: vec![block_device("/srv/a.img", BlockKind::File)],
        ..smallest()
    };
    let machine = Machine {
        serial: Some("/run/sandbox/serial".into()),
        shares: vec![share("root", "/", plan9(false, true))],
        ..machine()
    };
    let facts = HostFacts { arch, ..facts() };
    let view = QemuDomain::new(&domain, &machine, &facts);
    Template::QemuDomain.render(&view, None).unwrap()
}

#[test]
fn a_machine_of_aarch64_is_virt_and_needs_no_firmware() {
    insta::assert_snapshot!(rendered_for(Arch::Aarch64));
}

#[test]
fn machines_of_every_architecture_are_valid() {
    for (arch, machine) in [
        (Arch::X86_64, Some("q35")),
        (Arch::I686, None),
        (Arch::Aarch64, Some("virt")),
        (Arch::Armv7l, Some("virt")),
        (Arch::Ppc64le, None),
        (Arch::S390x, None),
        (Arch::Riscv64, Some("virt")),
        (Arch::Loongarch64, Some("virt")),
    ] {
        let xml = rendered_for(arch);
        // Not defined: the schema of a libvirt that is older than an architecture lacks it.
        let schema = arch != Arch::Loongarch64;
        if schema {
            assert_valid(&xml);
        }
        let named = format!("<type arch='{arch}'");
        assert!(xml.contains(&named), "{xml}");
        let of_machine = machine.is_some_and(|it| xml.contains(&format!("machine='{it}'")));
        assert_eq!(of_machine, machine.is_some(), "{xml}");
        assert_eq!(xml.contains("<acpi/>"), arch.is_x86(), "{xml}");
        let is_ccw = xml.contains("virtio-net-ccw");
        assert_eq!(is_ccw, arch == Arch::S390x, "{xml}");
    }
}

#[test]
fn optional_devices_of_machines_are_rendered() {
    let machine = Machine {
        serial: Some("/run/sandbox/serial".into()),
        ends_itself: true,
        most_cpus: 1,
        has_balloon: false,
        ..machine()
    };
    let xml = render(&smallest(), &machine);
    assert_valid(&xml);
    assert!(
        xml.contains("<source mode='bind' path='/run/sandbox/serial'/>"),
        "{xml}"
    );
    assert!(
        xml.contains("<qemu:arg value='shutdown=poweroff'/>"),
        "{xml}"
    );
}

#[test]
fn every_setting_is_in_the_domain() {
    let domain = Domain {
        resources: every_limit(),
        networks: networks(&[
            "dhcp,source=default,mac=52:54:00:12:34:56,filter=clean-traffic,filter.ip=192.0.2.7",
            "address=192.0.2.7/24,bridge=br0",
            "direct=eth0,mode=vepa",
        ]),
        security: Some(security(
            SecModel::SeLinux,
            Some("system_u:system_r:svirt_t:s0"),
            None,
        )),
        disks: vec![
            BlockDevice {
                format: ImageFormat::Qcow2,
                backing: true,
                ..block_device("/srv/a.qcow2", BlockKind::File)
            },
            BlockDevice {
                read_only: true,
                serial: "disk1".to_owned(),
                ..block_device("/dev/sdb", BlockKind::Block)
            },
            BlockDevice {
                format: ImageFormat::Dmg,
                serial: "disk2".to_owned(),
                ..block_device("/srv/a.dmg", BlockKind::File)
            },
        ],
        consoles: 1,
        on_reboot: OnReboot::Restart,
        ..smallest()
    };
    let machine = Machine {
        emulation: Emulation::Kvm,
        shares: vec![
            share("root", "/", plan9(false, true)),
            share("mount0", "/home", plan9(true, false)),
        ],
        ..machine()
    };
    check(&domain, &machine, Authority::Root).unwrap();
    let xml = render(&domain, &machine);
    assert_valid(&xml);
    insta::assert_snapshot!(xml);
}

/// A static label of SELinux has `relabel`: the files of the sandbox have its categories, and libvirt gives them to disks.
#[test]
fn disks_get_the_label_of_their_domain() {
    let label = "system_u:system_r:svirt_tcg_t:s0:c1,c2";
    let domain = Domain {
        security: Some(security(SecModel::SeLinux, None, Some(label))),
        disks: vec![block_device("/srv/a.img", BlockKind::File)],
        ..smallest()
    };
    let machine = machine();
    check(&domain, &machine, Authority::Root).unwrap();
    let xml = render(&domain, &machine);
    assert_valid(&xml);
    let wanted = format!(
        "<seclabel type='static' model='selinux' relabel='yes'>\n    <label>{label}</label>\n  </seclabel>"
    );
    assert!(xml.contains(&wanted), "{xml}");
}

#[test]
fn files_come_through_virtiofs_and_ports_are_published() {
    let domain = Domain {
        networks: networks(&["dhcp", "dhcp,user,mac=52:54:00:12:34:56"]),
        publish: vec![
            "8080:80".parse().unwrap(),
            "127.0.0.1:5353:53/udp".parse().unwrap(),
        ],
        security: Some(security(SecModel::AppArmor, None, Some("my-profile"))),
        ..smallest()
    };
    let virtiofs = |binary: &str, chroot| Transport::Virtiofs {
        binary: binary.into(),
        chroot,
        read_only: false,
    };
    let machine = Machine {
        shares: vec![
            share("root", "/", virtiofs("/usr/lib/qemu/virtiofsd", true)),
            share("mount0", "/home", virtiofs("/usr/libexec/virtiofsd", false)),
        ],
        ..machine()
    };
    check(&domain, &machine, Authority::User).unwrap();
    let xml = render(&domain, &machine);
    assert_valid(&xml);
    insta::assert_snapshot!(xml);
}

#[test]
fn every_nic_has_an_address_the_guest_can_know() {
    let domain = Domain {
        networks: networks(&["dhcp", "dhcp,mac=52:54:00:12:34:56"]),
        ..smallest()
    };
    assert_eq!(mac(&domain, 0), Mac::of_sandbox(&domain.uuid, 0));
    assert_eq!(mac(&domain, 1).to_string(), "52:54:00:12:34:56");
}

proptest::proptest! {
    #[test]
    fn no_path_breaks_the_document(path in hostile_path()) {
        let domain = Domain {
            disks: vec![block_device(&path, BlockKind::File)],
            ..smallest()
        };
        let machine = Machine {
            kernel: path.clone().into(),
            command_line: format!("init={path}"),
            shares: vec![share("root", &path, plan9(true, true))],
            ..machine()
        };
        let xml = render(&domain, &machine);
        proptest::prop_assert_eq!(attribute(&xml, "source", "dir"), path.as_str());
        proptest::prop_assert_eq!(attribute(&xml, "source", "file"), path.as_str());
        proptest::prop_assert_eq!(text(&xml, "kernel"), path.as_str());
        proptest::prop_assert_eq!(text(&xml, "cmdline"), format!("init={path}"));
    }
}
