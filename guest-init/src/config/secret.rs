//! Secrets that the host hands to a guest. No log shows them.

use std::fmt::{self, Write};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A credential of the payload (systemd's "System and Service Credentials").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Credential {
    /// Name of its file.
    pub id: String,
    /// Content of its file.
    pub content: Secret,
}

/// Bytes that are serialized as hexadecimal digits and hidden in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * self.0.len());
        for byte in &self.0 {
            // A string takes everything.
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2);
        let bytes = digits.map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        bytes
            .map(Self)
            .ok_or_else(|| D::Error::custom("a secret is not in hexadecimal digits"))
    }
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips() {
        let secret = Secret((0..=255).collect());
        let text = serde_json::to_string(&secret).unwrap();
        assert!(text.starts_with("\"000102") && text.ends_with("feff\""));
        assert_eq!(serde_json::from_str::<Secret>(&text).unwrap(), secret);
        for bad in ["\"0\"", "\"0g\"", "\"é\""] {
            assert!(serde_json::from_str::<Secret>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_output_hides_a_secret() {
        let credential = Credential {
            id: "password".to_owned(),
            content: Secret(b"hunter2".to_vec()),
        };
        let shown = format!("{credential:?}");
        assert!(shown.contains("<7 bytes>") && !shown.contains("hunter2"));
    }
}
