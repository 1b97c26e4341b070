use super::super::tests::{machine, plan9, share};
use super::*;
use crate::domain::BlockKind;
use crate::domain::tests::{block_device, every_limit, networks, smallest};

fn assert_refused(domain: &Domain, machine: &Machine, authority: Authority, reason: &str) {
    let error = check(domain, machine, authority).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a_user_has_no_cgroups_and_no_networks() {
    let domain = Domain {
        resources: every_limit(),
        ..smallest()
    };
    check(&domain, &machine(), Authority::Root).unwrap();
    assert_refused(&domain, &machine(), Authority::User, "--cpu-shares needs");
    for nic in ["dhcp,source=default", "direct=eth0"] {
        let domain = Domain {
            networks: networks(&[nic]),
            ..smallest()
        };
        check(&domain, &machine(), Authority::Root).unwrap();
        assert_refused(&domain, &machine(), Authority::User, nic);
    }
    for nic in ["dhcp", "dhcp,user", "dhcp,bridge=br0"] {
        let domain = Domain {
            networks: networks(&[nic]),
            ..smallest()
        };
        check(&domain, &machine(), Authority::User).unwrap();
    }
}

#[test]
fn a_users_machine_can_have_limits_without_cgroups() {
    let domain = Domain {
        resources: Resources {
            memory: Some("2G".parse().unwrap()),
            cpus: Some(2),
            cpu_pinning: Some("0".parse().unwrap()),
            pids: Some(100),
            ..Resources::default()
        },
        ..smallest()
    };
    check(&domain, &machine(), Authority::User).unwrap();
}

#[test]
fn unsupported_options_of_user_networks_are_refused() {
    let with = |nics: &[&str], publish: &[&str], resources: Resources| Domain {
        networks: networks(nics),
        publish: publish.iter().map(|text| text.parse().unwrap()).collect(),
        resources,
        ..smallest()
    };
    let none = Resources::default;
    for (domain, reason) in [
        (with(&["user,filter=clean"], &[], none()), "no filters"),
        (
            with(&["dhcp", "mac=52:54:00:00:00:00"], &[], none()),
            "two NICs",
        ),
        (with(&["dhcp"], &[], every_limit()), "--net-receive"),
        (with(&[], &["80:80"], none()), "add -N dhcp,user"),
        (
            with(&["bridge=br0"], &["80:80"], none()),
            "add -N dhcp,user",
        ),
        (with(&["dhcp"], &["80:80", "[::1]:81:81"], none()), "IPv4"),
    ] {
        assert_refused(&domain, &machine(), Authority::Root, reason);
    }
}

#[test]
fn names_that_are_too_long_are_refused() {
    for serial in ["", "a b", "x".repeat(21).as_str()] {
        let mut domain = smallest();
        domain.disks = vec![block_device("/a", BlockKind::File)];
        check(&domain, &machine(), Authority::Root).unwrap();
        domain.disks[0].serial = serial.to_owned();
        assert_refused(&domain, &machine(), Authority::Root, "serial");
    }
    let virtiofs = || Transport::Virtiofs {
        binary: "/usr/libexec/virtiofsd".into(),
        chroot: false,
        read_only: false,
    };
    for (share, reason) in [
        (share("", "/", plan9(false, true)), "1 to 31"),
        (share(&"x".repeat(32), "/", plan9(false, true)), "1 to 31"),
        (share(&"x".repeat(37), "/", virtiofs()), "1 to 36"),
    ] {
        let machine = Machine {
            shares: vec![share],
            ..machine()
        };
        assert_refused(&smallest(), &machine, Authority::Root, reason);
    }
    let machine = Machine {
        console: crate::domain::qemu::Console::Socket(format!("/{}", "x".repeat(107)).into()),
        ..machine()
    };
    assert_refused(&smallest(), &machine, Authority::Root, "107 bytes");
}
