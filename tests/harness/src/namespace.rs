//! What the private daemons see of the host: their own mount namespace and configuration.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Directories of libvirt that the private daemon must not share, and what each is in its own.
///
/// `/run/libvirt` holds the sockets too: outside of the namespace they are `DIR/run/…`. The cache in
/// `/var/cache/libvirt` is shared: what QEMU can do takes four seconds to find out, and libvirt itself
/// sees to it that an entry is whole and of the same QEMU.
const PRIVATE: [(&str, &str); 4] = [
    ("etc", "/etc/libvirt"),
    ("run", "/run/libvirt"),
    ("dnsmasq", "/var/lib/libvirt/dnsmasq"),
    ("qemu", "/var/lib/libvirt/qemu"),
];

/// Only root reaches the system's daemon, as on a host without polkit; containers and guests are
/// confined by no security driver, since a host need not have one. QEMU is no root, as anywhere.
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

/// Where libvirt's filters of NICs are, as packages install them and as its daemon keeps them.
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

/// Gives this process, and so the daemons, a view of their own.
pub(crate) fn enter(dir: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unsharing the mount namespace")?;
    // A slave still sees what the host mounts later, and never mounts anything there.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .context("making mounts slaves")?;

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
        let source = dir.join(name);
        for path in [source.as_path(), Path::new(target)] {
            fs::create_dir_all(path).with_context(|| format!("creating '{}'", path.display()))?;
        }
        mount(
            Some(&source),
            target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("binding '{target}'"))?;
    }
    // libvirt_lxc writes there and libvirtd does not create it.
    fs::create_dir_all("/var/log/libvirt/lxc").context("creating '/var/log/libvirt/lxc'")?;
    let etc = dir.join("etc");
    for (file, text) in CONFIGURATION {
        fs::write(etc.join(file), text).with_context(|| format!("writing '{file}'"))?;
    }
    Ok(())
}
