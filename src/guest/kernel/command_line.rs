//! The command line of the guest's kernel.

use crate::sys::arch::Arch;

/// Returns the command line of a guest's kernel.
///
/// With `debug` the kernel and init print all messages on the first serial port: `hvc0` has none from before its driver.
#[must_use]
pub fn command_line(arch: Arch, debug: bool) -> String {
    let mut words = match debug {
        true => [serial_console(arch), &["debug"]].concat(),
        false => vec!["quiet", "console=hvc0"],
    };
    words.extend([
        // A guest that panics ends instead of waiting.
        "panic=-1",
        // Tests of ciphers, a sixth of a second when emulated.
        "cryptomgr.notests",
        // Nothing in the guest may wait for entropy that does not come.
        "random.trust_cpu=on",
    ]);
    if arch.is_x86() {
        words.extend([
            // On a busy host the test of the timer fails by chance, and then the kernel panics.
            "no_timer_check",
            // Patching out of locks on one CPU, a twelfth of a second when emulated.
            "noreplace-smp",
        ]);
    }
    words.join(" ")
}

/// Returns the words for a console on the serial port that libvirt gives the machine, and for what the kernel says before it has that.
fn serial_console(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 | Arch::I686 => &["earlyprintk=ttyS0", "console=ttyS0"],
        // The device tree says where the early console is.
        Arch::Aarch64 | Arch::Armv7l => &["earlycon", "console=ttyAMA0"],
        Arch::Riscv64 | Arch::Loongarch64 => &["earlycon", "console=ttyS0"],
        Arch::S390x => &["console=ttysclp0"],
        // The terminal of the hypervisor, which comes before those of virtio.
        Arch::Ppc64le => &["console=hvc0"],
        Arch::Other(_) => &["console=ttyS0"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_one_console() {
        for (arch, serial) in [
            (Arch::X86_64, "console=ttyS0"),
            (Arch::Aarch64, "console=ttyAMA0"),
            (Arch::S390x, "console=ttysclp0"),
            (Arch::Riscv64, "console=ttyS0"),
        ] {
            for (debug, console) in [(false, "console=hvc0"), (true, serial)] {
                let line = command_line(arch, debug);
                let words: Vec<_> = line.split(' ').collect();
                let consoles = words.iter().filter(|word| word.starts_with("console="));
                assert_eq!(consoles.collect::<Vec<_>>(), [&console], "{arch}");
                assert_eq!(words.contains(&"quiet"), !debug);
                // Linux hands a word that it does not know to init, as an argument.
                assert_eq!(words.contains(&"noreplace-smp"), arch.is_x86(), "{arch}");
            }
        }
    }
}
