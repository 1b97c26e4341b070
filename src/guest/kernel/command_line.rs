//! The command line of the guest's kernel.

/// Returns the command line of a guest's kernel, for x86.
///
/// With `debug` the kernel and init print all messages on the first serial port: `hvc0` has none from before its driver. `tsc_khz`
/// is the rate of the host's time stamp counter in kHz, if it is known for sure and an emulated guest counts with it; a wrong one
/// makes the guest's clock wrong.
#[must_use]
pub fn command_line(debug: bool, tsc_khz: Option<u32>) -> String {
    let mut words = Vec::new();
    if debug {
        words.extend(["earlyprintk=ttyS0", "console=ttyS0", "debug"]);
    } else {
        words.extend(["quiet", "console=hvc0"]);
    }
    words.extend([
        // A guest that panics ends instead of waiting.
        "panic=-1",
        // On a busy host the test of the timer fails by chance, and then the kernel panics.
        "no_timer_check",
        // Tests of ciphers, a sixth of a second when emulated.
        "cryptomgr.notests",
        // Patching out of locks on one CPU, a twelfth of a second when emulated.
        "noreplace-smp",
        // Nothing in the guest may wait for entropy that does not come.
        "random.trust_cpu=on",
    ]);
    let mut line = words.join(" ");
    if let Some(khz) = tsc_khz {
        // Else the kernel measures it against a timer, which takes up to a tenth of a second.
        line = format!("{line} tsc_early_khz={khz}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_one_console() {
        for (debug, console) in [(false, "console=hvc0"), (true, "console=ttyS0")] {
            let line = command_line(debug, None);
            let consoles: Vec<_> = line
                .split(' ')
                .filter(|word| word.starts_with("console="))
                .collect();
            assert_eq!(consoles, [console]);
            assert_eq!(line.split(' ').any(|word| word == "quiet"), !debug);
        }
    }

    #[test]
    fn the_rate_of_a_known_clock_is_passed() {
        assert!(command_line(false, Some(2_596_122)).ends_with(" tsc_early_khz=2596122"));
        assert!(!command_line(false, None).contains("tsc"));
    }
}
