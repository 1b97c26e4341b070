//! Start of the network with leases of an earlier run.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use guest_init::config::Nic;
use guest_init::network::dhcp::{Known, Lease, LeaseEvent, LeaseRoute, lease::Terms};
use guest_init::network::{self, LeasedNic};
use nix::time::{ClockId, clock_gettime};

use crate::dhcp::{AT_ONCE, DEADLINE, KEY, Server, acquire, keep};
use crate::wire::{dynamic, in_sandbox, ip};

/// A lease of two minutes from an earlier run, ten seconds old.
fn lease_of(address: [u8; 4]) -> Lease {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
    let gateway = Some(Ipv4Addr::new(192, 0, 2, 1));
    Lease {
        address: address.into(),
        prefix: 24,
        broadcast: None,
        server: Ipv4Addr::new(192, 0, 2, 1),
        routes: vec![LeaseRoute {
            network: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway,
        }],
        dns: Vec::new(),
        domain: None,
        search: Vec::new(),
        mtu: None,
        obtained: now.as_secs().saturating_sub(10),
        terms: Some(Terms {
            renewal: 60,
            rebinding: 105,
            expiry: 120,
        }),
    }
}

/// Configures one NIC. Returns it with the time that took.
fn configure(key: &str, lease: &Lease) -> (LeasedNic, Duration) {
    configure_nic(
        dynamic("eth0"),
        BTreeMap::from([(key.to_owned(), lease.clone())]),
    )
}

fn configure_nic(nic: Nic, previous: BTreeMap<String, Lease>) -> (LeasedNic, Duration) {
    let began = Instant::now();
    let mut kept = network::configure(&[nic], "box", &previous, DEADLINE).unwrap();
    (kept.remove(0), began.elapsed())
}

fn shown(address: [u8; 4]) -> bool {
    let text = ip("-4 address show dev eth0");
    text.contains(&format!("inet {}/24", Ipv4Addr::from(address)))
}

#[test]
fn a_remembered_lease_is_used_at_once_and_confirmed() {
    in_sandbox(|wire| {
        let lease = lease_of([192, 0, 2, 77]);
        // Without an answer of a server.
        let (kept, took) = configure(KEY, &lease);
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(kept.known, Known::Remembered(lease.clone()));
        assert!(shown([192, 0, 2, 77]));
        assert!(ip("route show default").contains("via 192.0.2.1"));

        let server = Server::start(&wire, &["--dhcp-authoritative"]);
        let events = keep(&wire, kept.known);
        let event = events.recv_timeout(AT_ONCE).unwrap();
        let LeaseEvent::Obtained {
            lease: confirmed,
            previous,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(confirmed.address, lease.address);
        assert_eq!(previous, Some(lease));
        assert!(shown([192, 0, 2, 77]));
        assert!(!server.log().contains("DHCPDISCOVER"), "{}", server.log());
    });
}

#[test]
fn a_remembered_lease_that_is_refused_gives_way_to_another() {
    in_sandbox(|wire| {
        // An address of another network.
        let lease = lease_of([203, 0, 113, 7]);
        let (kept, _) = configure(KEY, &lease);
        assert!(shown([203, 0, 113, 7]));
        let server = Server::start(&wire, &["--dhcp-authoritative", "--no-ping"]);
        let events = keep(&wire, kept.known);
        assert_eq!(
            events.recv_timeout(AT_ONCE),
            Ok(LeaseEvent::Lost(lease)),
            "{}",
            server.log()
        );
        let event = events.recv_timeout(DEADLINE).unwrap();
        let LeaseEvent::Obtained {
            lease,
            previous: None,
        } = event
        else {
            panic!("{event:?}");
        };
        assert!(shown(lease.address.octets()));
        assert!(!shown([203, 0, 113, 7]));
    });
}

#[test]
fn a_remembered_lease_nobody_answers_for_is_kept() {
    in_sandbox(|wire| {
        let (kept, _) = configure(KEY, &lease_of([192, 0, 2, 77]));
        let events = keep(&wire, kept.known);
        // Longer than the wait for a confirmation.
        assert!(events.recv_timeout(Duration::from_secs(7)).is_err());
        assert!(shown([192, 0, 2, 77]));
    });
}

#[test]
fn a_damaged_lease_is_replaced() {
    in_sandbox(|wire| {
        let _server = Server::start(&wire, &["--dhcp-authoritative", "--no-ping"]);
        let damaged = Lease {
            prefix: 99,
            ..lease_of([192, 0, 2, 77])
        };
        let (kept, _) = configure(KEY, &damaged);
        assert!(matches!(kept.known, Known::Confirmed(_)), "{kept:?}");
        assert!(shown([192, 0, 2, 77]));
    });
}

#[test]
fn an_expired_lease_is_asked_for_first() {
    in_sandbox(|wire| {
        let _server = Server::start(&wire, &["--dhcp-authoritative"]);
        let expired = Lease {
            terms: Some(Terms {
                renewal: 1,
                rebinding: 2,
                expiry: 3,
            }),
            ..lease_of([192, 0, 2, 77])
        };
        for lease in [expired, lease_of([192, 0, 2, 77]).of_another_boot()] {
            let (kept, took) = configure(KEY, &lease);
            assert!(took < AT_ONCE, "{took:?}");
            let Known::Confirmed(confirmed) = kept.known else {
                panic!("{kept:?}");
            };
            assert_eq!(confirmed.address, lease.address);
        }
    });
}

#[test]
fn a_hint_is_asked_for_first() {
    in_sandbox(|wire| {
        let hinted = || Nic {
            hint: Some(Ipv4Addr::new(192, 0, 2, 66)),
            ..dynamic("eth0")
        };
        let silent = network::configure(&[hinted()], "box", &BTreeMap::new(), AT_ONCE).unwrap();
        assert_eq!(
            silent[0].known,
            Known::Address(Ipv4Addr::new(192, 0, 2, 66)),
            "still to be asked for"
        );

        let server = Server::start(&wire, &["--dhcp-authoritative"]);
        let (kept, took) = configure_nic(hinted(), BTreeMap::new());
        assert!(took < AT_ONCE, "{took:?}\n{}", server.log());
        let Known::Confirmed(lease) = kept.known else {
            panic!("{kept:?}");
        };
        assert_eq!(lease.address, Ipv4Addr::new(192, 0, 2, 66));
        assert!(!server.log().contains("DHCPDISCOVER"), "{}", server.log());
    });
}

#[test]
fn the_lease_of_another_nic_is_not_taken_over() {
    in_sandbox(|wire| {
        let server = Server::start(&wire, &["--dhcp-authoritative", "--no-ping"]);
        let other = lease_of([192, 0, 2, 77]);
        let (kept, _) = configure("02:00:00:00:00:02", &other);
        let Known::Confirmed(lease) = kept.known else {
            panic!("{kept:?}");
        };
        assert_ne!(lease.address, other.address);
        assert!(!shown([192, 0, 2, 77]));
        assert!(!server.log().contains("192.0.2.77"), "{}", server.log());
        assert_eq!(acquire(None).0.address, lease.address);
    });
}
