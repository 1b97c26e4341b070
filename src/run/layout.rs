//! Layout of a one-shot sandbox: the host's root, or another one, with the user's mounts.

use std::path::Path;

use guest_init::config::{self as guest, Access, Root};

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::guest::layout::Layout;
use crate::guest::nested;
use crate::run::Request;

/// Returns the layout that `request` asks for, with fresh directories below `state`.
///
/// # Errors
/// Where the root is given twice, or a source is not there.
pub fn layout(request: &Request, driver: Driver, state: &Path) -> Result<Layout> {
    let mut layout = Layout::new(driver.single_files());
    set_root(&mut layout, request)?;
    let mounts = nested::resolve(&request.mounts, None)?;
    let mounts = mounts.iter().filter(|mount| !mount.is_root());
    layout.add_mounts(mounts, &state.join("temporary"))?;
    layout.add_includes(&request.includes, driver.authority())?;
    // Programs of the host have their sockets there.
    layout.mounts.push(guest::Mount::Tmpfs {
        target: "/run".into(),
        mode: 0o755,
        size: None,
    });
    layout.disks.clone_from(&request.disks);
    layout.needs_overlay = request.volatile
        || !request.mounts.is_empty()
        || !request.includes.is_empty()
        || !request.networks.is_empty()
        || request.root.is_some();
    if !driver.has_own_kernel() {
        isolate_root(&mut layout);
    }
    Ok(layout)
}

/// Sets the root: the mount on `/`, or the directory of `--root`, or the host's root.
fn set_root(layout: &mut Layout, request: &Request) -> Result<()> {
    let mut roots = request.mounts.iter().filter(|mount| mount.is_root());
    match (roots.next(), roots.next(), &request.root) {
        (Some(mount), None, None) => layout.mount_root(mount, request.volatile),
        (None, None, Some(source)) => layout.set_root(source, request.volatile),
        (None, None, None) => layout.set_root(Path::new("/"), request.volatile),
        _ => Err(Error::refused(
            "the root is given more than once; use one of --root and a mount on '/'",
        )),
    }
}

/// Keeps a read-only root apart from the host through overlays, for a sandbox that has the host's kernel as well.
fn isolate_root(layout: &mut Layout) {
    if let Root::Tree { access, .. } = &mut layout.root
        && *access == Access::ReadOnly
    {
        *access = Access::Isolated;
    }
}
