//! Hardware addresses of NICs.

use std::fmt;
use std::str::FromStr;

use crate::config::as_text;

/// A unicast hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

/// Error of parsing a hardware address: invalid, or a multicast address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a unicast MAC address such as 52:54:00:12:34:56")]
pub struct ParseMacError(String);

impl Mac {
    /// Returns the address of NIC `index` of the sandbox `uuid`: locally administered, in libvirt's
    /// range, and the same at every start, so that a DHCP lease can be kept.
    #[must_use]
    pub fn of_sandbox(uuid: &uuid::Uuid, index: usize) -> Self {
        let bytes = uuid.as_bytes();
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        Self([
            0x52,
            0x54,
            0x00,
            bytes[0],
            bytes[1],
            bytes[2].wrapping_add(index),
        ])
    }

    /// Returns the six bytes in the order in which they are written.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseMacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut fields = text.split(':');
        for byte in &mut bytes {
            let field = fields
                .next()
                .filter(|field| field.len() == 2 && !field.starts_with('+'))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(field, 16).map_err(|_| wrong())?;
        }
        // The lowest bit of the first byte marks a multicast address (IEEE 802).
        if fields.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

as_text!(Mac);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_one_nic_are_read() {
        let text = "52:54:00:12:34:ab";
        assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        for text in [
            "",
            "1:2:3:4:5:6",
            "+1:00:00:00:00:01",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:gg",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_nic_of_a_sandbox_has_its_own() {
        let uuid = uuid::Uuid::from_u128(7 << 120);
        assert_eq!(Mac::of_sandbox(&uuid, 0).to_string(), "52:54:00:07:00:00");
        assert_eq!(Mac::of_sandbox(&uuid, 1).to_string(), "52:54:00:07:00:01");
    }
}
