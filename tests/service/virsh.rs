//! Sandboxes in the hands of other clients of libvirt: `virsh start`, `virsh shutdown` and `virsh reboot`.

use std::process::Command;

use test_harness::{host, libvirtd};

use crate::support::{Done, HostFile, Test, finish, inside, listed, ok, output, says};

const NAME: &str = "t-virsh";

/// Returns the URI of the private libvirtd's containers.
fn containers() -> String {
    std::env::var("LIBVIRT_DEFAULT_URI").unwrap()
}

/// Waits for something. An emulated machine on a busy host takes minutes to boot.
fn in_time(what: &str, is_so: impl Fn() -> bool) {
    assert!((0..6).any(|_| host::becomes_so(&is_so)), "{what}");
}

/// A sandbox of a unit that notes when it is stopped in order.
struct Sandbox {
    uri: String,
    _unit: HostFile,
}

impl Sandbox {
    fn create(uri: &str, options: &[&str]) -> Self {
        let unit = HostFile::unit(
            "t-virsh.service",
            "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/touch /srv/stopped\n",
        );
        let create = ["-c", uri, "create", "-N", "none", "-u", "t-virsh.service"];
        ok(&[&create[..], options, &[NAME]].concat());
        Self {
            uri: uri.to_owned(),
            _unit: unit,
        }
    }

    fn virsh(&self, arguments: &[&str]) -> Done {
        let mut command = Command::new("virsh");
        command.args(["-c", &self.uri]).args(arguments);
        finish(command, "")
    }

    fn is(&self, arguments: &[&str]) {
        let done = self.virsh(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
    }

    fn is_up() -> bool {
        inside(NAME, "systemctl is-active t-virsh.service").code == 0
    }

    fn boot_id() -> String {
        inside(NAME, "cat /proc/sys/kernel/random/boot_id").stdout
    }

    fn start(&self) {
        self.is(&["start", NAME]);
        in_time("its unit is up", Self::is_up);
    }

    fn reboot(&self, options: &[&str]) {
        let before = Self::boot_id();
        self.is(&[&["reboot", NAME], options].concat());
        in_time("it has booted again", || {
            let now = Self::boot_id();
            Self::is_up() && !now.is_empty() && now != before
        });
        assert!(says(NAME, "rm -v /srv/stopped").contains("removed"));
    }

    fn shut_down(&self, options: &[&str]) {
        self.is(&[&["shutdown", NAME], options].concat());
        in_time("it has stopped", || {
            listed(NAME).unwrap()["state"] == "stopped"
        });
        let logs = ok(&["logs", NAME]);
        assert!(logs.contains("asks the sandbox to shut down"), "{logs}");
        assert!(logs.contains("Stopped t-virsh.service"), "{logs}");
    }
}

/// Starts, reboots and shuts down a sandbox that was never started before.
fn obeys_virsh(uri: &str, options: &[&str]) {
    let sandbox = Sandbox::create(uri, options);
    sandbox.start();
    sandbox.reboot(&[]);
    sandbox.shut_down(&[]);
    sandbox.start();
    ok(&["stop", NAME]);
    ok(&["start", NAME]);
    sandbox.shut_down(&[]);
    sandbox.start();
    ok(&["delete", "--force", NAME]);
}

#[test]
fn a_container_obeys_virsh() {
    let Some(test) = Test::begin("a_container_obeys_virsh") else {
        return;
    };
    obeys_virsh(&containers(), &[]);
    test.end();
}

#[test]
fn a_container_with_ids_of_the_host_obeys_virsh() {
    let Some(test) = Test::begin("a_container_with_ids_of_the_host_obeys_virsh") else {
        return;
    };
    obeys_virsh(&containers(), &["--idmap", "no"]);
    test.end();
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_obeys_virsh() {
    let Some(test) = Test::begin("a_machine_obeys_virsh") else {
        return;
    };
    obeys_virsh(&libvirtd::qemu_uri().unwrap(), &[]);
    test.end();
}

#[test]
fn a_container_obeys_in_every_mode_that_it_has() {
    let Some(test) = Test::begin("a_container_obeys_in_every_mode_that_it_has") else {
        return;
    };
    let sandbox = Sandbox::create(&containers(), &[]);
    sandbox.start();
    let refused = sandbox.virsh(&["shutdown", NAME, "--mode", "initctl"]);
    assert!(refused.stderr.contains("initctl"), "{refused:?}");
    sandbox.reboot(&["--mode", "signal"]);
    sandbox.shut_down(&["--mode", "signal"]);
    ok(&["delete", NAME]);
    drop(sandbox);
    test.end();
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_with_secrets_is_started_by_its_owner_alone() {
    let Some(test) = Test::begin("a_machine_with_secrets_is_started_by_its_owner_alone") else {
        return;
    };
    let uri = libvirtd::qemu_uri().unwrap();
    let create = ["-c", &uri, "create", "-N", "none", "-e", "PASSWORD=x", NAME];
    ok(&[&create[..], &["--", "sleep", "infinity"]].concat());
    let refused = || {
        let mut command = Command::new("virsh");
        command.args(["-c", &uri, "start", NAME]);
        let done = finish(command, "");
        let told = done
            .stderr
            .contains("has-secrets-start-it-with-virt-sandbox-service");
        assert!(done.code != 0 && told, "{done:?}");
    };
    refused();
    ok(&["start", NAME]);
    output("virsh", &["-c", &uri, "destroy", NAME]);
    refused();
    ok(&["start", NAME]);
    ok(&["delete", "--force", NAME]);
    test.end();
}
