//! Disk images that name other files, as a downloaded image may.

mod evil;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use test_harness::host;

use crate::support::{TREES, Test, eventually, ok, run};
use evil::{Evil, Image, MARKER};

fn container() -> String {
    std::env::var("LIBVIRT_DEFAULT_URI").unwrap_or_else(|_| "lxc:///system".to_owned())
}

fn machine() -> String {
    container().replace("lxc:", "qemu:")
}

#[test]
fn files_named_by_an_image_cannot_be_reached() {
    let Some(test) = Test::begin("files_named_by_an_image_cannot_be_reached") else {
        return;
    };
    let evil = Evil::new(&container());
    let images = evil.all();
    for image in &images {
        for option in ["", ",ro"] {
            let done = evil.attack(option, &image.disk);
            evil.assert_refused(image, &done);
        }
        let mount = format!("host-image:/mnt={}", image.disk);
        let done = evil.run(&["-p", "-m", &mount], "cat /mnt/*");
        evil.assert_refused(image, &done);
    }
    println!(
        "{} images that name other files: none is taken",
        images.len()
    );
    test.end();
}

/// Machines are refused before a domain is defined, so nothing boots.
#[test]
fn machines_refuse_images_that_name_files() {
    let Some(test) = Test::begin("machines_refuse_images_that_name_files") else {
        return;
    };
    let evil = Evil::new(&machine());
    for image in evil.all() {
        let done = evil.attack("", &image.disk);
        evil.assert_refused(&image, &done);
        let mount = format!("host-image:/mnt={}", image.disk);
        let done = evil.run(&["-p", "-m", &mount], "cat /mnt/*");
        evil.assert_refused(&image, &done);
    }
    test.end();
}

/// Checks that a raw image is never probed, and that the parent of a VHD is never opened.
fn harmless(evil: &Evil) {
    let raw = evil.path("raw.img");
    let victim = evil.victim();
    let backing = ["-f", "qcow2", "-b", victim.to_str().unwrap(), "-F", "raw"];
    let made = evil.make("r.qcow2", &backing);
    fs::rename(made.name, &raw).unwrap();
    let done = evil.attack("", raw.to_str().unwrap());
    assert!(done.stdout.starts_with("QFI") && done.code == 0, "{done:?}");
    evil.check("raw");
    let vhd = evil.make("d.vhd", &["-f", "vpc"]);
    let mut bytes = fs::read(&vhd.name).unwrap();
    let footer = bytes.len() - 512;
    for at in [0, footer] {
        // A differencing disk, with a valid footer checksum.
        bytes[at + 60..at + 64].copy_from_slice(&4_u32.to_be_bytes());
        bytes[at + 64..at + 68].fill(0);
        let sum: u32 = bytes[at..at + 512]
            .iter()
            .map(|byte| u32::from(*byte))
            .sum();
        bytes[at + 64..at + 68].copy_from_slice(&(!sum).to_be_bytes());
    }
    let wide: Vec<u8> = victim
        .to_str()
        .unwrap()
        .bytes()
        .flat_map(|byte| [0, byte])
        .collect();
    bytes[512 + 64..512 + 64 + wide.len()].copy_from_slice(&wide);
    fs::write(&vhd.name, bytes).unwrap();
    let done = evil.attack("", &vhd.disk);
    assert!(!done.stdout.contains(MARKER), "{done:?}");
    evil.check("vhd");
}

#[test]
fn raw_images_and_vhd_parents_are_not_followed() {
    let Some(test) = Test::begin("raw_images_and_vhd_parents_are_not_followed") else {
        return;
    };
    harmless(&Evil::new(&container()));
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn raw_images_and_vhd_parents_are_not_followed_in_a_machine() {
    let name = "raw_images_and_vhd_parents_are_not_followed_in_a_machine";
    let Some(test) = Test::begin(name) else {
        return;
    };
    harmless(&Evil::new(&machine()));
    test.end();
}

/// Backing files are opened if the user allows it (`backing=yes`), also those with a relative name.
#[test]
fn backing_files_are_opened_if_the_user_allows_it() {
    let Some(test) = Test::begin("backing_files_are_opened_if_the_user_allows_it") else {
        return;
    };
    let evil = Evil::new(&container());
    let read = "head -c 15 /dev/disk/by-tag/d";
    for (index, (format, base)) in [("qcow2", "victim"), ("qed", "victim"), ("qcow2", "link")]
        .into_iter()
        .enumerate()
    {
        let _ = std::os::unix::fs::symlink(evil.victim(), evil.path("link"));
        let made = evil.make(
            &format!("y{index}"),
            &["-f", format, "-b", base, "-F", "raw"],
        );
        let disk = format!("file:d={},backing=yes", made.disk);
        let done = evil.run(&["-p", "--disk", &disk], read);
        assert_eq!(done.stdout, MARKER, "{done:?}");
    }
    let missing = evil.make(
        "m.qcow2",
        &["-f", "qcow2", "-b", "/c-not-there", "-F", "raw"],
    );
    let disk = format!("file:d={},backing=yes", missing.disk);
    let done = evil.run(&["-p", "--disk", &disk], read);
    assert!(
        done.code != 0 && done.stderr.contains("c-not-there"),
        "{done:?}"
    );
    // Devices and network addresses are refused even then.
    let device = evil.make("n.qcow2", &["-f", "qcow2", "-b", "/dev/zero", "-F", "raw"]);
    let disk = format!("file:d={},backing=yes", device.disk);
    assert_ne!(evil.run(&["-p", "--disk", &disk], read).code, 0);
    evil.check("backing=yes");
    let extents = ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"];
    let made = evil.make("w.vmdk", &extents);
    let disk = format!("file:d={},backing=yes", made.disk);
    let write = "echo text >/dev/disk/by-tag/d; sync; head -n 1 /dev/disk/by-tag/d";
    let done = evil.run(&["-p", "--disk", &disk], write);
    assert_eq!(done.stdout, "text\n", "{done:?}");
    assert!(
        fs::read(evil.path("w-f001.vmdk"))
            .unwrap()
            .starts_with(b"text\n")
    );
    test.end();
}

/// The process that reads an untrusted image has no privileges and no view of the host.
#[test]
fn the_storage_daemon_can_reach_only_the_image() {
    let Some(test) = Test::begin("the_storage_daemon_can_reach_only_the_image") else {
        return;
    };
    let evil = Evil::new(&container());
    let made = evil.make("own.qcow2", &["-f", "qcow2"]);
    fs::set_permissions(&made.name, fs::Permissions::from_mode(0o600)).unwrap();
    let mut sandbox = waiting(&evil, &made);
    let pid = daemon_of(sandbox.id());
    let place = |name: &str| Path::new("/proc").join(&pid).join(name);
    let status = fs::read_to_string(place("status")).unwrap();
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    assert!(
        field("Uid:")
            .split(' ')
            .all(|id| id.parse::<u32>().unwrap() > 60000)
    );
    assert!(
        field("Gid:")
            .split(' ')
            .all(|id| id.parse::<u32>().unwrap() > 60000)
    );
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    for name in ["mnt", "pid", "net", "ipc", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(
            fs::read_link(place("ns").join(name)).unwrap(),
            own,
            "{name}"
        );
    }
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let root = place("root");
    let top = names(&root);
    let known = ["dev", "lib", "lib64", "qemu-storage-daemon", "usr"];
    assert!(
        top.iter().all(|name| known.contains(&name.as_str())),
        "{top:?}"
    );
    assert_eq!(names(&root.join("dev")), ["fd", "null"]);
    let usr = names(&root.join("usr"));
    assert!(usr.iter().all(|name| name.starts_with("lib")), "{usr:?}");
    let mounts = fs::read_to_string(place("mountinfo")).unwrap();
    for mount in mounts.lines() {
        assert_eq!(
            mount.split(' ').nth(5).unwrap().split(',').next(),
            Some("ro"),
            "{mount}"
        );
    }
    let environment = fs::read_to_string(place("environ")).unwrap();
    assert!(!environment.contains("secret"), "{environment}");
    // Open descriptors: standard streams, the image, the FUSE device, and the event loop's.
    let mut open: Vec<String> = names(&place("fd"))
        .iter()
        .map(|fd| {
            fs::read_link(place("fd").join(fd))
                .unwrap()
                .display()
                .to_string()
        })
        .filter(|path| !path.starts_with("anon_inode:") && !path.starts_with("pipe:"))
        .collect();
    open.sort();
    open.dedup();
    let image = made.name.display().to_string();
    assert_eq!(
        open,
        ["/dev/fuse".to_owned(), "/dev/null".to_owned(), image]
    );
    drop(sandbox.stdin.take());
    assert!(sandbox.wait().unwrap().success());
    assert!(!place("status").exists());
    test.end();
}

/// Starts a sandbox with the image as a disk; it ends at the end of its standard input.
fn waiting(evil: &Evil, image: &Image) -> Child {
    let disk = format!("file:d={}", image.disk);
    let mut command = Command::new(crate::command_program());
    command
        .args(["-c", &evil.uri, "-p", "--disk", &disk])
        .args(["--", "sh", "-c", "echo ready; read end; true"])
        .env("C_IMAGES_SECRET", "secret")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut sandbox = command.spawn().unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(sandbox.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    sandbox
}

#[test]
fn the_storage_daemon_ends_if_its_command_is_killed() {
    let Some(test) = Test::begin("the_storage_daemon_ends_if_its_command_is_killed") else {
        return;
    };
    let evil = Evil::new(&container());
    let made = evil.make("own.qcow2", &["-f", "qcow2"]);
    let mut sandbox = waiting(&evil, &made);
    let daemon = Path::new("/proc").join(daemon_of(sandbox.id()));
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();
    eventually("the daemon has ended", || !daemon.exists());
    // The next run removes the leftovers of the killed one and locks the image.
    let mut next = waiting(&evil, &made);
    drop(next.stdin.take());
    assert!(next.wait().unwrap().success());
    test.end();
}

/// An attacker who breaks out of QEMU can write to the machine's image, so the host must not trust its header.
#[test]
fn a_tree_image_that_names_files_is_refused() {
    let Some(test) = Test::begin("a_tree_image_that_names_files_is_refused") else {
        return;
    };
    let name = "t-esc-tree";
    let file = format!("{TREES}/{name}.qcow2");
    for uri in [container(), machine()] {
        let evil = Evil::new(&uri);
        let image = ["-N", "none", "-i", "100M", "--format", "qcow2", name];
        let command = ["--", "/bin/sleep", "1000"];
        ok(&[&["-c", &uri, "create"], &image[..], &command].concat());
        let victim = evil.victim();
        let rebase = ["rebase", "-u", "-b", victim.to_str().unwrap(), "-F", "raw"];
        host::output("qemu-img", &[&rebase[..], &[&file]].concat()).unwrap();
        for verb in [
            &["start", name][..],
            &["logs", name],
            &["snapshot", "create", name, "s"],
        ] {
            let done = run(verb);
            evil.check(&format!("{verb:?}: {done:?}"));
            let is_refused = done.stderr.contains("names another file, its backing file");
            assert!(
                verb[0] == "snapshot" || (done.code != 0 && is_refused),
                "{verb:?}: {done:?}"
            );
        }
        ok(&["delete", name]);
    }
    test.end();
}

/// Returns the storage daemon that a process has started.
fn daemon_of(parent: u32) -> String {
    let parent = format!("PPid:\t{parent}\n");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let is_it = status.starts_with("Name:\tqemu-storage-da") && status.contains(&parent);
        is_it.then(|| entry.file_name().to_string_lossy().into_owned())
    });
    found.next().unwrap()
}
