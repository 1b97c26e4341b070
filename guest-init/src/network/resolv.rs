//! `/etc/resolv.conf` (resolv.conf(5)).

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Path in the sandbox.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Name servers that the C library uses (`MAXNS`); it ignores more.
const MAX_SERVERS: usize = 3;

/// Failure to write resolv.conf.
#[derive(Debug, thiserror::Error)]
#[error("writing '{}': {reason}", path.display())]
pub struct WriteError {
    /// Path of the file.
    pub path: PathBuf,
    /// Cause of the failure.
    pub reason: io::Error,
}

/// Renders resolv.conf. Without a search list, short names are looked up in the domain.
#[must_use]
pub fn render(dns: &[IpAddr], domain: Option<&str>, search: &[String]) -> String {
    let mut content = String::new();
    let mut servers: Vec<&IpAddr> = Vec::new();
    for server in dns {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    for server in servers.iter().take(MAX_SERVERS) {
        // Writing to a string does not fail.
        let _ = writeln!(content, "nameserver {server}");
    }
    let mut domains: Vec<&str> = Vec::new();
    for name in search.iter().map(String::as_str) {
        if !domains.contains(&name) {
            domains.push(name);
        }
    }
    if domains.is_empty() {
        domains.extend(domain);
    }
    if !domains.is_empty() {
        let _ = writeln!(content, "search {}", domains.join(" "));
    }
    content
}

/// Writes resolv.conf in place, since no file can be renamed over a bind mount. Unchanged content is not written.
pub fn write(path: &Path, content: &str) -> Result<(), WriteError> {
    if fs::read(path).is_ok_and(|present| present == content.as_bytes()) {
        return Ok(());
    }
    // Truncated after the write: a concurrent reader must not find an empty file, which means a server on localhost.
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.set_len(content.len() as u64)
        });
    written.map_err(|reason| WriteError {
        path: path.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn servers_and_domains_become_lines() {
        let dns: Vec<IpAddr> = [
            "192.0.2.1",
            "192.0.2.1",
            "2001:db8::1",
            "192.0.2.2",
            "192.0.2.3",
        ]
        .iter()
        .map(|ip| ip.parse().unwrap())
        .collect();
        let search = ["a.example", "b.example", "a.example"].map(str::to_owned);
        assert_eq!(
            render(&dns, Some("example"), &search),
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.2\n\
             search a.example b.example\n"
        );
        assert_eq!(render(&[], Some("example"), &[]), "search example\n");
        assert_eq!(render(&[], None, &[]), "");
    }

    #[test]
    fn the_file_is_written_in_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc/resolv.conf");
        let error = write(&path, "x").unwrap_err().to_string();
        assert!(
            error.ends_with("etc/resolv.conf': No such file or directory (os error 2)"),
            "{error}"
        );
        fs::create_dir(root.path().join("etc")).unwrap();
        write(&path, "nameserver 192.0.2.1\nsearch example\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        write(&path, "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.2\n");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }
}
