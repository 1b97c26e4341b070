//! The end of a container whose command has ended.

use std::io;
use std::path::Path;
use std::time::Duration;

use guest_init::channel::link::Link;
use nix::sys::signal::Signal;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::hypervisor::Hypervisor;
use crate::sys::process::first_process::{self, Stage};
use crate::sys::process::pidfd::Process;

/// Time that a container without a command may take to end.
const END: Duration = Duration::from_secs(1);

/// Ends a container whose command has ended, so that libvirt finds nothing of it left to end.
///
/// When libvirt_lxc, the container's controller, goes while a process is in the container's cgroup, be it that process itself, libvirtd
/// waits 200 ms for it and answers nobody meanwhile (`virCgroupKillPainfully()`). So that process is taken out of
/// the group, and the container's first one, which ends with the channel, is waited for.
///
/// Returns `false` if something of it may still be there.
///
/// # Errors
/// Where a process or its cgroup cannot be changed. The domain then ends with the connection, in libvirt's own time.
pub fn end_container(
    hypervisor: &dyn Hypervisor,
    name: &SandboxName,
    stage: &Path,
    link: Link,
) -> Result<bool> {
    let failed = || Error::step::<io::Error>("ending the container");
    let Some(controller) = hypervisor.state(name.as_str())?.id() else {
        return Ok(false);
    };
    let libvirt_lxc = Process::open(controller).map_err(failed())?;
    let Stage::Runs(first) = first_process::find(controller, stage)? else {
        return Ok(false);
    };
    let groups = cgroup::of_sandbox(controller, name);
    let init = Process::open(first.init.pid()).map_err(failed())?;
    // Its number may be another's by now.
    if first.init.identity().is_err() {
        return Ok(false);
    }
    cgroup::join_own_groups(controller).map_err(failed())?;
    drop(link);
    if !init.wait(END) {
        return Ok(false);
    }
    // It would go by itself, but takes a while to notice.
    libvirt_lxc.signal(Signal::SIGKILL).map_err(failed())?;
    let has_gone = libvirt_lxc.wait(END);
    Ok(cgroup::remove_all(&groups) && has_gone)
}
