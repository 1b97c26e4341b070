//! Tables of a sandbox's kernel below `/proc`. Root inside decides what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::host::SYSTEM_DIRS;

/// Returns the addresses in `/proc/net/fib_trie` and `/proc/net/if_inet6` by which others may reach the sandbox; IPv4 first.
#[must_use]
pub fn addresses(fib_trie: &str, if_inet6: &str) -> Vec<IpAddr> {
    let v4 = parse_fib_trie(fib_trie).into_iter().map(IpAddr::from);
    let v6 = parse_if_inet6(if_inet6).into_iter().map(IpAddr::from);
    v4.chain(v6).filter(is_of_one_host).collect()
}

/// Returns whether an address is of one host, to others: no loopback, link-local, multicast or unspecified address, and no IPv4
/// address written as an IPv6 one, for which a kernel uses IPv4 (RFC 4291, 2.5.5).
fn is_of_one_host(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            (1..224).contains(&first) && !v4.is_loopback() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            // `::/96` holds the unspecified address, the loopback and IPv4-compatible ones.
            let is_embedded = v6.to_ipv4().is_some();
            !is_embedded && !v6.is_multicast() && !v6.is_unicast_link_local()
        }
    }
}

/// Returns the local addresses of `fib_trie`: a line `|-- ADDRESS` followed by `/32 host LOCAL`.
fn parse_fib_trie(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut last = None;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// Returns the global addresses of `if_inet6`: 32 hex digits, then index, prefix length and scope, which is 00 for global.
fn parse_if_inet6(text: &str) -> Vec<Ipv6Addr> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let bits = u128::from_str_radix(fields.first()?, 16).ok()?;
            (*fields.get(3)? == "00").then(|| Ipv6Addr::from(bits))
        })
        .collect()
}

/// Files of the host's system directories that processes have mapped: their paths, with the inodes that are mapped. A file
/// that was removed or replaced has the inode 0, which no file has.
pub type Mapped = BTreeMap<PathBuf, BTreeSet<u64>>;

/// Most files of a sandbox that are looked at. Root inside maps as many as it likes.
const MOST_MAPPED: usize = 4096;

/// Adds the mapped files in the lines of `/proc/PID/maps` (proc_pid_maps(5)) after the fields `address perms offset dev`:
/// inode, spaces, path.
pub fn add_mapped<'a>(mapped: &mut Mapped, lines: impl Iterator<Item = &'a str>) {
    for line in lines {
        let Some((inode, path)) = line.split_once(' ') else {
            continue;
        };
        let path = path.trim_start();
        let (path, is_gone) = match path.strip_suffix(" (deleted)") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let Ok(inode) = inode.parse() else { continue };
        let is_known = mapped.contains_key(Path::new(path));
        if is_of_system(Path::new(path)) && (is_known || mapped.len() < MOST_MAPPED) {
            let inodes = mapped.entry(path.into()).or_default();
            inodes.insert(if is_gone { 0 } else { inode });
        }
    }
}

/// Returns whether a path is in one of the directories that a sandbox shares with the host. The kernel writes a newline as `\012`.
fn is_of_system(path: &Path) -> bool {
    let inside = path.strip_prefix("/").ok();
    let top = inside.and_then(|inside| inside.iter().next());
    top.is_some_and(|top| SYSTEM_DIRS.iter().any(|name| top == *name))
}

/// Returns the mapped files that are not at their paths any more, where `inode_of` returns the inode of what is there now.
pub fn replaced(mapped: &Mapped, inode_of: impl Fn(&Path) -> Option<u64>) -> BTreeSet<PathBuf> {
    let is_replaced = |path: &Path, inodes: &BTreeSet<u64>| {
        let now = inode_of(path);
        inodes.iter().any(|inode| now != Some(*inode))
    };
    let found = mapped
        .iter()
        .filter(|(path, inodes)| is_replaced(path, inodes));
    found.map(|(path, _)| path.clone()).collect()
}

/// Returns the bytes received and sent by all NICs but the loopback: the first and the ninth number of `/proc/net/dev`.
#[must_use]
pub fn parse_net_dev(text: &str) -> (u64, u64) {
    let numbers = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest
            .split_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        (name.trim() != "lo").then_some((*numbers.first()?, *numbers.get(8)?))
    });
    // The kernel of a virtual machine may write anything.
    numbers.fold((0, 0), |sum: (u64, u64), one| {
        (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
    })
}

/// Returns the seconds since the boot: the first number of `/proc/uptime`.
#[must_use]
pub fn parse_uptime(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_maps_without_end_is_looked_at_in_part() {
        let lines: Vec<String> = (0..2 * MOST_MAPPED)
            .map(|number| format!("{number} /usr/lib/{number}.so"))
            .collect();
        let mut mapped = Mapped::new();
        add_mapped(&mut mapped, lines.iter().map(String::as_str));
        assert_eq!(mapped.len(), MOST_MAPPED);
    }

    #[test]
    fn replaced_files_of_the_system_are_found() {
        let mut mapped = Mapped::new();
        let lines = [
            "11                 /usr/lib/libssl.so.3",
            "12                 /usr/lib/libc.so.6",
            "13 /usr/bin/python3.11 (deleted)",
            "14 /usr/lib/a file with spaces.so",
            "15 /var/lib/own.so (deleted)",
            "0",
            "0                          [heap]",
            "16 /memfd:x (deleted)",
            "nonsense",
            "17 /usr/lib/gone.so",
        ];
        add_mapped(&mut mapped, lines.into_iter());
        let now = |path: &Path| match path.to_str()? {
            "/usr/lib/libssl.so.3" => Some(99),
            "/usr/lib/libc.so.6" => Some(12),
            "/usr/bin/python3.11" => Some(20),
            "/usr/lib/a file with spaces.so" => Some(14),
            _ => None,
        };
        let replaced: Vec<PathBuf> = replaced(&mapped, now).into_iter().collect();
        let expected = [
            "/usr/bin/python3.11",
            "/usr/lib/gone.so",
            "/usr/lib/libssl.so.3",
        ];
        assert_eq!(replaced, expected.map(PathBuf::from));
    }

    #[test]
    fn addresses_are_parsed() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.168.122.7\n        /32 host LOCAL\n     |-- 192.168.122.255\n        /32 link BROADCAST\n";
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000007 02 40 00 80     eth0\nfe800000000000005054fffe4512aa11 02 40 20 80     eth0\n";
        let expected: [IpAddr; 2] =
            ["192.168.122.7", "2001:db8::7"].map(|text| text.parse().unwrap());
        assert_eq!(addresses(trie, v6), expected);
    }

    #[test]
    fn addresses_of_no_single_host_are_dropped() {
        let lies = [
            "::ffff:127.0.0.1",
            "::ffff:192.168.122.1",
            "::127.0.0.1",
            "::1",
            "::",
            "ff02::1",
            "fe80::1",
        ];
        let bits = |text: &str| u128::from(text.parse::<Ipv6Addr>().unwrap());
        let table: String = lies
            .iter()
            .map(|lie| format!("{:032x} 02 40 00 80 eth0\n", bits(lie)))
            .collect();
        assert_eq!(addresses("", &table), Vec::<IpAddr>::new());
        let lies = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.2",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
        ];
        let table: String = lies
            .iter()
            .map(|lie| format!("|-- {lie}\n/32 host LOCAL\n"))
            .collect();
        assert_eq!(addresses(&table, ""), Vec::<IpAddr>::new());
    }

    #[test]
    fn traffic_and_uptime_are_parsed() {
        let text = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs\n    lo:     999       1    0    0    0     0          0         0     999       1    0    0    0     0       0          0\n  eth0:    1000       9    0    0    0     0          0         0      70       1    0    0    0     0       0          0\n  eth1:       1       9    0    0    0     0          0         0       2       1    0    0    0     0       0          0\n";
        assert_eq!(parse_net_dev(text), (1001, 72));
        let line = |name: &str| format!("{name}: {0} 1 0 0 0 0 0 0 {0} 1\n", u64::MAX);
        let much = [line("eth0"), line("eth1")].concat();
        assert_eq!(parse_net_dev(&much), (u64::MAX, u64::MAX));
        assert_eq!(parse_uptime("12.50 20.00\n"), Some(12.5));
    }
}
