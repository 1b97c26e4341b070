//! Mount namespaces of a test run: one with private state directories of sandboxes, and below it the daemons', with their
//! own configuration.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Directories of libvirt that the private daemon must not share, and the directory below its own that replaces each.
///
/// `/run/libvirt` holds the sockets, too: outside the namespace they are `DIR/run/…`. The cache in
/// `/var/cache/libvirt` is shared: probing QEMU's capabilities takes four seconds, and libvirt
/// checks that an entry is complete and of the same QEMU.
const PRIVATE: [(&str, &str); 4] = [
    ("etc", "/etc/libvirt"),
    ("run", "/run/libvirt"),
    ("dnsmasq", "/var/lib/libvirt/dnsmasq"),
    ("qemu", "/var/lib/libvirt/qemu"),
];

/// Configuration of the daemon: only root may connect, as on a host without polkit; no security driver
/// confines domains, since a host need not have one; QEMU does not run as root.
const CONFIGURATION: [(&str, &str); 2] = [
    (
        "libvirtd.conf",
        "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\n",
    ),
    (
        "qemu.conf",
        "stdio_handler = \"file\"\nsecurity_driver = \"none\"\n\
         user = \"libvirt-qemu\"\ngroup = \"libvirt-qemu\"\n",
    ),
];

/// Directories of libvirt's network filters: the packages' and the daemon's.
const FILTERS: [&str; 2] = ["/usr/share/libvirt/nwfilter", "/etc/libvirt/nwfilter"];

fn copy_filters(to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating '{}'", to.display()))?;
    let filters = FILTERS.iter().filter_map(|dir| fs::read_dir(dir).ok());
    for filter in filters.flatten().flatten() {
        let copy = to.join(filter.file_name());
        fs::copy(filter.path(), &copy).with_context(|| format!("making '{}'", copy.display()))?;
    }
    Ok(())
}

/// State directories of sandboxes, except `/etc/systemd/system` and `/etc/logrotate.d`, which packages write to.
const STATE: [&str; 4] = [
    "/etc/libvirt-sandbox",
    "/var/lib/libvirt/filesystems",
    "/var/lib/libvirt-sandbox",
    "/var/lib/virt-sandbox",
];

/// Directory that packages make, and that stays without a sandbox.
const SERVICES: &str = "/etc/libvirt-sandbox/services";

/// Runtime directory of running sandboxes.
const RUNTIME: &str = "/run/libvirt-sandbox";

/// Gives this process and its children empty state directories, kept in `dir`: several test runs can go on at the same
/// time, and none sees the host's own sandboxes.
///
/// # Errors
/// The caller is not root, or there is no space.
pub fn enter_private_state(dir: &Path) -> Result<()> {
    unshare_mounts()?;
    // One-shot sandboxes see the host's files, and must not see these at a second path.
    let state = dir.join("state");
    DirBuilder::new()
        .mode(0o700)
        .create(&state)
        .with_context(|| format!("creating '{}'", state.display()))?;
    for target in STATE {
        bind(&state.join(target.replace('/', "-")), target)?;
    }
    for directory in [SERVICES, RUNTIME] {
        fs::create_dir_all(directory).with_context(|| format!("creating '{directory}'"))?;
    }
    mount(
        Some("virt-sandbox-test"),
        RUNTIME,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )
    .with_context(|| format!("mounting a tmpfs at '{RUNTIME}'"))
}

fn unshare_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unsharing the mount namespace")?;
    // A slave receives later mounts of the host and propagates none to it.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .context("making mounts slaves")
}

/// Binds the new directory `source` at `target`, with the target's mode.
fn bind(source: &Path, target: &str) -> Result<()> {
    for path in [source, Path::new(target)] {
        fs::create_dir_all(path).with_context(|| format!("creating '{}'", path.display()))?;
    }
    fs::metadata(target)
        .and_then(|metadata| fs::set_permissions(source, metadata.permissions()))
        .with_context(|| format!("copying the mode of '{target}'"))?;
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("binding '{target}'"))
}

/// Moves this process, and so the daemons, into a mount namespace of their own.
pub(crate) fn enter(dir: &Path) -> Result<()> {
    unshare_mounts()?;

    // libvirt's LXC driver takes a hybrid layout for a unified one and fails to create its cgroup;
    // without the two hierarchies that have no controllers it is plain v1. A host with pure
    // cgroup v2 has no tmpfs here and stays as it is.
    if statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC) {
        for hierarchy in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
            match umount(hierarchy) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(error) => return Err(error).context(format!("unmounting '{hierarchy}'")),
            }
        }
    }

    copy_filters(&dir.join("etc/nwfilter"))?;
    for (name, target) in PRIVATE {
        bind(&dir.join(name), target)?;
    }
    // libvirt_lxc writes there, but libvirtd does not create it.
    fs::create_dir_all("/var/log/libvirt/lxc").context("creating '/var/log/libvirt/lxc'")?;
    let etc = dir.join("etc");
    for (file, text) in CONFIGURATION {
        fs::write(etc.join(file), text).with_context(|| format!("writing '{file}'"))?;
    }
    Ok(())
}
