//! Changes of limits, also at run time, and statistics.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{HostFile, Test, inside, ok, output, run};
use crate::trees::UNIT;

/// Returns the content of a file in every cgroup of a domain.
fn kernel_says(name: &str, file: &str) -> Vec<String> {
    let all = output("find", &["/sys/fs/cgroup", "-name", file]);
    let of_domain = |path: &&str| {
        path.contains(&format!("{name}.libvirt")) || path.contains(&format!("-{name}/"))
    };
    let mut paths: Vec<PathBuf> = all.lines().filter(of_domain).map(PathBuf::from).collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .collect()
}

#[test]
fn limits_change_at_run_time() {
    let Some(test) = Test::begin("limits_change_at_run_time") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    let create = ["create", "--start", "-N", "none", "--memory", "128M"];
    ok(&[&create[..], &["-u", "t-state.service", "t-set"]].concat());
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let file = |v1: &'static str, v2: &'static str| if is_v2 { v2 } else { v1 };
    let memory = || kernel_says("t-set", file("memory.limit_in_bytes", "memory.max"));
    let quota = || kernel_says("t-set", file("cpu.cfs_quota_us", "cpu.max"));
    assert!(memory().contains(&(128 << 20).to_string()));

    let file_of_config = "/etc/libvirt-sandbox/services/t-set/sandbox.toml";
    let text = fs::read_to_string(file_of_config).unwrap();
    fs::write(file_of_config, format!("# mine\n{text}")).unwrap();
    // Limits may rise above their value at the start.
    let changes = [
        "memory=384M",
        "cpus=2",
        "cpu-quota=50",
        "cpu-shares=512",
        "pids=77",
    ];
    let done = run(&[&["set", "t-set"], &changes[..]].concat());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert!(
        memory().contains(&(384 << 20).to_string()),
        "{:?}",
        memory()
    );
    let is_half = |text: &String| text == "50000" || text == "50000 100000";
    assert!(quota().iter().any(is_half), "{:?}", quota());
    let pids = kernel_says("t-set", "pids.max");
    assert!(pids.contains(&"77".to_owned()), "{pids:?}");
    if !is_v2 {
        assert!(kernel_says("t-set", "cpu.shares").contains(&"512".to_owned()));
    }
    let done = inside(
        "t-set",
        "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i + 1)); done",
    );
    assert_ne!(done.code, 0, "{done:?}");
    let config = fs::read_to_string(file_of_config).unwrap();
    assert!(config.starts_with("# mine\n"), "{config}");
    let config = ok(&["inspect", "t-set"]);
    for line in [
        "memory = \"384M\"",
        "cpus = 2",
        "cpu-quota = 50",
        "pids = 77",
    ] {
        assert!(config.contains(line), "{config}");
    }

    // Limits that need a restart are named; a removed limit returns to its default.
    let done = run(&[
        "set",
        "t-set",
        "cpu-pinning=0",
        "cpu-quota=",
        "cpus=",
        "memory=",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stderr
            .contains("'cpu-pinning' takes effect at the next start"),
        "{done:?}"
    );
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    assert!(
        memory().contains(&(2_u64 << 30).to_string()),
        "{:?}",
        memory()
    );
    assert!(!quota().iter().any(is_half));

    let before = ok(&["inspect", "t-set"]);
    for wrong in ["memory=lots", "colour=red", "cpus=0", "memory"] {
        let done = run(&["set", "t-set", "pids=99", wrong]);
        assert_eq!(done.code, 2, "{wrong}: {done:?}");
    }
    assert_eq!(ok(&["inspect", "t-set"]), before);
    ok(&["stop", "t-set"]);
    ok(&["set", "t-set", "memory=96M"]);
    ok(&["start", "t-set"]);
    assert!(memory().contains(&(96 << 20).to_string()));
    ok(&["delete", "--force", "t-set"]);
    drop(unit);
    test.end();
}

#[test]
fn stats_shows_usage() {
    let Some(test) = Test::begin("stats_shows_usage") else {
        return;
    };
    let unit = HostFile::unit(
        "t-busy.service",
        "[Service]\nExecStart=/bin/sh -c 'while :; do :; done'\n",
    );
    let create = ["create", "--start", "--memory", "256M", "--cpu-quota", "50"];
    ok(&[&create[..], &["-u", "t-busy.service", "t-busy"]].concat());
    let text = ok(&["stats", "--interval", "2", "--format", "json", "t-busy"]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let number = |key: &str| all[0][key].as_f64().unwrap_or(-1.0);
    assert_eq!(all[0]["name"], "t-busy");
    assert!((15.0..75.0).contains(&number("cpu_percent")), "{text}");
    assert!(number("cpu_seconds") > 0.3, "{text}");
    assert!((1e6..256e6 * 1.05).contains(&number("memory")), "{text}");
    assert_eq!(number("memory_limit"), f64::from(256 << 20), "{text}");
    assert!(
        number("net_received") > 0.0 && number("net_sent") > 0.0,
        "{text}"
    );
    assert!((3.0..100.0).contains(&number("processes")), "{text}");
    assert!((1.0..120.0).contains(&number("uptime")), "{text}");
    assert!(ok(&["stats", "--interval", "0.1"]).contains("t-busy"));
    ok(&["stop", "t-busy"]);
    let done = run(&["stats", "t-busy"]);
    assert!(
        done.code == 7 && done.stderr.contains("start t-busy"),
        "{done:?}"
    );
    assert!(!ok(&["stats", "--interval", "0.1"]).contains("t-busy"));
    ok(&["delete", "t-busy"]);
    drop(unit);
    test.end();
}
