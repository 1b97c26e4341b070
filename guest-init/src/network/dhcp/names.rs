//! Domain names in DHCP options. Pure; accepts only names that may be written to a file.

/// Upper bound of the labels and jumps of a name (RFC 1035, 2.3.4), which ends loops.
const MAX_NAME: usize = 255;

/// Returns a name that is safe to write to resolv.conf, without characters that could add lines.
pub fn domain_name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    // Some servers send a terminating zero, against RFC 2132, 2.
    let name = text.trim_end_matches('\0').trim_end_matches('.');
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (name.len() < MAX_NAME && name.split('.').all(valid)).then(|| name.to_owned())
}

/// Parses option 119: names compressed as in DNS (RFC 3397, RFC 1035 4.1.4). Leaves out invalid names, and all names after a truncated one.
pub fn search_list(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some((name, next)) = compressed_name(bytes, at) else {
            break;
        };
        names.extend(domain_name(&name));
        at = next;
    }
    names
}

/// Parses the name at a position. Returns it with the position of the next one.
fn compressed_name(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let mut next = None;
    for _ in 0..MAX_NAME {
        let length = *bytes.get(at)?;
        at += 1;
        match length {
            0 => return Some((name, next.unwrap_or(at))),
            1..64 => {
                let label = bytes.get(at..at + usize::from(length))?;
                if !name.is_empty() {
                    name.push(b'.');
                }
                name.extend(label);
                at += usize::from(length);
            }
            192.. => {
                let low = *bytes.get(at)?;
                next.get_or_insert(at + 1);
                at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
            }
            64..192 => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn search_lists_are_uncompressed() {
        // The example of RFC 3397.
        let bytes = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(search_list(bytes), ["eng.apple.com", "marketing.apple.com"]);
        for (bytes, what) in [
            (&b"\xc0\x00"[..], "a loop"),
            (b"\x05ab", "cut off"),
            (b"\xc0", "half a pointer"),
            (b"\xc0\x40", "a pointer out of bounds"),
            (b"\x04a\nb \x00", "a line break"),
            (b"\x00", "no name"),
        ] {
            assert_eq!(search_list(bytes), [""; 0], "{what}");
        }
    }

    #[test]
    fn only_names_become_domains() {
        for (bytes, name) in [
            (&b"example.net"[..], Some("example.net")),
            (b"example.net\0", Some("example.net")),
            (b"example.net.", Some("example.net")),
            (b"x\nnameserver 192.0.2.66", None),
            (b"a..b", None),
            (b"", None),
            (b"\xff", None),
        ] {
            assert_eq!(domain_name(bytes).as_deref(), name, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_search_lists_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for name in search_list(&bytes) {
                prop_assert!(!name.contains(char::is_whitespace));
            }
        }
    }
}
