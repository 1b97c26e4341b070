//! Networks of a sandbox.

use test_harness::host;

use crate::support::Test;

cases! {
    every:
        there_is_no_network_by_default,
        dhcp_configures_addresses,
        static_addresses_are_configured,
        a_sandbox_can_have_three_networks,
        a_filter_has_parameters,
        a_missing_network_is_refused;
}

fn there_is_no_network_by_default(test: &Test) {
    let script = "ls /sys/class/net; ip -br address show lo; ip route; ip -6 route show default";
    for options in [&[][..], &["-N", "none"], &["-p"]] {
        let shown = test.says(options, script);
        let mut lines = shown.lines();
        assert_eq!(lines.next(), Some("lo"), "{shown}");
        let loopback = lines.next().unwrap();
        assert!(
            loopback.contains("127.0.0.1/8") && loopback.contains("::1/128"),
            "{shown}"
        );
        assert_eq!(lines.next(), None, "{shown}");
    }
}

fn dhcp_configures_addresses(test: &Test) {
    let subnet = host::subnet().unwrap();
    let before = std::fs::read("/etc/resolv.conf").unwrap();
    let script = "ip -4 -br address show eth0; ip route show default; cat /etc/resolv.conf";
    let shown = test.says(&["-N", "dhcp,source=default"], script);
    assert!(shown.contains(&format!(" {subnet}.")), "{shown}");
    assert!(
        shown.contains(&format!("default via {subnet}.1 dev eth0")),
        "{shown}"
    );
    assert!(shown.contains(&format!("nameserver {subnet}.1")), "{shown}");
    assert_eq!(std::fs::read("/etc/resolv.conf").unwrap(), before);
    let script = format!(
        "ping -c 1 -W 5 {subnet}.1 >/dev/null 2>&1 || bash -c ': </dev/tcp/{subnet}.1/53' && echo reached"
    );
    assert_eq!(
        test.says(&["-p", "-N", "dhcp,source=default"], &script),
        "reached"
    );
}

fn static_addresses_are_configured(test: &Test) {
    let subnet = host::subnet().unwrap();
    let nic = format!(
        "source=default,address={subnet}.250/24,address=fd00:5::7/64,route=192.0.2.0/24%{subnet}.1,\
         route=2001:db8::/32%fd00:5::1,mac=52:54:00:12:34:56"
    );
    let script = "ip -br address show eth0; ip route; ip -6 route; cat /sys/class/net/eth0/address";
    let shown = test.says(&["-N", &nic], script);
    for part in [
        &format!("{subnet}.250/24"),
        "fd00:5::7/64",
        &format!("192.0.2.0/24 via {subnet}.1 dev eth0"),
        "2001:db8::/32 via fd00:5::1 dev eth0",
        "52:54:00:12:34:56",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // The default prefix of an address.
    let nic = format!("source=default,address={subnet}.251%{subnet}.255,address=fd00:5::8");
    let shown = test.says(&["-N", &nic], "ip address show eth0");
    for part in [&format!("{subnet}.251/24 brd {subnet}.255"), "fd00:5::8/64"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

fn a_sandbox_can_have_three_networks(test: &Test) {
    let subnet = host::subnet().unwrap();
    let last = format!("source=default,address={subnet}.252/24");
    let options = [
        "-N",
        "dhcp,source=default",
        "-N",
        "source=default",
        "-N",
        &last,
    ];
    let shown = test.says(
        &options,
        "ls /sys/class/net; ip -4 -br address show eth0; ip -4 -br address show eth2",
    );
    assert!(shown.starts_with("eth0\neth1\neth2\nlo\n"), "{shown}");
    assert!(shown.ends_with(&format!("{subnet}.252/24")), "{shown}");
}

fn a_filter_has_parameters(test: &Test) {
    let mut command = test.command();
    let nic = "dhcp,source=default,filter=clean-traffic,filter.ip=192.0.2.7";
    command.args(["--print-xml", "-N", nic, "--", "true"]);
    let done = host::finish(command, b"").unwrap();
    assert_eq!(done.code, 0, "{done:?}");
    let xml = done.stdout.replace('"', "'");
    assert!(xml.contains("<filterref filter='clean-traffic'>"), "{xml}");
    assert!(
        xml.contains("<parameter name='IP' value='192.0.2.7'/>"),
        "{xml}"
    );
}

fn a_missing_network_is_refused(test: &Test) {
    let line = test.refusal(&["-N", "dhcp,source=no-such-net", "--", "true"]);
    assert!(line.contains("no-such-net"), "{line}");
}
