//! Two network namespaces and a veth pair between them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use guest_init::config::{Addressing, Nic};
use guest_init::network::dhcp::Interface;
use guest_init::network::netlink::{Link, Netlink};
use nix::sched::{CloneFlags, setns, unshare};

/// Returns the reason why these tests cannot run here.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    let found = |program: &str| {
        Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    };
    if !found("dnsmasq") || !found("ip") {
        return Some("no dnsmasq(8) or no ip(8)");
    }
    // Root of a container may not have the capability.
    match thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join() {
        Ok(Ok(())) => None,
        Ok(Err(_)) | Err(_) => Some("no network namespaces"),
    }
}

/// Runs a test in a network namespace, which ends with the thread.
pub fn in_sandbox(test: impl FnOnce(Wire) + Send + 'static) {
    if let Some(reason) = missing() {
        println!("SKIP: {reason}");
        return;
    }
    let outcome = thread::spawn(|| test(Wire::new())).join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A sandbox with `eth0`, in which the calling thread is, and a host at the other end of it.
pub struct Wire {
    host: File,
    pub sandbox: File,
}

impl Wire {
    fn new() -> Self {
        let own = || File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let host = own();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let wire = Self {
            host,
            sandbox: own(),
        };
        let fd = wire.host.as_raw_fd();
        let namespace = format!("/proc/{}/fd/{fd}", std::process::id());
        ip(&format!(
            "link add eth0 address 02:00:00:00:00:01 type veth peer name veth0 netns {namespace}"
        ));
        wire.on_host(|| {
            ip("link set lo up");
            ip("link set veth0 up");
            ip("address add 192.0.2.1/24 dev veth0");
        });
        wire
    }

    pub fn on_host<T>(&self, action: impl FnOnce() -> T) -> T {
        setns(&self.host, CloneFlags::CLONE_NEWNET).unwrap();
        let result = action();
        setns(&self.sandbox, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }
}

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    text
}

pub fn link(name: &str) -> Link {
    let links = Netlink::open().unwrap().links().unwrap();
    links.into_iter().find(|link| link.name == name).unwrap()
}

pub fn eth0() -> Interface {
    let link = link("eth0");
    Netlink::open().unwrap().set_up(&link).unwrap();
    Interface::new(link).unwrap()
}

pub fn dynamic(name: &str) -> Nic {
    Nic {
        name: name.to_owned(),
        mac: None,
        addressing: Addressing::Dhcp,
        hint: None,
    }
}
