//! Facts that virtual machines depend on.

use std::fs;
use std::path::Path;

use super::containers::selinux_label;
use super::{Check, Fact, Level, Subject, libvirt};
use crate::config::KernelRequest;
use crate::domain::SecModel;
use crate::domain::qemu::{Authority, Emulation};
use crate::driver::emulation::usable_emulation;
use crate::driver::transport::Transports;
use crate::driver::{Driver, Qemu};
use crate::error::Result;
use crate::guest::kernel::Kernel;
use crate::hypervisor::Hypervisor;
use crate::label;
use crate::label::selinux::Kind;
use crate::service::Sandboxes;

/// Connection of virtual machines.
const URI: &str = "qemu:///system";

pub(super) fn checks(root: &Path, sandboxes: &Sandboxes) -> Vec<Check> {
    let (driver, hypervisor) = libvirt::driver(sandboxes, Driver::Qemu(Qemu::System), URI);
    let mut facts = vec![("libvirt's driver", driver), ("emulation", emulation(root))];
    match Kernel::find(root, &KernelRequest::default()) {
        Ok(kernel) => {
            facts.push(("kernel", Fact::ok(kernel.release.clone())));
            facts.extend(shares(&kernel));
        }
        Err(error) => facts.push(("kernel", Fact::unknown(Level::Missing, &error))),
    }
    if let Some(hypervisor) = hypervisor {
        facts.push(("network", libvirt::network(&*hypervisor)));
        facts.push(("label", own_label(&*hypervisor)));
    }
    let facts = facts.into_iter();
    facts
        .map(|(name, fact)| fact.check(Subject::Machines, name))
        .collect()
}

fn emulation(root: &Path) -> Fact {
    match usable_emulation() {
        Emulation::Kvm => Fact::ok("KVM"),
        Emulation::Tcg if fs::exists(root.join("dev/kvm")).unwrap_or(false) => Fact::limited(
            "QEMU emulates the CPU: /dev/kvm cannot be opened, or this CPU runs no guests itself",
            "machines are some ten times slower; enable nested virtualization if this host is a virtual machine",
        ),
        Emulation::Tcg => Fact::limited(
            "QEMU emulates the CPU: there is no /dev/kvm",
            "machines are some ten times slower; enable virtualization in the firmware, and load the module kvm_intel or kvm_amd",
        ),
    }
}

/// Judges the ways that directories of the host take into a machine with this kernel.
fn shares(kernel: &Kernel) -> Vec<(&'static str, Fact)> {
    let transports = match Transports::of_host(kernel, Authority::Root) {
        Ok(transports) => transports,
        Err(error) => {
            return vec![(
                "the host's directories",
                Fact::unknown(Level::Missing, &error),
            )];
        }
    };
    let system = match transports.of_directory(Path::new("/usr"), true) {
        Ok(transport) => Fact::ok(format!("over {}, read-only", transport.name())),
        Err(error) => Fact::unknown(Level::Missing, &error),
    };
    vec![
        ("the host's directories", system),
        ("trees", trees(transports.no_owners())),
    ]
}

fn trees(no_owners: Result<Option<String>>) -> Fact {
    match no_owners {
        Ok(None) => Fact::ok("directories of the host, over virtiofs"),
        Ok(Some(reason)) => Fact::limited(
            format!("in images only: {reason}"),
            "install virtiofsd, and a kernel with virtiofs",
        ),
        Err(error) => Fact::unknown(Level::Limited, &error),
    }
}

/// Judges the label that a machine would get.
fn own_label(hypervisor: &dyn Hypervisor) -> Fact {
    let capabilities = match hypervisor.capabilities() {
        Ok(capabilities) => capabilities,
        Err(error) => return Fact::unknown(Level::Limited, &error),
    };
    let emulated = usable_emulation() == Emulation::Tcg;
    match label::model(&capabilities) {
        Some(SecModel::SeLinux) => selinux_label(Kind::Machine { emulated }),
        Some(SecModel::AppArmor) => Fact::ok("AppArmor, libvirt's profile for each machine"),
        None => Fact::limited(
            "libvirt uses no security module",
            "enable one in the kernel, and 'security_driver' in /etc/libvirt/qemu.conf",
        ),
    }
}
