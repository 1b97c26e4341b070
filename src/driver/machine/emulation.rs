//! Emulation of a machine's CPU: KVM, or QEMU in software.

use std::fs;

use crate::domain::qemu::Emulation;
use crate::error::Result;

/// Returns the emulation that `$VIRT_SANDBOX_VIRT_TYPE` names, if it is set.
///
/// # Errors
/// Where it names another one than kvm or qemu.
pub fn emulation_of_environment() -> Result<Option<Emulation>> {
    let text = std::env::var("VIRT_SANDBOX_VIRT_TYPE").ok();
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse()).transpose()
}

/// Returns the emulation of a machine of a service.
///
/// # Errors
/// Where `$VIRT_SANDBOX_VIRT_TYPE` names another one than kvm or qemu.
pub fn of_services() -> Result<Emulation> {
    Ok(emulation_of_environment()?.unwrap_or_else(usable_emulation))
}

/// Returns KVM where the CPU has what it takes and the device can be opened; a software KVM cannot boot a stock kernel.
#[must_use]
pub fn usable_emulation() -> Emulation {
    let device = fs::File::options().read(true).write(true).open("/dev/kvm");
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match device.is_ok() && is_hardware(&cpu, std::env::consts::ARCH) {
        true => Emulation::Kvm,
        false => Emulation::Tcg,
    }
}

/// Returns whether `/proc/cpuinfo` shows a CPU that runs guests itself. Only x86 says so there.
fn is_hardware(cpuinfo: &str, arch: &str) -> bool {
    let has_flag = |line: &str| {
        line.starts_with("flags")
            && line
                .split_whitespace()
                .any(|flag| ["vmx", "svm"].contains(&flag))
    };
    !["x86", "x86_64"].contains(&arch) || cpuinfo.lines().any(has_flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_virtualization_is_a_flag_of_the_cpu() {
        assert!(is_hardware("flags\t\t: fpu vmx de\n", "x86_64"));
        assert!(is_hardware("flags\t\t: fpu svm\n", "x86_64"));
        assert!(!is_hardware(
            "flags\t\t: fpu vmxnet\nmodel: vmx\n",
            "x86_64"
        ));
        assert!(is_hardware("", "aarch64"));
    }
}
