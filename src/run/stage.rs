//! Files and directories that a sandbox needs on the host before its domain starts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc;

use crate::error::{Error, Result};
use crate::guest;
use crate::label::selinux;
use crate::run::{Copied, Plan, Reach};
use crate::sys::file::private;

/// Makes what `plan` needs, in the directory `state` where it is the sandbox's own. `qemu` is the user with the group that QEMU runs
/// as, where that is not ours.
pub(super) fn make(plan: &Plan, qemu: Option<(u32, u32)>, state: &Path) -> Result<()> {
    match &plan.reach {
        Reach::HandedDown { stage, .. } => guest::stage_init(stage, &guest::find_init()?)?,
        // libvirt opens them for QEMU: who connects to the channel first says what is run.
        Reach::Sockets { directory, .. } => {
            private::directory(directory, 0o700).map_err(Error::io("creating", directory))?;
        }
    }
    if let Some(boot) = &plan.boot {
        boot.copy(qemu)?;
    }
    for Copied { source, directory } in &plan.copies {
        copy_file(source, directory).map_err(Error::io("copying for the sandbox", source))?;
    }
    for path in &plan.temporary {
        fs::create_dir_all(path).map_err(Error::io("creating", path))?;
        let (uid, gid) = (plan.owner.uid, plan.owner.gid);
        let user = nix::unistd::geteuid();
        if user.is_root() || user.as_raw() == uid {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(Error::io("handing over", path))?;
        } else {
            // It cannot be given to somebody else, but nobody of the host comes here.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))
                .map_err(Error::io("opening", path))?;
        }
    }
    if let Some(files) = &plan.files {
        selinux::label(state, files)?;
    }
    if let Some(boot) = &plan.boot {
        boot.label();
    }
    Ok(())
}

/// Copies a file, with its permissions, into a directory that is made for it.
fn copy_file(source: &Path, directory: &Path) -> io::Result<()> {
    let name = source.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // Somebody may have put a FIFO there since it was looked at.
    let mut from = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(source)?;
    let metadata = from.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    private::directory(directory, 0o700)?;
    let mut to = File::create_new(directory.join(name))?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(metadata.permissions())
}
