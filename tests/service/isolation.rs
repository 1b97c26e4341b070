//! Isolation: a sandbox does not see the host.

use std::fs;
use std::path::Path;

use crate::support::{HostFile, Test, inside, ok, says};

#[test]
fn the_host_is_not_visible_from_inside() {
    let Some(test) = Test::begin("the_host_is_not_visible_from_inside") else {
        return;
    };
    let secrets = [
        HostFile::new("/root/t-marker", "t-secret"),
        HostFile::new("/home/t-marker/file", "t-secret"),
        HostFile::new("/srv/t-marker/file", "t-secret"),
        HostFile::new("/var/lib/t-marker/file", "t-secret"),
        HostFile::new("/var/log/t-marker/file", "t-secret"),
        HostFile::new("/tmp/t-marker", "t-secret"),
        HostFile::new("/run/t-marker", "t-secret"),
        HostFile::new("/etc/ssh/ssh_host_t-test_key", "t-secret"),
        HostFile::new("/etc/ssl/private/t-test.key", "t-secret"),
        HostFile::new("/etc/cron.d/t-test", "0 0 1 1 * root true t-secret\n"),
        HostFile::unit(
            "t-other.service",
            "[Service]\nExecStart=/bin/true t-secret\n",
        ),
        HostFile::link(
            "/etc/systemd/system/multi-user.target.wants/t-other.service",
            "/etc/systemd/system/t-other.service",
        ),
    ];
    for name in ["t-spy", "t-victim"] {
        ok(&["create", "-u", "apache2.service", name]);
    }
    ok(&["start", "t-spy"]);

    let found = inside(
        "t-spy",
        "find / -xdev -name '*t-marker*' -o -name '*t-test*' -o -name 't-other*' -o -name '*t-victim*'; \
        for dir in /etc /var /root /home /srv /run /tmp; do find $dir -name '*t-marker*' -o -name '*t-test*' -o -name 't-other*' -o -name '*t-victim*'; \
        grep -rl t-secret $dir 2>/dev/null; done",
    );
    assert_eq!(found.stdout, "", "{found:?}");

    let shadow = says("t-spy", "cat /etc/shadow /etc/gshadow");
    for line in shadow.lines() {
        let password = line.split(':').nth(1).unwrap();
        let is_locked = password.starts_with(['!', '*']);
        // An empty password in gshadow(5) means that only members may enter the group.
        assert!(
            is_locked || password.is_empty() && line.split(':').count() == 4,
            "{line}"
        );
    }
    for (what, script, expected) in [
        (
            "ssh host keys",
            "ls /etc/ssh | grep -c '^ssh_host.*_key$'",
            "0",
        ),
        (
            "other trees",
            "find /var/lib/libvirt 2>/dev/null | grep -c filesystems/",
            "0",
        ),
        ("file systems to mount", "grep -vc '^#' /etc/fstab", "0"),
        (
            "disks to open",
            "cat /etc/crypttab 2>/dev/null | grep -vc '^#'",
            "0",
        ),
        ("block devices", "find /dev -type b | wc -l", "0"),
        (
            "memory devices",
            "ls /dev/mem /dev/kmsg /dev/port 2>/dev/null | wc -l",
            "0",
        ),
        ("NICs", "ls /sys/class/net | tr '\\n' ' '", "eth0 lo"),
        (
            "processes of the host",
            "ps -e -o comm= | grep -cE 'libvirt|test-harness|cargo'",
            "0",
        ),
        ("the first process", "ps -p 1 -o comm=", "systemd"),
        ("host name", "hostname", "t-spy"),
        (
            "sockets of the host's libvirt",
            "ls /run/libvirt 2>/dev/null | wc -l",
            "0",
        ),
        (
            "failed units",
            "systemctl --failed --no-legend | wc -l",
            "0",
        ),
    ] {
        assert_eq!(inside("t-spy", script).stdout.trim(), expected, "{what}");
    }
    for path in [
        "/usr/t-x",
        "/bin/t-x",
        "/sys/t-x",
        "/proc/sys/kernel/hostname",
    ] {
        let done = inside("t-spy", &format!("echo x > {path}"));
        assert_ne!(done.code, 0, "{path} can be written");
    }
    // Empty directories of the root are the sandbox's own, in memory.
    for path in ["/opt/t-x", "/mnt/t-x", "/t-x"] {
        inside("t-spy", &format!("echo x > {path}"));
        assert!(!Path::new(path).exists(), "{path} of the host is written");
    }
    let done = inside("t-spy", "touch /usr/t-x");
    assert!(done.stderr.contains("Read-only file system"), "{done:?}");
    for (what, script) in [
        ("making a disk", "mknod /tmp/disk b 254 0"),
        ("the clock", "date -s 2001-01-01"),
        ("a signal to the host", "echo h > /proc/sysrq-trigger"),
    ] {
        let done = inside("t-spy", script);
        assert_ne!(done.code, 0, "{what}: {done:?}");
    }

    let id = says("t-spy", "cat /etc/machine-id");
    assert_ne!(
        id,
        fs::read_to_string("/etc/machine-id")
            .unwrap_or_default()
            .trim()
    );
    let uuid = ok(&["inspect", "t-spy"]);
    let uuid = uuid
        .lines()
        .find_map(|line| line.strip_prefix("uuid = "))
        .unwrap();
    assert_eq!(id, uuid.trim_matches('"').replace('-', ""));
    let other = ok(&["inspect", "t-victim"]);
    assert!(!other.contains(uuid), "two sandboxes have one uuid");

    for name in ["t-spy", "t-victim"] {
        ok(&["delete", "--force", name]);
    }
    drop(secrets);
    test.end();
}

#[test]
fn without_a_network_there_is_only_loopback() {
    let Some(test) = Test::begin("without_a_network_there_is_only_loopback") else {
        return;
    };
    ok(&[
        "create",
        "--start",
        "-N",
        "none",
        "--hostname",
        "inner.example.org",
        "-u",
        "apache2.service",
        "t-alone",
    ]);
    assert_eq!(says("t-alone", "ls /sys/class/net"), "lo");
    assert_eq!(says("t-alone", "ip route show | wc -l"), "0");
    assert_eq!(says("t-alone", "hostname"), "inner.example.org");
    let page = says("t-alone", "curl -sS --noproxy '*' http://127.0.0.1/");
    assert!(page.contains("<html"), "{page}");
    ok(&["delete", "--force", "t-alone"]);
    test.end();
}

#[test]
fn root_inside_cannot_make_read_only_mounts_writable() {
    let Some(test) = Test::begin("root_inside_cannot_make_read_only_mounts_writable") else {
        return;
    };
    ok(&[
        "create",
        "--start",
        "-N",
        "none",
        "-u",
        "apache2.service",
        "t-root",
    ]);
    // With `bind`, only the flag of the mount inside changes; nothing is written.
    let open: Vec<&str> = ["/usr", "/proc/sys", "/sys"]
        .into_iter()
        .filter(|path| inside("t-root", &format!("mount -o remount,bind,rw {path}")).code == 0)
        .collect();
    // Root inside may read its own cgroups, but not change them.
    let raised = inside(
        "t-root",
        "mkdir /tmp/g && mount -t cgroup -o memory g /tmp/g && echo -1 > /tmp/g/memory.limit_in_bytes",
    )
    .code
        == 0;
    ok(&["delete", "--force", "t-root"]);
    assert!(
        open.is_empty() && !raised,
        "made writable: {open:?}; limit raised: {raised}"
    );
    test.end();
}

/// Hardening options of units work inside: each of these needs mounts or namespaces.
#[test]
fn a_unit_with_all_hardening_starts_and_stops() {
    let Some(test) = Test::begin("a_unit_with_all_hardening_starts_and_stops") else {
        return;
    };
    let unit = HostFile::unit(
        "t-hard.service",
        "[Service]\nExecStart=sh -c 'ls /proc >%S/t-hard/processes; exec sleep infinity'\nDynamicUser=yes\nStateDirectory=t-hard\n\
         ProtectProc=invisible\nProcSubset=pid\nPrivateNetwork=yes\nPrivateDevices=yes\nPrivateUsers=yes\nPrivateTmp=yes\n\
         PrivateIPC=yes\nProtectSystem=strict\nProtectHome=yes\nProtectKernelTunables=yes\nProtectKernelModules=yes\n\
         ProtectKernelLogs=yes\nProtectControlGroups=yes\nProtectClock=yes\nProtectHostname=yes\n\
         MemoryDenyWriteExecute=yes\nLockPersonality=yes\nNoNewPrivileges=yes\nRestrictNamespaces=yes\nRestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\nRestrictAddressFamilies=AF_UNIX\nSystemCallFilter=@system-service\n\
         SystemCallArchitectures=native\nCapabilityBoundingSet=\nKeyringMode=private\nRemoveIPC=yes\n",
    );
    ok(&["create", "-u", "t-hard.service", "t-hard"]);
    ok(&["start", "t-hard"]);
    let seen = says("t-hard", "cat /var/lib/t-hard/processes");
    assert!(!seen.lines().any(|name| name == "meminfo"), "{seen}");
    assert_eq!(
        says(
            "t-hard",
            "systemctl list-units --failed --plain --no-legend"
        ),
        ""
    );
    ok(&["stop", "t-hard"]);
    let logs = ok(&["logs", "t-hard"]);
    assert!(!logs.contains("Failed to set up"), "{logs}");
    ok(&["delete", "t-hard"]);
    drop(unit);
    test.end();
}
