//! Spoofed addresses: packets that a sandbox with a filter sends to others on its network.

use std::net::UdpSocket;
use std::time::Duration;

use test_harness::libvirtd;

use crate::support::{Test, inside, ok, subnet};
use crate::unit;

/// Sends its words from its own address; then from another one, first through the kernel, which resolves the host's address
/// (ARP) from there, then with that address known; and last from its own address once more.
const LIAR: &str = r#"
host=$1 own=$2 other=$3 port=$4
say() { python3 - "$@" <<'P'
import socket, sys
word, source, host, port = sys.argv[1:]
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 0))
    for _ in range(5): s.sendto(word.encode(), (host, int(port)))
except OSError as error: print(word, error)
P
}
ip address add $own/24 dev eth0 2>/dev/null
say honest $own $host $port
sleep 1
mac=$(ip neighbour show $host | sed -n 's/.*lladdr \([^ ]*\).*/\1/p')
echo "the host is $mac"
ip address add $other/24 dev eth0
ip neighbour flush dev eth0
say by-arp $other $host $port
sleep 2
ip neighbour replace $host lladdr $mac dev eth0
say by-ip $other $host $port
sleep 1
ip link set eth0 down; ip link set eth0 address 52:54:00:66:66:66; ip link set eth0 up
ip address add $own/24 dev eth0 2>/dev/null
ip neighbour replace $host lladdr $mac dev eth0
sleep 1
say by-mac $own $host $port
sleep 1
"#;

/// Returns the words that arrive at the host.
fn heard(name: &str, own: &str, other: &str, host: &str) -> Vec<String> {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let port = socket.local_addr().unwrap().port();
    let script = LIAR.replacen(
        "host=$1 own=$2 other=$3 port=$4",
        &format!("host={host} own={own} other={other} port={port}"),
        1,
    );
    let done = inside(name, &script);
    println!("{name}: {} {}", done.stdout.trim(), done.stderr.trim());
    let mut words = Vec::new();
    let mut buffer = [0; 64];
    while let Ok((size, from)) = socket.recv_from(&mut buffer) {
        let word = String::from_utf8_lossy(&buffer[..size]).into_owned();
        if !words.contains(&word) {
            println!("{name}: '{word}' from {from}");
            words.push(word);
        }
    }
    words
}

#[test]
fn a_filter_drops_packets_with_false_addresses() {
    let Some(test) = Test::begin("a_filter_drops_packets_with_false_addresses") else {
        return;
    };
    spoof_addresses(&[]);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn a_filter_drops_packets_of_a_machine_with_false_addresses() {
    let Some(test) = Test::begin("a_filter_drops_packets_of_a_machine_with_false_addresses") else {
        return;
    };
    spoof_addresses(&["-c", &libvirtd::qemu_uri().unwrap()]);
    test.end();
}

/// Has sandboxes, created with these options, send from false addresses, without and with a filter.
fn spoof_addresses(driver: &[&str]) {
    let unit = unit();
    let subnet = subnet();
    let [host, own, other] = [1, 71, 72].map(|last| format!("{subnet}.{last}"));
    let free = format!("address={own}/24,source=default");
    let filtered = format!("{free},filter=clean-traffic,filter.ip={own}");
    for (nic, expected) in [
        (&free, &["honest", "by-arp", "by-ip", "by-mac"][..]),
        (&filtered, &["honest"]),
    ] {
        let create = ["create", "-N", nic, "-u", "t-esc.service", "t-esc"];
        ok(&[driver, &create].concat());
        ok(&["start", "t-esc"]);
        assert_eq!(heard("t-esc", &own, &other, &host), expected, "{nic}");
        ok(&["delete", "--force", "t-esc"]);
    }
    drop(unit);
}
