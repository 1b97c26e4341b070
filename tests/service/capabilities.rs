//! Capabilities that units ask for.

use crate::support::{HostFile, Test, ok, run, says};

#[test]
fn units_have_the_capabilities_they_ask_for() {
    let Some(test) = Test::begin("units_have_the_capabilities_they_ask_for") else {
        return;
    };
    let unit = |asked: &str| {
        let text = format!("[Service]\nUser=nobody\nExecStart=/bin/sleep infinity\n{asked}");
        HostFile::unit("t-cap.service", &text)
    };
    let create = ["create", "-N", "none", "-u", "t-cap.service"];
    let effective = |name: &str| {
        let script =
            "grep CapEff /proc/$(systemctl show --property MainPID --value t-cap)/status | cut -f2";
        let set = u64::from_str_radix(&says(name, script), 16).unwrap();
        [10, 12, 25].map(|number| set & (1 << number) != 0)
    };

    let bind = unit(
        "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_SYS_TIME\n",
    );
    ok(&[&create[..], &["--start", "t-cap"]].concat());
    assert_eq!(effective("t-cap"), [true, false, false]);
    ok(&["delete", "--force", "t-cap"]);
    drop(bind);

    // The service may administer its own network, but not the host's clock.
    let clock = unit("AmbientCapabilities=CAP_SYS_TIME\nAmbientCapabilities=CAP_NET_ADMIN\n");
    let refused = run(&[&create[..], &["t-cap"]].concat());
    assert_eq!(refused.code, 1, "{refused:?}");
    for word in [
        "t-cap.service",
        "AmbientCapabilities=",
        "CAP_SYS_TIME",
        "--cap-add sys_time",
    ] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    ok(&[&create[..], &["--cap-add", "sys_time", "--start", "t-cap"]].concat());
    assert_eq!(effective("t-cap"), [false, true, true]);
    ok(&["delete", "--force", "t-cap"]);

    let less = "[Service]\nAmbientCapabilities=\nAmbientCapabilities=CAP_NET_ADMIN\n";
    let drop_in = HostFile::new("/etc/systemd/system/t-cap.service.d/less.conf", less);
    ok(&[&create[..], &["--start", "t-cap"]].concat());
    assert_eq!(effective("t-cap"), [false, true, false]);
    ok(&["delete", "--force", "t-cap"]);
    drop((clock, drop_in));
    test.end();
}
