//! Static addresses and routes of the guest config.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use guest_init::config::{Addressing, Nic};
use guest_init::network::netlink::{Hop, Netlink};
use guest_init::network::{self, NetworkError};

use crate::wire::{dynamic, in_sandbox, ip, link};

const DEADLINE: Duration = Duration::from_secs(1);

#[test]
fn static_addresses_are_there_at_once() {
    in_sandbox(|_wire| {
        let nic = Nic {
            name: "eth0".to_owned(),
            mac: Some([0x52, 0x54, 0, 1, 2, 3]),
            addressing: Addressing::Static {
                addresses: ["192.0.2.7/24", "2001:db8::7/64"]
                    .map(|address| address.parse().unwrap())
                    .to_vec(),
                routes: [
                    "0.0.0.0/0%192.0.2.1",
                    "::/0%2001:db8::1",
                    "10.1.2.3/8%192.0.2.9",
                ]
                .map(|route| route.parse().unwrap())
                .to_vec(),
            },
            hint: None,
        };
        for _ in 0..2 {
            let nics = std::slice::from_ref(&nic);
            let kept = network::configure(nics, "box", &BTreeMap::new(), DEADLINE).unwrap();
            assert_eq!(kept, []);
        }
        let shown = ip("address show dev eth0");
        assert!(shown.contains("link/ether 52:54:00:01:02:03"), "{shown}");
        assert!(
            shown.contains("inet 192.0.2.7/24 brd 192.0.2.255"),
            "{shown}"
        );
        let global = shown.lines().find(|line| line.contains("2001:db8::7/64"));
        if Path::new("/proc/sys/net/ipv6").exists() {
            assert!(
                global.is_some_and(|line| !line.contains("tentative")),
                "{shown}"
            );
            assert!(ip("-6 route show default").contains("via 2001:db8::1"));
        }
        let routes = ip("route show");
        assert!(
            routes.contains("default via 192.0.2.1 dev eth0 proto static"),
            "{routes}"
        );
        assert!(routes.contains("10.0.0.0/8 via 192.0.2.9"), "{routes}");

        let mut netlink = Netlink::open().unwrap();
        let link = link("eth0");
        assert_eq!(netlink.addresses(&link).unwrap().len(), 2);
        let hop = Hop::from(&"10.0.0.0/8%192.0.2.9".parse().unwrap());
        netlink.remove_route(&link, &hop).unwrap();
        netlink.remove_route(&link, &hop).unwrap();
        netlink.flush_addresses(&link).unwrap();
        assert_eq!(netlink.addresses(&link).unwrap(), []);
        let error = netlink.set_route(&link, &hop).unwrap_err().to_string();
        assert_eq!(
            error,
            "setting route 10.0.0.0/8 via 192.0.2.9 on eth0: Network is unreachable"
        );
    });
}

#[test]
fn a_missing_interface_is_named() {
    in_sandbox(|_wire| {
        let nics = [dynamic("eth7")];
        let error = network::configure(&nics, "box", &BTreeMap::new(), DEADLINE).unwrap_err();
        assert!(matches!(error, NetworkError::Missing { .. }));
        let text = error.to_string();
        assert!(
            text.starts_with("looking for interface eth7: there are only "),
            "{text}"
        );
        assert!(text.contains("eth0"), "{text}");
    });
}
