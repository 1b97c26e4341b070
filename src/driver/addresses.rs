//! The addresses of a sandbox, in its kernel's tables.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses in `/proc/net/fib_trie` and `/proc/net/if_inet6`, without the loopback's and link-local ones; IPv4 first.
#[must_use]
pub fn of_tables(fib_trie: &str, if_inet6: &str) -> Vec<String> {
    let v4 = parse_fib_trie(fib_trie).into_iter().map(IpAddr::from);
    let v6 = parse_if_inet6(if_inet6).into_iter().map(IpAddr::from);
    v4.chain(v6).map(|address| address.to_string()).collect()
}

/// Local addresses of `fib_trie`: a line `|-- ADDRESS` followed by `/32 host LOCAL`.
fn parse_fib_trie(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut last = None;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.filter(|address| !address.is_loopback() && !address.is_link_local()));
        }
    }
    found
}

/// Global addresses of `if_inet6`: 32 hex digits, then index, prefix length and scope, which is 00 for global.
fn parse_if_inet6(text: &str) -> Vec<Ipv6Addr> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let bits = u128::from_str_radix(fields.first()?, 16).ok()?;
            (*fields.get(3)? == "00").then(|| Ipv6Addr::from(bits))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.168.122.7\n        /32 host LOCAL\n     |-- 192.168.122.255\n        /32 link BROADCAST\n";
        assert_eq!(
            parse_fib_trie(trie).into_iter().collect::<Vec<_>>(),
            [Ipv4Addr::new(192, 168, 122, 7)]
        );
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000007 02 40 00 80     eth0\nfe800000000000005054fffe4512aa11 02 40 20 80     eth0\n";
        assert_eq!(
            parse_if_inet6(v6),
            ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]
        );
    }
}
