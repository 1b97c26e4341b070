//! The DHCP client against dnsmasq.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use guest_init::network;
use guest_init::network::dhcp::{self, Known, Lease, LeaseEvent, LeaseRoute};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

use crate::wire::{Wire, dynamic, eth0, in_sandbox, ip};

pub const DEADLINE: Duration = Duration::from_secs(15);
/// Longer than a confirmation takes, shorter than a search with a check of the address.
pub const AT_ONCE: Duration = Duration::from_millis(400);

/// Ethernet address of the NIC of the sandbox.
pub const KEY: &str = "02:00:00:00:00:01";

/// dnsmasq on the host side; killed on drop.
pub struct Server {
    process: Child,
    state: TempDir,
}

impl Server {
    pub fn start(wire: &Wire, options: &[&str]) -> Self {
        wire.on_host(|| Self::spawn(options))
    }

    fn spawn(options: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let path = |name: &str| state.path().join(name).display().to_string();
        let process = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
            .args([
                "--user=root",
                "--interface=veth0",
                "--bind-interfaces",
                "--log-dhcp",
            ])
            .arg("--dhcp-range=192.0.2.10,192.0.2.99,255.255.255.0,2m")
            .args([
                "--domain=example.net",
                "--dhcp-option=option:dns-server,192.0.2.53",
            ])
            .arg("--dhcp-option=option:domain-search,a.example.net,b.example.net")
            .arg(format!("--dhcp-leasefile={}", path("leases")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--log-facility={}", path("log")))
            .args(options)
            .spawn()
            .unwrap();
        let server = Self { process, state };
        server.until(|log| log.contains("DHCP, IP range"));
        server
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }

    fn until(&self, seen: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(5);
        while !seen(&self.log()) {
            assert!(Instant::now() < end, "{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn leases(&self) -> String {
        std::fs::read_to_string(self.state.path().join("leases")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Obtains a lease. Returns it with the time that took.
pub fn acquire(wanted: Option<Ipv4Addr>) -> (Lease, Duration) {
    let began = Instant::now();
    let lease = dhcp::acquire(&eth0(), "box", wanted, DEADLINE).unwrap();
    (lease, began.elapsed())
}

#[test]
fn a_lease_is_got_and_applied() {
    in_sandbox(|wire| {
        let server = Server::start(&wire, &["--no-ping", "--dhcp-option=option:mtu,1400"]);
        let kept = network::configure(&[dynamic("eth0")], "box", &BTreeMap::new(), DEADLINE);
        let kept = kept.unwrap();
        let Known::Confirmed(lease) = kept[0].known.clone() else {
            panic!("{kept:?}");
        };
        assert_eq!(kept[0].lease(), Some(&lease));
        assert_eq!(kept[0].key(), KEY);
        let address = lease.address.to_string();

        let shown = ip("address show dev eth0");
        assert!(
            shown.contains(&format!("inet {address}/24 brd 192.0.2.255")),
            "{shown}"
        );
        assert!(shown.contains("mtu 1400"), "{shown}");
        let routes = ip("route show default");
        assert!(
            routes.starts_with("default via 192.0.2.1 dev eth0 proto dhcp src"),
            "{routes}"
        );
        assert!(ip("address show dev lo").contains("127.0.0.1/8"));
        assert_eq!(
            network::resolv_conf([&lease]).unwrap(),
            "nameserver 192.0.2.53\nsearch a.example.net b.example.net\n"
        );
        assert_eq!(lease.domain.as_deref(), Some("example.net"));
        let terms = lease.terms.unwrap();
        assert_eq!(
            (terms.renewal, terms.rebinding, terms.expiry),
            (60, 105, 120)
        );
        let leases = server.leases();
        let known = format!("02:00:00:00:00:01 {address} box 01:02:00:00:00:00:01");
        assert!(leases.contains(&known), "{leases}");

        // The same lease again, then another one.
        let link = &kept[0].interface.link;
        dhcp::apply(link, &lease, Some(&lease)).unwrap();
        let moved = Lease {
            address: Ipv4Addr::new(192, 0, 2, 200),
            routes: vec![
                LeaseRoute {
                    network: Ipv4Addr::new(10, 0, 0, 0),
                    prefix: 8,
                    gateway: Some(Ipv4Addr::new(198, 51, 100, 1)),
                },
                LeaseRoute {
                    network: Ipv4Addr::new(198, 51, 100, 0),
                    prefix: 24,
                    gateway: None,
                },
            ],
            ..lease.clone()
        };
        dhcp::apply(link, &moved, Some(&lease)).unwrap();
        let shown = ip("-4 address show dev eth0");
        assert!(
            !shown.contains(&address) && shown.contains("192.0.2.200/24"),
            "{shown}"
        );
        let routes = ip("route show");
        assert!(!routes.contains("default"), "{routes}");
        assert!(routes.contains("10.0.0.0/8 via 198.51.100.1"), "{routes}");
        assert!(routes.contains("198.51.100.0/24 dev eth0"), "{routes}");
        // Only the routes change.
        let fewer = Lease {
            routes: moved.routes[1..].to_vec(),
            ..moved.clone()
        };
        dhcp::apply(link, &fewer, Some(&moved)).unwrap();
        assert!(!ip("route show").contains("10.0.0.0/8"));
        dhcp::withdraw(link, &fewer).unwrap();
        dhcp::withdraw(link, &fewer).unwrap();
        assert_eq!(ip("-4 address show dev eth0"), "");
    });
}

#[test]
fn a_server_that_looks_for_the_address_first_is_waited_for() {
    in_sandbox(|wire| {
        let server = Server::start(&wire, &[]);
        let (lease, took) = acquire(None);
        println!("first lease, with ping: {took:?}");
        drop(server);
        let server = Server::start(&wire, &["--no-ping"]);
        let (other, took) = acquire(None);
        println!("first lease, without ping: {took:?}");
        assert!(took < AT_ONCE, "{took:?}\n{}", server.log());
        assert_eq!(lease.address, other.address, "dnsmasq hashes the MAC");
    });
}

#[test]
fn a_known_address_is_confirmed_at_once() {
    in_sandbox(|wire| {
        let server = Server::start(&wire, &["--dhcp-authoritative"]);
        let (first, _) = acquire(None);
        let (again, took) = acquire(Some(first.address));
        println!("known lease: {took:?}");
        assert!(took < AT_ONCE, "{took:?}\n{}", server.log());
        assert_eq!(first.address, again.address);
    });
}

#[test]
fn a_free_address_is_given_at_once_by_an_authoritative_server() {
    in_sandbox(|wire| {
        let authoritative = Server::start(&wire, &["--dhcp-authoritative"]);
        let wanted = Ipv4Addr::new(192, 0, 2, 77);
        let (lease, took) = acquire(Some(wanted));
        println!(
            "never leased, authoritative: {} after {took:?}",
            lease.address
        );
        assert_eq!(lease.address, wanted);
        assert!(took < AT_ONCE, "{took:?}\n{}", authoritative.log());

        // An address of another network is refused, so the search begins at once.
        let (lease, took) = acquire(Some(Ipv4Addr::new(203, 0, 113, 7)));
        println!(
            "wrong network, authoritative: {} after {took:?}",
            lease.address
        );
        assert!(authoritative.log().contains("DHCPNAK"));
        drop(authoritative);

        let server = Server::start(&wire, &["--no-ping"]);
        let (lease, took) = acquire(Some(Ipv4Addr::new(192, 0, 2, 78)));
        println!(
            "never leased, not authoritative: {} after {took:?}",
            lease.address
        );
        assert!(took < Duration::from_secs(7), "{took:?}\n{}", server.log());
    });
}

#[test]
fn a_lease_is_kept() {
    in_sandbox(|wire| {
        let server = Server::start(&wire, &["--no-ping", "--dhcp-authoritative"]);
        let (lease, _) = acquire(None);
        dhcp::apply(&eth0().link, &lease, None).unwrap();
        // Age the lease: T1 is 60 s, T2 105 s, expiry 120 s.
        for (age, requests) in [(61, 1), (106, 2)] {
            let aged = Lease {
                obtained: lease.obtained.checked_sub(age).unwrap(),
                ..lease.clone()
            };
            let events = keep(&wire, Known::Confirmed(aged.clone()));
            let event = events.recv_timeout(AT_ONCE).unwrap();
            let LeaseEvent::Obtained {
                lease: renewed,
                previous,
            } = event
            else {
                panic!("{event:?}");
            };
            assert_eq!(previous, Some(aged));
            assert_eq!(renewed.address, lease.address);
            assert!(renewed.obtained >= lease.obtained);
            let log = server.log();
            assert_eq!(log.matches("DHCPACK").count(), requests + 1, "{log}");
            assert_eq!(log.matches("DHCPDISCOVER").count(), 1, "{log}");
        }
        let aged = Lease {
            obtained: lease.obtained.checked_sub(121).unwrap(),
            ..lease.clone()
        };
        let events = keep(&wire, Known::Confirmed(aged.clone()));
        assert_eq!(events.recv_timeout(AT_ONCE), Ok(LeaseEvent::Lost(aged)));
        let event = events.recv_timeout(AT_ONCE).unwrap();
        assert!(
            matches!(&event, LeaseEvent::Obtained { previous: None, .. }),
            "{event:?}"
        );
        assert!(ip("-4 address show dev eth0").contains(&lease.address.to_string()));
    });
}

/// Renews a lease in a thread, which lives as long as the tests do.
pub fn keep(wire: &Wire, known: Known) -> mpsc::Receiver<LeaseEvent> {
    let (sender, receiver) = mpsc::channel();
    let sandbox = wire.sandbox.try_clone().unwrap();
    thread::spawn(move || {
        setns(&sandbox, CloneFlags::CLONE_NEWNET).unwrap();
        dhcp::maintain(&eth0(), "box", known, |event| {
            let _ = sender.send(event.clone());
        })
    });
    receiver
}

#[test]
fn a_link_that_comes_up_late_gets_its_lease() {
    in_sandbox(|wire| {
        let nic = eth0();
        wire.on_host(|| ip("link set veth0 down"));
        let refused = dhcp::acquire(&nic, "box", None, Duration::from_secs(1)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "asking for an address on eth0: no DHCP server answered within 1 s"
        );
        ip("link set eth0 down");
        let (sender, receiver) = mpsc::channel();
        let sandbox = wire.sandbox.try_clone().unwrap();
        thread::spawn(move || {
            setns(&sandbox, CloneFlags::CLONE_NEWNET).unwrap();
            dhcp::maintain(&nic, "box", Known::Nothing, |event| {
                let _ = sender.send(event.clone());
            })
        });
        thread::sleep(Duration::from_millis(300));
        ip("link set eth0 up");
        wire.on_host(|| ip("link set veth0 up"));
        let _server = Server::start(&wire, &["--no-ping"]);
        let event = receiver.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(event, LeaseEvent::Obtained { .. }), "{event:?}");
        assert!(ip("-4 address show dev eth0").contains("192.0.2."));
    });
}
