//! Limits in the kernel, and a static address.

use std::fs;
use std::path::{Path, PathBuf};

use virt_sandbox::sys::process::first_process::{Stage, find};

use crate::support::{HostFile, Test, address, get, inside, ok, output, run, says, subnet};

const SLEEPER: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

/// Returns the content of the file `v1`, or `v2` on a unified hierarchy, in the cgroups of a process and those above.
fn kernel_says(pid: &str, controller: &str, v1: &str, v2: &str) -> Vec<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mut found = Vec::new();
    for line in groups.lines() {
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        let (root, file) = match fields[1] {
            "" if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => {
                (PathBuf::from("/sys/fs/cgroup"), v2)
            }
            names if names.split(',').any(|name| name == controller) => {
                (Path::new("/sys/fs/cgroup").join(controller), v1)
            }
            _ => continue,
        };
        let group = root.join(fields[2].trim_start_matches('/'));
        for dir in group.ancestors().take_while(|dir| dir.starts_with(&root)) {
            if let Ok(text) = fs::read_to_string(dir.join(file)) {
                found.push(text.trim().to_owned());
            }
        }
    }
    found
}

#[test]
fn limits_are_set_in_the_kernel() {
    let Some(test) = Test::begin("limits_are_set_in_the_kernel") else {
        return;
    };
    let unit = HostFile::unit("t-sleep.service", SLEEPER);
    let limits = ["--memory", "256M", "--cpus", "1", "--pids", "64"];
    let create = [
        "create",
        "--start",
        "-N",
        "none",
        "-u",
        "t-sleep.service",
        "t-small",
    ];
    ok(&[&create[..], &limits].concat());
    // The domain id of a container is the pid of its controller.
    let controller = output("virsh", &["--quiet", "domid", "t-small"]);
    let controller = controller.trim();
    let controller: u32 = controller.parse().unwrap();
    let stage = Path::new("/var/lib/libvirt-sandbox").join("t-small");
    let Stage::Runs(first) = find(controller, &stage).unwrap() else {
        panic!("it does not run");
    };
    let pid = &first.process.pid().to_string();

    let memory = kernel_says(pid, "memory", "memory.limit_in_bytes", "memory.max");
    assert!(memory.contains(&(256 << 20).to_string()), "{memory:?}");
    let quota = kernel_says(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    let period = kernel_says(pid, "cpu", "cpu.cfs_period_us", "cpu.max");
    let is_one = quota.iter().zip(&period).any(|(quota, period)| {
        // "QUOTA PERIOD" in one file of cgroup v2.
        quota == period && !quota.contains(' ')
            || quota
                .split_once(' ')
                .is_some_and(|(quota, period)| quota == period)
    });
    assert!(is_one, "{quota:?} of {period:?}");
    let pids = kernel_says(pid, "pids", "pids.max", "pids.max");
    assert!(pids.contains(&"64".to_owned()), "{pids:?}");

    let done = inside(
        "t-small",
        "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i + 1)); done",
    );
    assert_ne!(done.code, 0, "{done:?}");
    assert!(done.stderr.to_lowercase().contains("fork"), "{done:?}");
    // 300 MB in a tmpfs, which counts as memory.
    let done = inside(
        "t-small",
        "head -c 300000000 /dev/zero | tail -c 290000000 | wc -c",
    );
    assert_ne!(done.stdout.trim(), "290000000", "{done:?}");
    ok(&["delete", "--force", "t-small"]);
    drop(unit);
    test.end();
}

#[test]
fn a_static_address_can_be_reached() {
    let Some(test) = Test::begin("a_static_address_can_be_reached") else {
        return;
    };
    let net = subnet();
    let nic = format!("source=default,address={net}.77/24,route=0.0.0.0/0%{net}.1");
    ok(&[
        "create",
        "--start",
        "-N",
        &nic,
        "-u",
        "apache2.service",
        "t-fixed",
    ]);
    assert_eq!(address("t-fixed"), format!("{net}.77"));
    assert!(get(&format!("http://{net}.77/")).stdout.contains("<html"));
    let route = says("t-fixed", "ip -4 route show default");
    assert!(route.contains(&format!("via {net}.1 ")), "{route}");
    ok(&["delete", "--force", "t-fixed"]);
    for wrong in [
        "source=default,address=999.1.1.1/24",
        "source=default,address=192.0.2.1/33",
        "source=default,route=10.0.0.0/8",
        "source=default,mac=zz:00:00:00:00:00",
    ] {
        let done = run(&["create", "-N", wrong, "-u", "apache2.service", "t-wrong"]);
        assert_ne!(done.code, 0, "{wrong}: {done:?}");
    }
    test.end();
}
