//! Attempts against the kernel, which a container shares with the host.

use super::*;

/// Returns the attempts against the kernel.
pub fn attempts() -> Vec<Attempt> {
    vec![
        // The kernel.
        ("choose who gets core dumps", Kernel, |_| {
            rewrites("/proc/sys/kernel/core_pattern")
        }),
        ("choose who loads modules", Kernel, |_| {
            rewrites("/proc/sys/kernel/modprobe")
        }),
        ("choose who hears of devices", Kernel, |_| {
            rewrites("/sys/kernel/uevent_helper")
        }),
        ("drop the host's caches", Kernel, |_| {
            writes("/proc/sys/vm/drop_caches", "1")
        }),
        ("press SysRq", Kernel, |_| {
            let is_covered =
                fs::metadata("/proc/sysrq-trigger").is_ok_and(|it| it.file_type().is_char_device());
            match is_covered {
                true => Err("covered".to_owned()),
                false => writes("/proc/sysrq-trigger", "h"),
            }
        }),
        ("the same in a /proc of its own", OwnIds, |_| {
            let at = mounts("proc", None)?;
            writes(&at.join("sysrq-trigger").to_string_lossy(), "h")
        }),
        ("settings in a /proc of its own", OwnIds, |_| {
            let at = mounts("proc", None)?;
            rewrites(&at.join("sys/kernel/core_pattern").to_string_lossy())
        }),
        ("a /sys of its own", OwnIds, |_| {
            let at = mounts("sysfs", None)?;
            rewrites(&at.join("kernel/uevent_helper").to_string_lossy())
        }),
        ("mount what debugs the kernel", OwnIds, |_| {
            let kinds = [
                "debugfs",
                "tracefs",
                "securityfs",
                "configfs",
                "pstore",
                "efivarfs",
            ];
            let found = kinds.iter().find(|kind| mounts(kind, None).is_ok());
            found
                .map(ToString::to_string)
                .ok_or_else(|| "none mounts".to_owned())
        }),
        ("read the kernel's memory", Kernel, |_| {
            let mut byte = [0; 64];
            let mut file = File::open("/proc/kcore").map_err(io)?;
            match file.read(&mut byte).map_err(io)? {
                0 => Err("empty".to_owned()),
                _ => Ok("read it".to_owned()),
            }
        }),
        ("read where the kernel is", Kernel, |_| {
            let symbols = fs::read_to_string("/proc/kallsyms").map_err(io)?;
            let is_shown = symbols
                .lines()
                .any(|line| !line.starts_with("0000000000000000"));
            match is_shown {
                true => Ok("addresses are shown".to_owned()),
                false => Err("all are 0".to_owned()),
            }
        }),
        ("read the host's keys", Kernel, |_| {
            match fs::read("/proc/keys").map_err(io)?.is_empty() {
                true => Err("empty".to_owned()),
                false => Ok("read them".to_owned()),
            }
        }),
        ("read the kernel's log", Kernel, |_| {
            call(libc::SYS_syslog, [10, 0, 0, 0, 0]).map(|size| format!("{size} bytes"))
        }),
        ("load a module", Kernel, |_| {
            let none = text("");
            call(
                libc::SYS_init_module,
                [address(&0_u8), 1, none.as_ptr() as usize, 0, 0],
            )
            .map(|_| String::new())
        }),
        ("load a module from a file", Kernel, |_| {
            let file = File::open("/proc/self/exe").map_err(io)?;
            let none = text("");
            let file = file.as_raw_fd() as usize;
            let done = call(
                libc::SYS_finit_module,
                [file, none.as_ptr() as usize, 0, 0, 0],
            );
            match done {
                // The kernel read the file and rejected its format: the call was not stopped.
                Err(error) if error.contains("Exec format") => Ok(error),
                other => other.map(|_| String::new()),
            }
        }),
        ("load another kernel", Kernel, |_| {
            call(libc::SYS_kexec_load, [0, 0, 0, 0, 0]).map(|_| "loaded none".to_owned())
        }),
        ("run a program in the kernel", Kernel, |_| {
            // BPF_MAP_CREATE of an array of one word
            let attributes: [u32; 18] = {
                let mut words = [0; 18];
                words[..4].copy_from_slice(&[2, 4, 4, 1]);
                words
            };
            call(libc::SYS_bpf, [0, address(&attributes), 72, 0, 0])
                .map(|_| "made a map".to_owned())
        }),
        ("count events of the host", Kernel, |_| {
            let attributes: [u32; 32] = {
                let mut words = [0; 32];
                words[..2].copy_from_slice(&[1, 128]);
                words
            };
            let all = usize::MAX;
            call(
                libc::SYS_perf_event_open,
                [address(&attributes), all, 0, all, 0],
            )
            .map(|_| "counting".to_owned())
        }),
        ("handle page faults", Kernel, |_| {
            call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0]).map(|_| "opened it".to_owned())
        }),
        ("take part in a session of keys", Kernel, |_| {
            // KEYCTL_GET_KEYRING_ID of the user's
            call(libc::SYS_keyctl, [0, (-4_isize) as usize, 1, 0, 0]).map(|_| "has one".to_owned())
        }),
        ("add a key", Kernel, |_| {
            let (kind, name) = (text("user"), text("t-attack"));
            let done = call(
                libc::SYS_add_key,
                [
                    kind.as_ptr() as usize,
                    name.as_ptr() as usize,
                    address(&1_u8),
                    1,
                    (-4_isize) as usize,
                ],
            );
            done.map(|_| "added one".to_owned())
        }),
        ("use rings of I/O", Kernel, |_| {
            let parameters = [0_u8; 120];
            call(libc::SYS_io_uring_setup, [1, address(&parameters), 0, 0, 0])
                .map(|_| "has one".to_owned())
        }),
        ("talk to ports of the hardware", Kernel, |_| {
            #[cfg(target_arch = "x86_64")]
            return call(libc::SYS_iopl, [3, 0, 0, 0, 0]).map(|_| "has them".to_owned());
            #[cfg(not(target_arch = "x86_64"))]
            Err("there are none".to_owned())
        }),
        ("set the host's clock", Kernel, |_| {
            let now = [1_000_000_000_i64, 0];
            call(libc::SYS_clock_settime, [0, address(&now), 0, 0, 0]).map(|_| "set it".to_owned())
        }),
        ("slew the host's clock", Kernel, |_| {
            let mut change = [0_u64; 32];
            change[0] = 2; // ADJ_FREQUENCY, of 0
            call(libc::SYS_adjtimex, [address(&change), 0, 0, 0, 0]).map(|_| "slewed it".to_owned())
        }),
        ("swap to a file", Kernel, |_| {
            let path = text("/tmp/none");
            match call(libc::SYS_swapon, [path.as_ptr() as usize, 0, 0, 0, 0]) {
                Err(error) if error.contains("No such file") => Ok(error),
                other => other.map(|_| String::new()),
            }
        }),
        ("account the host's processes", Kernel, |_| {
            call(libc::SYS_acct, [0, 0, 0, 0, 0]).map(|_| "turned it off".to_owned())
        }),
        ("take Ctrl+Alt+Del from the host", Kernel, |_| {
            // LINUX_REBOOT_CMD_CAD_OFF
            call(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0, 0])
                .map(|_| "took it".to_owned())
        }),
    ]
}
