//! Change from the staging root to the new root.

use std::fs;
use std::io::Seek;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::place::Place;
use crate::NEW_ROOT;
use crate::config::Platform;

/// Makes the new root the root of this process, so that links in it lead where they should. The staging root stays mounted
/// above it, and [`Place`] keeps it open.
pub fn enter(place: &mut Place) -> Result<()> {
    chroot(&place.root).context("entering the new root")?;
    chdir("/").context("entering the new root")?;
    place.root = "/".into();
    Ok(())
}

/// Makes the new root the root of this mount namespace and releases the staging root.
pub fn pivot(place: &mut Place, platform: Platform) -> Result<()> {
    // 1. Return from the chroot of `enter`: what follows changes the root of the mount namespace, by paths of the staging root.
    //    chroot(2) takes "." here, so the current directory is changed first.
    if let Some(stage) = &place.stage {
        fchdir(stage).context("returning to the staging root")?;
        chroot(".").context("returning to the staging root")?;
    }
    // 2. Enter the mount that is to be the root: "." names it in what follows.
    chdir(NEW_ROOT).context("entering the new root")?;
    match platform {
        Platform::Container => {
            // 3. Exchange the roots. With both arguments the same, the old root ends up stacked over the new one (pivot_root(2)).
            pivot_root(".", ".").context("changing to the new root")?;
            // 4. umount2(2) resolves "." to the topmost mount, which is the old root. MNT_DETACH, since it is busy.
            umount2(".", MntFlags::MNT_DETACH).context("letting go of the staging root")?;
        }
        Platform::Machine => {
            // 3. The root of an initramfs can neither be pivoted nor unmounted, only covered (pivot_root(2)).
            let none = None::<&str>;
            mount(Some("."), "/", none, MsFlags::MS_MOVE, none)
                .context("changing to the new root")?;
            // 4. The mount covers "/" only for paths that are resolved anew: become it.
            chroot(".").context("changing to the new root")?;
        }
    }
    // 5. The current directory may still be outside of the new root.
    chdir("/").context("entering the new root")?;
    place.root = "/".into();
    place.stage = None;
    place.scratch = None;
    Ok(())
}

/// Uncovers the kernel's own `/proc/meminfo` if that of libvirt cannot be used.
///
/// libvirt mounts a file over it that shows the limits of the domain. With newer kernels and libfuse that file cannot be rewound,
/// and procps (`ps`, `free`, `top`) fails.
pub fn drop_unseekable_meminfo() {
    let path = Path::new("/proc/meminfo");
    let is_seekable = fs::File::open(path).is_ok_and(|mut file| file.rewind().is_ok());
    if !is_seekable && let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
        log::warn!("uncovering '{}': {error}", path.display());
    }
}
