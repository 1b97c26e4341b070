//! Tests of the private daemons, root's and an ordinary user's: they run QEMU guests, and a snapshot sees their leftovers.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use test_harness::guest::{COMMAND_LINE, DONE, Flavour, Kernel};
use test_harness::host;
use test_harness::libvirtd::{qemu_uri, require};
use test_harness::snapshot::Snapshot;
use test_harness::user::UserDirectory;

const NAME: &str = "harness-guest";
const NINE_P: &str = "<filesystem type='mount' accessmode='passthrough'>\
    <source dir='/'/><target dir='root'/><readonly/></filesystem>";
/// pivot_root(2) fails where `/` is the root of the initramfs, as in many containers: hence chroot.
const VIRTIOFS: &str = "<filesystem type='mount'><driver type='virtiofs'/>\
    <binary path='/usr/lib/qemu/virtiofsd'><sandbox mode='chroot'/></binary>\
    <source dir='/'/><target dir='root'/></filesystem>";

/// Makes a directory that QEMU can write to, whatever its user.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// Returns the XML of a guest that mounts the host's root and powers off.
fn xml(dir: &Path, kernel: &Kernel, fs: &str, filesystem: &str) -> String {
    let transport = if fs == "9p" { "9pnet_virtio" } else { fs };
    let initramfs = kernel
        .initramfs(dir, &["virtio_pci", transport, fs])
        .unwrap();
    format!(
        "<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>256</memory>\
         <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\
         <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>{COMMAND_LINE} -- mount {fs} root</cmdline></os><features><acpi/></features>\
         <devices><serial type='file'><source path='{}'/></serial>{filesystem}\
         <memballoon model='none'/></devices></domain>",
        kernel.image.display(),
        initramfs.display(),
        dir.join("console").display(),
    )
}

fn virsh(mut command: Command, uri: &str, arguments: &[&str]) -> String {
    let output = command
        .args(["--quiet", "--connect", uri])
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a guest to its end, and checks that snapshots show the `wanted` lines meanwhile and nothing afterwards.
fn run(virsh: &dyn Fn(&[&str]) -> String, dir: &Path, xml: &str, wanted: &[&str]) -> String {
    let before = Snapshot::take().unwrap();
    let file = dir.join("domain.xml");
    fs::write(&file, xml).unwrap();
    virsh(&["create", file.to_str().unwrap()]);
    let seen = Snapshot::take().unwrap().since(&before).join("\n");
    for wanted in wanted {
        assert!(seen.contains(wanted), "{wanted} is not in {seen}");
    }
    let begin = Instant::now();
    while virsh(&["list", "--name"]).contains(NAME) {
        assert!(begin.elapsed() < Duration::from_secs(120), "{NAME} hangs");
        sleep(Duration::from_millis(100));
    }
    host::assert_clean(&before, |line| host::is_of_run(line, "harness-")).unwrap();
    fs::read_to_string(dir.join("console")).unwrap()
}

fn assert_mounted(console: &str, fs: &str) {
    for wanted in [&format!("guest: mounted {fs}"), DONE] {
        assert!(console.contains(wanted), "{wanted} is not in:\n{console}");
    }
}

#[test]
fn a_system_guest_has_9p_and_does_not_run_as_root() {
    let Some(_) = require("a_system_guest_has_9p_and_does_not_run_as_root") else {
        return;
    };
    let dir = directory();
    let kernel = Kernel::find(Flavour::Generic).unwrap();
    let xml = xml(dir.path(), &kernel, "9p", NINE_P);
    let uri = qemu_uri().unwrap();
    let virsh = |arguments: &[&str]| {
        let said = virsh(Command::new("virsh"), &uri, arguments);
        if arguments[0] == "create" {
            assert_ne!(owner_of_guest(), 0);
        }
        said
    };
    let wanted = ["qemu-system-x86_64", "domain harness-guest of QEMU"];
    let console = run(&virsh, dir.path(), &xml, &wanted);
    assert_mounted(&console, "9p");
}

/// Returns the user id of the guest's QEMU process.
fn owner_of_guest() -> u32 {
    let pattern = format!("guest={NAME}");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find(|entry| {
            fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&pattern))
        })
        .map(|entry| entry.metadata().unwrap().uid())
        .unwrap()
}

#[test]
fn a_system_guest_has_virtiofs() {
    let Some(_) = require("a_system_guest_has_virtiofs") else {
        return;
    };
    let dir = directory();
    let kernel = Kernel::find(Flavour::Cloud).unwrap();
    let xml = xml(dir.path(), &kernel, "virtiofs", VIRTIOFS);
    let uri = qemu_uri().unwrap();
    let virsh = |arguments: &[&str]| virsh(Command::new("virsh"), &uri, arguments);
    let console = run(&virsh, dir.path(), &xml, &["qemu-system-", "virtiofsd"]);
    assert_mounted(&console, "virtiofs");
}

#[test]
fn an_ordinary_user_can_run_guests() {
    let Some(system) = require("an_ordinary_user_can_run_guests") else {
        return;
    };
    let user = UserDirectory::from_environment().unwrap();
    let dir = directory();
    let kernel = Kernel::find(Flavour::Generic).unwrap();
    let xml = xml(dir.path(), &kernel, "9p", NINE_P);
    let virsh = |arguments: &[&str]| virsh(user.command("virsh"), "qemu:///session", arguments);
    let wanted = ["qemu-system-x86_64", "domain harness-guest of the user"];
    let console = run(&virsh, dir.path(), &xml, &wanted);
    assert_mounted(&console, "9p");

    // The user cannot reach root's daemon.
    let refused = user
        .command("virsh")
        .args(["--connect", &system, "list"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
}

#[test]
fn snapshots_show_state_directories_of_root_and_users() {
    let Some(_) = require("snapshots_show_state_directories_of_root_and_users") else {
        return;
    };
    let before = Snapshot::take().unwrap();
    let user = UserDirectory::from_environment().unwrap().runtime();
    for place in [Path::new("/var/lib"), &user] {
        let state = place.join("virt-sandbox/harness-state");
        fs::create_dir_all(&state).unwrap();
        let seen = Snapshot::take().unwrap().since(&before).join("\n");
        assert!(seen.contains(state.to_str().unwrap()), "{seen}");
        fs::remove_dir(&state).unwrap();
        // The user must own the directory, so remove it if it is empty.
        let _ = fs::remove_dir(place.join("virt-sandbox"));
    }
    host::assert_clean(&before, |line| host::is_of_run(line, "harness-")).unwrap();
}
