//! Files that libvirt's driver for containers leaves when a domain is gone. Each sandbox without a name has a new one, so they would
//! pile up.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::SandboxName;

/// Directory of the sockets and states of libvirt's daemons, unless the URI names a socket elsewhere.
const RUNTIME: &str = "/run/libvirt";

/// Directory of the logs of containers.
const LOGS: &str = "/var/log/libvirt/lxc";

/// Mount points of libvirt_lxc for one container (`src/lxc/lxc_controller.c`).
const MOUNT_POINTS: [&str; 3] = ["dev", "devpts", "fuse"];

/// Removes the files of the domain `name`, which no longer exists, of the connection `uri`. Its log stays with `keep_log`.
pub fn remove(uri: &str, name: &SandboxName, keep_log: bool) {
    let directory = runtime(uri).join("lxc");
    for kind in MOUNT_POINTS {
        // Fails if it is not empty, and then it is not ours to remove.
        let _ = fs::remove_dir(directory.join(format!("{name}.{kind}")));
    }
    let _ = fs::remove_file(directory.join(format!("{name}.sock")));
    if !keep_log {
        let _ = fs::remove_file(Path::new(LOGS).join(format!("{name}.log")));
    }
}

/// Returns the directory of the daemon's states, which has its socket, too.
fn runtime(uri: &str) -> PathBuf {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    let socket = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("socket="));
    let directory = socket.and_then(|socket| Path::new(socket).parent());
    directory.unwrap_or(Path::new(RUNTIME)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_directories_of_the_domain_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let lxc = root.path().join("lxc");
        for directory in ["a.dev/x", "a.devpts", "a.fuse", "b.dev"] {
            fs::create_dir_all(lxc.join(directory)).unwrap();
        }
        fs::write(lxc.join("a.sock"), "").unwrap();
        let uri = format!(
            "lxc:///system?socket={}/libvirt-sock",
            root.path().display()
        );
        remove(&uri, &"a".parse().unwrap(), true);
        let mut left: Vec<_> = fs::read_dir(&lxc)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a.dev", "b.dev"]);
        assert_eq!(runtime("lxc:///"), Path::new("/run/libvirt"));
    }
}
