//! Tests of the private libvirtd: it runs containers, and a snapshot sees their leftovers.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use test_harness::host;
use test_harness::libvirtd::require;
use test_harness::snapshot::Snapshot;

fn virsh(arguments: &[&str]) -> String {
    let output = Command::new("virsh")
        .arg("--quiet")
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Defines a container on the host's root that configures an address and waits.
fn define(dir: &Path, address: &str) {
    let script =
        format!("ip address add {address}/24 dev eth0; ip link set eth0 up; exec sleep 60");
    let xml = format!(
        "<domain type='lxc'><name>harness-sleeper</name><memory unit='MiB'>64</memory>\
         <os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg><initarg>{script}</initarg></os>\
         <devices><filesystem type='mount'><source dir='/'/><target dir='/'/><readonly/></filesystem>\
         <interface type='network'><source network='default'/></interface><console type='pty'/></devices></domain>"
    );
    let file = dir.join("domain.xml");
    std::fs::write(&file, xml).unwrap();
    virsh(&["define", file.to_str().unwrap()]);
}

#[test]
fn a_container_can_be_reached_and_leaves_nothing() {
    let Some(_) = require("a_container_can_be_reached_and_leaves_nothing") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let before = Snapshot::take().unwrap();
    let network = virsh(&["net-dumpxml", "default"]);
    let gateway = network
        .split("ip address='")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    let (net, _) = gateway.rsplit_once('.').unwrap();
    let address = format!("{net}.77");
    define(dir.path(), &address);
    virsh(&["start", "harness-sleeper"]);

    // Nothing listens, so a refused connection is an answer of the container.
    let socket: SocketAddr = format!("{address}:9").parse().unwrap();
    let start = Instant::now();
    let error = loop {
        let error = TcpStream::connect_timeout(&socket, Duration::from_secs(1)).unwrap_err();
        if error.kind() == ErrorKind::ConnectionRefused || start.elapsed() > Duration::from_secs(10)
        {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let seen = Snapshot::take().unwrap().since(&before).join("\n");
    for kind in [
        "domain harness-sleeper",
        "libvirt_lxc",
        "sleep 60",
        "network link vnet",
        "cgroup ",
    ] {
        assert!(seen.contains(kind), "{kind} is not in {seen}");
    }
    virsh(&["destroy", "harness-sleeper"]);
    virsh(&["undefine", "harness-sleeper"]);
    host::assert_clean(&before, |line| host::is_of_run(line, "harness-")).unwrap();
}
