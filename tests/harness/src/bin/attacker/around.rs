//! Processes, namespaces, groups, sockets and limits.

use super::*;

/// Returns the attempts against processes, namespaces, cgroups, sockets and limits.
pub fn attempts() -> Vec<Attempt> {
    vec![
        // Other processes, and namespaces.
        ("see a process of the host", All, |host| {
            match is_hosts(host.pid) {
                true => Ok(format!("{} is there", host.pid)),
                false => Err("not there".to_owned()),
            }
        }),
        ("send it a signal", All, |host| {
            reaches(
                host.pid,
                call(libc::SYS_kill, [host.pid as usize, 0, 0, 0, 0]),
            )
        }),
        ("hold it by a pidfd", All, |host| {
            reaches(
                host.pid,
                call(libc::SYS_pidfd_open, [host.pid as usize, 0, 0, 0, 0]),
            )
        }),
        ("trace it", All, |host| {
            // PTRACE_SEIZE
            reaches(
                host.pid,
                call(libc::SYS_ptrace, [0x4206, host.pid as usize, 0, 0, 0]),
            )
        }),
        ("read its memory", All, |host| {
            let mut byte = 0_u8;
            let vector = [std::ptr::from_mut(&mut byte) as usize, 1];
            let (local, remote) = (address(&vector), address(&vector));
            let done = call(
                libc::SYS_process_vm_readv,
                [host.pid as usize, local, 1, remote, 1],
            );
            reaches(host.pid, done)
        }),
        ("enter its mounts", All, |host| {
            joins(&format!("/proc/{}/ns/mnt", host.pid))
                .and_then(|_| reads_secret(&host.secret, host))
        }),
        ("enter the parent of its user namespace", Kernel, |_| {
            let own = File::open("/proc/self/ns/user").map_err(io)?;
            // NS_GET_PARENT
            let parent = call(libc::SYS_ioctl, [own.as_raw_fd() as usize, 0xb702, 0, 0, 0])?;
            joins(&format!("/proc/self/fd/{parent}"))
        }),
        ("enter the parent of its processes", Kernel, |_| {
            let own = File::open("/proc/self/ns/pid").map_err(io)?;
            let parent = call(libc::SYS_ioctl, [own.as_raw_fd() as usize, 0xb702, 0, 0, 0])?;
            joins(&format!("/proc/self/fd/{parent}"))
        }),
        (
            "be the host's root in a user namespace below",
            Kernel,
            |_| {
                let real = fs::read_to_string("/proc/self/uid_map").map_err(io)?;
                // Without ids of its own, root inside has the host's id already.
                match real.split_whitespace().nth(1) {
                    Some("0") => Err("it is that already".to_owned()),
                    _ => nested("0 4294901760 1"),
                }
            },
        ),
        ("have more ids than it was given", Kernel, |_| {
            nested("0 0 4294967295").and_then(|_| {
                let map = fs::read_to_string("/proc/self/uid_map").map_err(io)?;
                match map.trim_end().ends_with("4294967295") && is_mapped(70_000) {
                    true => Ok(map),
                    false => Err("no more than it had".to_owned()),
                }
            })
        }),
        ("become a user it does not have", OwnIds, |_| {
            call(libc::SYS_setuid, [70_000, 0, 0, 0, 0]).map(|_| "became 70000".to_owned())
        }),
        ("raise a limit of the kernel's", OwnIds, |_| {
            let most = [u64::MAX, u64::MAX];
            call(libc::SYS_setrlimit, [8, address(&most), 0, 0, 0])
                .map(|_| "locks all memory".to_owned())
        }),
        ("run before everybody else", OwnIds, |_| {
            // SCHED_FIFO
            call(libc::SYS_sched_setscheduler, [0, 1, address(&50_i32), 0, 0])
                .map(|_| "in real time".to_owned())
        }),
        ("be spared when memory is short", OwnIds, |_| {
            writes("/proc/self/oom_score_adj", "-1000")
        }),
        // Cgroups.
        ("raise its memory limit", OwnIds, |_| {
            let at = mounts("cgroup", Some("memory"))?;
            writes(&at.join("memory.limit_in_bytes").to_string_lossy(), "-1")
        }),
        ("raise its limit of processes", OwnIds, |_| {
            let at = mounts("cgroup", Some("pids"))?;
            writes(&at.join("pids.max").to_string_lossy(), "max")
        }),
        ("have devices of all kinds", OwnIds, |_| {
            let at = mounts("cgroup", Some("devices"))?;
            writes(&at.join("devices.allow").to_string_lossy(), "a")
        }),
        ("make groups where it is limited", OwnIds, |_| {
            let controllers = [
                "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
            ];
            let made = controllers.iter().find(|controller| {
                mounts("cgroup", Some(controller)).is_ok_and(|at| {
                    let group = at.join(format!("attack-{}", std::process::id()));
                    let done = fs::create_dir(&group);
                    let _ = fs::remove_dir(&group);
                    let _ = umount2(&at, MntFlags::MNT_DETACH);
                    done.is_ok()
                })
            });
            made.map(ToString::to_string)
                .ok_or_else(|| "nowhere".to_owned())
        }),
        (
            "run a program of its choice at the end of a group",
            OwnIds,
            |_| {
                let at = mounts("cgroup", Some("memory"))?;
                writes(&at.join("release_agent").to_string_lossy(), "/tmp/x")
            },
        ),
        ("enter a group of the host", OwnIds, |_| {
            let at = mounts("cgroup2", None)?;
            enters_foreign(&at)
        }),
        ("enter one that counts processes", OwnIds, |_| {
            let at = mounts("cgroup", Some("pids"))?;
            enters_foreign(&at)
        }),
        ("leave its group", Kernel, |_| {
            let groups = fs::read_to_string("/proc/self/cgroup").map_err(io)?;
            match groups.lines().any(|line| line.contains("..")) {
                true => Ok(groups),
                false => Err("none above is seen".to_owned()),
            }
        }),
        // Sockets.
        ("connect to an abstract socket of the host", All, |host| {
            let name = UnixAddress::from_abstract_name(&host.socket).map_err(io)?;
            UnixStream::connect_addr(&name)
                .map_err(io)
                .map(|_| "connected".to_owned())
        }),
        ("connect to the host's loopback", All, |host| {
            let there = SocketAddr::from(([127, 0, 0, 1], host.port));
            TcpStream::connect_timeout(&there, Duration::from_secs(1))
                .map_err(io)
                .map(|_| "connected".to_owned())
        }),
        ("ask libvirt of the host", All, |_| {
            let sockets = [
                "/run/libvirt/libvirt-sock",
                "/run/libvirt/virtlxcd-sock",
                "/var/run/libvirt/libvirt-sock",
            ];
            let open = sockets
                .iter()
                .find(|path| UnixStream::connect(path).is_ok());
            open.map(ToString::to_string)
                .ok_or_else(|| "no socket answers".to_owned())
        }),
        ("see NICs of the host", Kernel, |_| {
            let names = fs::read_to_string("/proc/net/dev").map_err(io)?;
            let names = names
                .lines()
                .skip(2)
                .filter_map(|line| line.split(':').next());
            let foreign = names
                .map(str::trim)
                .find(|name| *name != "lo" && !name.starts_with("eth"));
            foreign
                .map(ToOwned::to_owned)
                .ok_or_else(|| "only its own".to_owned())
        }),
        ("talk to virtual machines by vsock", Kernel, |_| {
            call(libc::SYS_socket, [40, 1, 0, 0, 0]).map(|_| "has a socket".to_owned())
        }),
        ("speak to the host's audit", Kernel, |_| {
            call(libc::SYS_socket, [16, 3, 9, 0, 0]).map(|_| "has a socket".to_owned())
        }),
        ("type into its terminal", Kernel, |_| {
            let mut byte = b'x';
            let at = std::ptr::from_mut(&mut byte) as usize;
            call(libc::SYS_ioctl, [0, 0x5412, at, 0, 0]).map(|_| "typed".to_owned())
        }),
        ("paste into the host's console", Kernel, |_| {
            let places = ["/dev/tty0", "/dev/tty1", "/dev/console", "/dev/tty"];
            let paste = [3_u8; 16];
            first(places, |number| {
                // TIOCLINUX
                call(libc::SYS_ioctl, [number, 0x541c, address(&paste), 0, 0])
            })
        }),
        ("be given what the host's console says", Kernel, |_| {
            // TIOCCONS
            first(["/dev/ptmx", "/dev/tty"], |number| {
                call(libc::SYS_ioctl, [number, 0x541d, 0, 0, 0])
            })
        }),
        ("follow a link of its out of the root", OwnRoot, |host| {
            let link = place()?.join("link");
            let up = "../".repeat(40) + &host.secret.to_string_lossy();
            symlink(up, &link).map_err(io)?;
            reads_secret(&link, host)
        }),
        // Attempts that only limits can stop.
        ("have as many processes as it likes", OwnIds, |_| {
            let mut children = Vec::new();
            let outcome = loop {
                // SAFETY: the program has one thread.
                match unsafe { fork() } {
                    Ok(ForkResult::Child) => loop {
                        nix::unistd::pause();
                    },
                    Ok(ForkResult::Parent { child }) => children.push(child),
                    Err(error) => break Err(format!("{} at {}", error.desc(), children.len())),
                }
                if children.len() > 1000 {
                    break Ok(format!("has {}", children.len()));
                }
            };
            for child in children {
                let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(child, None);
            }
            outcome
        }),
    ]
}

/// Returns the result of `way` on the first of these files that can be opened.
fn first<const N: usize>(
    places: [&str; N],
    ask: impl Fn(usize) -> Result<i64, String>,
) -> Result<String, String> {
    let mut outcome = Err("none is there".to_owned());
    for place in places {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(place);
        match file
            .map_err(io)
            .and_then(|file| ask(file.as_raw_fd() as usize))
        {
            Ok(_) => return Ok(place.to_owned()),
            Err(error) => outcome = Err(format!("{place}: {error}")),
        }
    }
    outcome
}

/// Moves this process into a cgroup below `top` that has processes of the host: these have the pid 0 here (`cgroups(7)`).
fn enters_foreign(top: &Path) -> Result<String, String> {
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        let list = dir.join("cgroup.procs");
        let members = fs::read_to_string(&list).unwrap_or_default();
        let is_in =
            members.lines().any(|line| line == "0") && writes(&list.to_string_lossy(), "0").is_ok();
        // Only a cgroup outside the namespace's root, shown as `/..`, counts: the host may have put processes into the sandbox's own.
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if is_in && own.lines().any(|line| line.contains("/..")) {
            return Ok(format!("entered {}", dir.display()));
        }
        let below = fs::read_dir(&dir).map_err(io)?.flatten();
        dirs.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    Err("no process of others is in one".to_owned())
}
