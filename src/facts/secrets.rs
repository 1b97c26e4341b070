//! Classification of files in the host's `/etc` that are secrets and must not enter a sandbox.
//!
//! Pure: the input is a path, a mode and the beginning of the content. Callers know the exceptions: files
//! of the service's own packages or user, or named by its configuration. A
//! Java or PKCS#12 keystore does not show without its password whether it contains a private key, so
//! only its mode counts.

use std::fmt;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag};

/// Number of bytes that [`classify`] needs from the beginning of a file: a private key may follow
/// a long chain of certificates.
pub const HEAD: usize = 64 << 10;

/// Reason why a file is a secret. Its text is a phrase that follows a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretReason {
    /// The name is that of a host key of sshd(8).
    SshHostKey,
    /// The content has the header of a private key.
    PrivateKey,
    /// Ordinary users of the host cannot read it: a file without o+r, a directory without o+x.
    NotWorldReadable,
}

impl fmt::Display for SecretReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SshHostKey => "is an SSH host key",
            Self::PrivateKey => "holds a private key",
            Self::NotWorldReadable => "not world-readable",
        })
    }
}

/// Returns the reason why the object at `path` is a secret, the most specific one first.
///
/// `mode` is `st_mode`, with the type of the object; `head` is the beginning of a regular file (see
/// [`HEAD`]) and empty for other types. Everything below a secret directory is out of reach for
/// ordinary users too, so callers do not descend.
pub fn classify(path: &Path, mode: u32, head: &[u8]) -> Option<SecretReason> {
    let permissions = Mode::from_bits_truncate(mode);
    match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG if is_ssh_host_key(path) => Some(SecretReason::SshHostKey),
        SFlag::S_IFREG if has_private_key(head) => Some(SecretReason::PrivateKey),
        SFlag::S_IFREG if !permissions.contains(Mode::S_IROTH) => {
            Some(SecretReason::NotWorldReadable)
        }
        SFlag::S_IFDIR if !permissions.contains(Mode::S_IXOTH) => {
            Some(SecretReason::NotWorldReadable)
        }
        // A symbolic link has no permissions; a FIFO or socket has no content.
        _ => None,
    }
}

fn is_ssh_host_key(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("ssh_host_") && name.ends_with("_key"))
}

/// Returns true if there is the header of a private key: PEM (RFC 7468, and those of OpenSSH and PGP),
/// SSH2 (by the authors of RFC 4716), or PuTTY.
fn has_private_key(head: &[u8]) -> bool {
    const PUTTY: &[u8] = b"PuTTY-User-Key-File-";
    const MARKS: [(&[u8], &[u8]); 2] = [(b"-----BEGIN ", b"-----"), (b"---- BEGIN ", b" ----")];
    head.starts_with(PUTTY)
        || MARKS
            .iter()
            .any(|(begin, end)| occurrences(head, begin).any(|rest| is_header(rest, end)))
}

/// Iterates over the texts that follow each occurrence of `needle`.
fn occurrences<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let ends = text.windows(needle.len()).enumerate();
    ends.filter(move |(_, window)| *window == needle)
        .map(move |(at, _)| &text[at + needle.len()..])
}

/// Returns true if `rest` continues with `LABEL PRIVATE KEY`, the mark and a line end. The line end tells a key
/// from text about keys, such as a rule of file(1); in JSON it is written `\n`.
fn is_header(rest: &[u8], mark: &[u8]) -> bool {
    // RFC 7468 does not limit labels; real ones are far shorter than this.
    let window = &rest[..rest.len().min(80)];
    let Some(at) = window.windows(mark.len()).position(|w| w == mark) else {
        return false;
    };
    let (label, after) = (&rest[..at], &rest[at + mark.len()..]);
    let is_private = label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK");
    let after = String::from_utf8_lossy(&after[..after.len().min(8)]);
    let after = after.trim_start_matches([' ', '\r']);
    let ends = after.is_empty()
        || after.starts_with('\n')
        || after.starts_with("\\n")
        || after.starts_with("\\r");
    is_private && ends
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u32 = 0o100_000;
    const DIRECTORY: u32 = 0o040_000;
    const SYMLINK: u32 = 0o120_000;

    #[test]
    fn private_modes_are_secrets() {
        let not = Some(SecretReason::NotWorldReadable);
        let cases = [
            (FILE | 0o644, None),
            (FILE | 0o640, not),
            (FILE | 0o4000, not),
            (FILE | 0o004, None),
            (DIRECTORY | 0o755, None),
            (DIRECTORY | 0o711, None),
            (DIRECTORY | 0o754, not),
            (DIRECTORY | 0o700, not),
            (SYMLINK | 0o777, None),
            (SYMLINK, None),
            (0o010_600, None),
            (0o140_600, None),
        ];
        for (mode, expected) in cases {
            assert_eq!(
                classify(Path::new("/etc/a"), mode, b""),
                expected,
                "{mode:o}"
            );
        }
    }

    #[test]
    fn private_keys_are_secrets() {
        let cases = [
            ("-----BEGIN PRIVATE KEY-----\nMII", true),
            ("-----BEGIN RSA PRIVATE KEY-----\r\nMII", true),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII", true),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", true),
            ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQ", true),
            ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2", true),
            ("PuTTY-User-Key-File-3: ssh-ed25519\n", true),
            (
                "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n  -----BEGIN EC PRIVATE KEY-----  \nMHc",
                true,
            ),
            (
                r#"{"private_key": "-----BEGIN PRIVATE KEY-----\nMII"}"#,
                true,
            ),
            ("-----BEGIN PRIVATE KEY-----", true),
            ("-----BEGIN CERTIFICATE-----\nMII", false),
            ("-----BEGIN PUBLIC KEY-----\nMII", false),
            ("---- BEGIN SSH2 PUBLIC KEY ----\nAAA", false),
            (
                "0 string -----BEGIN RSA PRIVATE KEY-----\tPEM RSA private key\n",
                false,
            ),
            ("if line == '-----BEGIN PRIVATE KEY-----':\n", false),
            ("see PuTTY-User-Key-File-2", false),
            ("-----BEGIN ", false),
            ("", false),
        ];
        for (content, secret) in cases {
            let found = classify(Path::new("/etc/a"), FILE | 0o644, content.as_bytes());
            assert_eq!(
                found,
                secret.then_some(SecretReason::PrivateKey),
                "{content}"
            );
        }
    }

    #[test]
    fn ssh_host_keys_are_secrets() {
        let cases = [
            ("/etc/ssh/ssh_host_rsa_key", true),
            ("/etc/ssh/ssh_host_ed25519_key", true),
            ("/etc/ssh/ssh_host_rsa_key.pub", false),
            ("/etc/ssh/ssh_host_rsa_key-cert.pub", false),
            ("/etc/ssh/ssh_config", false),
        ];
        for (path, secret) in cases {
            let found = classify(Path::new(path), FILE | 0o644, b"");
            assert_eq!(found, secret.then_some(SecretReason::SshHostKey), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_header_is_found_wherever_it_stands(before in ".{0,200}", after in ".{0,50}") {
            let text = format!("{before}\n-----BEGIN PRIVATE KEY-----\n{after}");
            let found = classify(Path::new("a"), FILE | 0o644, text.as_bytes());
            proptest::prop_assert_eq!(found, Some(SecretReason::PrivateKey));
        }
    }
}
