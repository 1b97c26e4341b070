//! Files and directories that a sandbox needs on the host before its domain starts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc;

use crate::driver::FileCopy;
use crate::error::{Error, Result};
use crate::guest;
use crate::guest::kernel;
use crate::label::selinux;
use crate::run::Plan;
use crate::run::channel::ChannelKind;
use crate::sys::file::private;

/// Makes the files of `plan`, in the directory `state` of the sandbox. `qemu` is the user and group that QEMU runs as, if they are
/// not ours.
pub(super) fn make(plan: &Plan, qemu: Option<(u32, u32)>, state: &Path) -> Result<()> {
    match &plan.channel {
        ChannelKind::Inherited { stage, .. } => guest::stage_init(stage, &guest::find_init()?)?,
        // libvirt opens them for QEMU: the first program that connects to the channel decides what is run.
        ChannelKind::Sockets(sockets) => {
            let directory = &sockets.directory;
            private::directory(directory, 0o700).map_err(Error::io("creating", directory))?;
        }
    }
    let boot_files = state.join(kernel::BOOT_FILES);
    if let Some(machine) = &plan.boot.machine {
        machine.boot.copy_to(&boot_files, qemu, &[])?;
        for FileCopy { source, directory } in &machine.copies {
            copy_file(source, directory).map_err(Error::io("copying for the sandbox", source))?;
        }
    }
    for path in &plan.temporary {
        fs::create_dir_all(path).map_err(Error::io("creating", path))?;
        let (uid, gid) = (plan.owner.uid, plan.owner.gid);
        let user = nix::unistd::geteuid();
        if user.is_root() || user.as_raw() == uid {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(Error::io("handing over", path))?;
        } else {
            // It cannot be given to another user, but no other user of the host can enter the directory above.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))
                .map_err(Error::io("opening", path))?;
        }
    }
    if let Some(files) = &plan.files {
        selinux::label(state, files)?;
    }
    if plan.boot.machine.is_some() {
        selinux::share_with_machines(&boot_files);
    }
    Ok(())
}

/// Copies a file, with its permissions, into a directory that is made for it.
fn copy_file(source: &Path, directory: &Path) -> io::Result<()> {
    let name = source.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // It may have become a FIFO since it was looked at.
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
