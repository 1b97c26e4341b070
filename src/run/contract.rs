//! What the guest is told: the same for both drivers but for how things get there.

use std::path::{Path, PathBuf};

use guest_init::config::{
    Command, Confinement, Directory, Disk, GuestConfig, IdMap, Mount, Payload, Platform, Staged,
    Stdio,
};

use crate::config::{Hostname, SandboxName};
use crate::guest;
use crate::run::layout::Layout;
use crate::run::{Account, Request};

/// What a driver adds to what is asked for.
#[derive(Debug)]
pub struct Platforms {
    /// What the guest runs in.
    pub platform: Platform,
    /// What `container` is in the environment of the command (systemd's CONTAINER_INTERFACE).
    pub container: &'static str,
    /// What the guest mounts in its staging root.
    pub staged: Vec<Staged>,
    /// Block devices with their tags.
    pub disks: Vec<Disk>,
    /// The ids of the host that stand for those of the sandbox.
    pub idmap: Option<IdMap>,
    /// What the command gives up.
    pub confinement: Confinement,
    /// The device of a shell.
    pub shell: Option<PathBuf>,
    /// Highest number of processes, if the guest limits them.
    pub max_pids: Option<u64>,
    /// Size in bytes of each tmpfs that has none of its own; the guest's kernel chooses if absent.
    pub tmpfs_size: Option<u64>,
}

/// The config of a guest.
pub fn config(
    request: &Request,
    name: &SandboxName,
    account: &Account,
    stdio: Stdio,
    layout: Layout,
    driver: Platforms,
) -> GuestConfig {
    let terminal = matches!(stdio, Stdio::Terminal(_));
    let directory = match &request.directory {
        Some(directory) => Directory::Must(directory.clone()),
        None => Directory::Try(std::env::current_dir().unwrap_or_else(|_| account.home.clone())),
    };
    let hostname = match &request.hostname {
        Some(hostname) => hostname.to_string(),
        None => Hostname::of(name).to_string(),
    };
    let payload = Payload::Command(Command {
        argv: request.command.clone(),
        environment: account.environment(terminal, driver.container, &request.environment),
        directory,
        identity: account.identity.clone(),
        stdio,
    });
    GuestConfig {
        debug: request.debug,
        idmap: driver.idmap,
        confinement: driver.confinement,
        staged: driver.staged,
        root: layout.root,
        // What runs on the host has its sockets there.
        mounts: vec![Mount::Tmpfs {
            target: Path::new("/run").to_owned(),
            mode: 0o755,
            size: None,
        }],
        user_mounts: layout.user_mounts,
        includes: layout.includes,
        disks: driver.disks,
        max_pids: driver.max_pids,
        tmpfs_size: driver.tmpfs_size,
        network: guest::nics(&request.networks),
        shell: driver.shell,
        ..GuestConfig::new(name.as_str(), &hostname, driver.platform, payload)
    }
}
