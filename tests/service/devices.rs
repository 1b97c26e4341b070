//! Devices of the host in a container.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::{HostFile, Test, ok, run, says};

const TUN: &str = "/dev/net/tun";

#[test]
#[ignore = "slow: make test-slow"]
fn a_container_has_only_the_devices_given_to_it() {
    let Some(test) = Test::begin("a_container_has_only_the_devices_given_to_it") else {
        return;
    };
    let Ok(tun) = fs::metadata(TUN) else {
        eprintln!("SKIP: this host has no {TUN}");
        return;
    };
    let unit = |asked: &str| {
        let text = format!("[Service]\nExecStart=/bin/sleep infinity\n{asked}");
        HostFile::unit("t-device.service", &text)
    };
    let create = ["create", "-N", "none", "-u", "t-device.service"];

    // Devices that the unit asks for.
    let asking = unit("DeviceAllow=/dev/net/tun rw\nDeviceAllow=/dev/mem rw\n");
    let plan = ok(&[&create[..], &["--dry-run", "t-device"]].concat());
    assert!(plan.contains("device   /dev/net/tun\n"), "{plan}");
    assert!(!plan.contains("device   /dev/mem"), "{plan}");
    ok(&[&create[..], &["--start", "t-device"]].concat());
    let mode = says("t-device", "stat -Lc %a:%u:%g /dev/net/tun");
    let same = format!("{:o}:{}:{}", tun.mode() & 0o777, tun.uid(), tun.gid());
    assert_eq!(mode, same);
    says(
        "t-device",
        "ip tuntap add t-tun mode tun && ip link show t-tun",
    );
    assert_eq!(
        says(
            "t-device",
            "ls /dev/mem 2>&1 | wc -l; ls -A /dev | grep -c mem || :"
        ),
        "1\n0"
    );
    ok(&["delete", "--force", "t-device"]);
    drop(asking);

    let plain = unit("");
    ok(&[&create[..], &["--start", "t-device"]].concat());
    assert_eq!(says("t-device", "ls /dev/net 2>/dev/null | wc -l"), "0");
    ok(&["delete", "--force", "t-device"]);

    ok(&[&create[..], &["--device", TUN, "--start", "t-device"]].concat());
    says("t-device", "test -c /dev/net/tun");
    ok(&["stop", "t-device"]);
    ok(&["start", "t-device"]);
    says("t-device", "test -c /dev/net/tun");
    ok(&["delete", "--force", "t-device"]);

    for (device, reason) in [
        ("/dev/t-none", "No such file"),
        ("/dev/shm", "no character device"),
    ] {
        let refused = run(&[&create[..], &["--device", device, "t-device"]].concat());
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
        assert!(refused.stderr.contains("--device"), "{refused:?}");
    }
    drop(plain);
    test.end();
}
