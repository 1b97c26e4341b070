//! Refusals of what QEMU and libvirt's driver for it cannot do.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Machine, ShareDevice, Transport, mac};
use crate::config::Resources;
use crate::config::network::Source;
use crate::domain::{BlockDevice, Domain};
use crate::error::{Error, Result};

/// User that libvirt's driver runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// root: `qemu:///system`, and `qemu:///embed` of root.
    Root,
    /// Any other user: `qemu:///session`, and `qemu:///embed` of a user.
    User,
}

/// Longest tag of a share, in bytes: `MAX_TAG_LEN` of QEMU, and the field of `struct virtio_fs_config`.
const LONGEST_PLAN9_TAG: usize = 31;
const LONGEST_VIRTIOFS_TAG: usize = 36;

/// Longest serial of a virtio disk, in bytes (`VIRTIO_BLK_ID_BYTES`).
const LONGEST_SERIAL: usize = 20;

/// Longest path of a Unix socket, in bytes (`unix(7)`).
const LONGEST_SOCKET: usize = 107;

/// Refuses a machine that libvirt's driver, running as `authority`, cannot run.
///
/// # Errors
/// Name the option, why it cannot be and what to do instead.
pub fn check(domain: &Domain, machine: &Machine, authority: Authority) -> Result<()> {
    check_domain(domain, authority)?;
    machine.shares.iter().try_for_each(check_share)?;
    let sockets = machine.channels.iter().map(|channel| &channel.socket);
    for socket in sockets
        .chain(machine.console.socket())
        .chain(&machine.serial)
    {
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(Error::refused(format!(
                "the path of the socket '{}' is longer than {LONGEST_SOCKET} bytes; choose a shorter name for the sandbox",
                socket.display()
            )));
        }
    }
    Ok(())
}

/// Refuses a domain that no machine can run, as [`check`] does.
///
/// # Errors
/// Name the option, why it cannot be and what to do instead.
pub fn check_domain(domain: &Domain, authority: Authority) -> Result<()> {
    match authority {
        Authority::Root => {}
        Authority::User => check_without_root(domain)?,
    }
    check_networks(domain)?;
    domain.disks.iter().try_for_each(check_disk)
}

fn check_without_root(domain: &Domain) -> Result<()> {
    if let Some(option) = root_only(&domain.resources) {
        return Err(Error::refused(format!(
            "{option} needs a cgroup, which the virtual machine of a user has not; use qemu:///system, or leave it out"
        )));
    }
    for network in &domain.networks {
        match network.source {
            Some(Source::Network(_) | Source::Direct { .. }) => {
                return Err(Error::refused(format!(
                    "the NIC '{network}': the virtual machine of a user cannot be plugged into it; use 'user' or bridge=, \
                     or qemu:///system"
                )));
            }
            None | Some(Source::User | Source::Bridge(_)) => {}
        }
    }
    Ok(())
}

/// Returns the option of a limit that libvirt sets through a cgroup, if there is one.
fn root_only(resources: &Resources) -> Option<&'static str> {
    [
        ("--cpu-shares", resources.cpu_shares.is_some()),
        ("--cpu-quota", resources.cpu_quota.is_some()),
        ("--io-weight", resources.io_weight.is_some()),
        ("--io-read", !resources.io_read.is_empty()),
        ("--io-write", !resources.io_write.is_empty()),
        ("--io-read-ops", !resources.io_read_ops.is_empty()),
        ("--io-write-ops", !resources.io_write_ops.is_empty()),
        ("--net-receive", resources.net_receive.is_some()),
        ("--net-send", resources.net_send.is_some()),
    ]
    .into_iter()
    .find_map(|(option, is_set)| is_set.then_some(option))
}

fn check_networks(domain: &Domain) -> Result<()> {
    let is_user = |source: &Option<Source>| matches!(source, None | Some(Source::User));
    let resources = &domain.resources;
    let is_shaped = resources.net_receive.is_some() || resources.net_send.is_some();
    for network in &domain.networks {
        if !is_user(&network.source) {
            continue;
        }
        if network.filter.is_some() {
            return Err(Error::refused(format!(
                "the NIC '{network}': a user-mode network has no filters; use source=NETWORK or bridge="
            )));
        }
        if is_shaped {
            return Err(Error::refused(format!(
                "the NIC '{network}': --net-receive and --net-send do not limit a user-mode network; use source=NETWORK or bridge="
            )));
        }
    }
    let mut seen = HashSet::new();
    for index in 0..domain.networks.len() {
        let mac = mac(domain, index);
        if !seen.insert(mac) {
            return Err(Error::refused(format!(
                "two NICs have the address {mac}, by which the guest tells them apart; give one another mac="
            )));
        }
    }
    let Some(publish) = domain.publish.first() else {
        return Ok(());
    };
    if !domain.networks.iter().any(|nic| is_user(&nic.source)) {
        return Err(Error::refused(format!(
            "publishing '{publish}' needs a NIC in user mode; add -N dhcp,user"
        )));
    }
    for publish in &domain.publish {
        if matches!(publish.address, Some(IpAddr::V6(_))) {
            return Err(Error::refused(format!(
                "publishing '{publish}': QEMU's user-mode network answers on IPv4 addresses of the host only"
            )));
        }
    }
    Ok(())
}

fn check_disk(disk: &BlockDevice) -> Result<()> {
    let serial = &disk.serial;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if serial.is_empty() || serial.len() > LONGEST_SERIAL || !serial.chars().all(is_plain) {
        return Err(Error::refused(format!(
            "the disk '{}' cannot have the serial '{serial}': it has 1 to {LONGEST_SERIAL} letters, digits, '_', '.' and '-'",
            disk.source.display()
        )));
    }
    Ok(())
}

fn check_share(share: &ShareDevice) -> Result<()> {
    let longest = match share.transport {
        Transport::Plan9 { .. } => LONGEST_PLAN9_TAG,
        Transport::Virtiofs { .. } => LONGEST_VIRTIOFS_TAG,
    };
    if share.tag.is_empty() || share.tag.len() > longest {
        return Err(Error::refused(format!(
            "sharing '{}': its tag '{}' does not have 1 to {longest} bytes",
            share.source.display(),
            share.tag
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
