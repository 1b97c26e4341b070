//! Resource limits that root inside tries to change by creating, naming and moving cgroups.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Test, inside, ok, output, run, says};
use crate::unit;

/// Returns the outermost cgroup of a sandbox in each hierarchy of the host.
fn groups(name: &str) -> Vec<PathBuf> {
    let found = output(
        "find",
        &[
            "/sys/fs/cgroup",
            "-type",
            "d",
            "-name",
            &format!("virt-sandbox-{name}"),
            "-prune",
        ],
    );
    found.lines().map(PathBuf::from).collect()
}

/// Returns each `pids.max` of a sandbox's cgroups and of the two above: with cgroup v2 a cgroup of libvirt's has the limit.
fn most_processes(name: &str) -> Vec<String> {
    let groups = groups(name);
    let with_those_above = groups.iter().flat_map(|group| group.ancestors().take(3));
    with_those_above
        .filter_map(|group| fs::read_to_string(group.join("pids.max")).ok())
        .map(|most| most.trim().to_owned())
        .collect()
}

#[test]
fn cgroups_made_inside_are_bounded_and_change_no_limit() {
    let Some(test) = Test::begin("cgroups_made_inside_are_bounded_and_change_no_limit") else {
        return;
    };
    let unit = unit();
    ok(&["create", "-N", "none", "-u", "t-esc.service", "t-esc"]);
    ok(&["start", "t-esc"]);

    // The default is at most an eighth of `kernel.pid_max`.
    let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let part = (pid_max.trim().parse::<u64>().unwrap() / 8).clamp(256, 16384);
    let most = most_processes("t-esc");
    assert!(most.contains(&part.to_string()), "{part}: {most:?}");

    // Cgroups without end, in number and depth.
    let flood = "cd /sys/fs/cgroup; \
                 for file in cgroup.max.descendants cgroup.max.depth; do \
                     (echo max >$file) 2>/dev/null && echo raised; chmod 666 $file 2>/dev/null && echo opened; \
                 done; \
                 seq -f flood-%.0f 1500 | xargs mkdir 2>&1 | head -1; \
                 ls -d flood-* | wc -l; rmdir flood-*; \
                 deep=deep; while mkdir $deep 2>/dev/null; do deep=$deep/d; done; \
                 echo $deep | tr / '\\n' | wc -l";
    let said = says("t-esc", flood);
    println!("{said}");
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let [error, many, deep] = lines[..] else {
        panic!("{lines:?}");
    };
    assert!(error.contains("temporarily unavailable"), "{error}");
    let [many, deep] = [many, deep].map(|number| number.parse::<u32>().unwrap());
    assert!((500..1024).contains(&many), "{many}");
    assert!((8..=33).contains(&deep), "{deep}");

    // Cgroups with the names of the host's, holding all its processes.
    let nest = "cd /sys/fs/cgroup; own=a/virt-sandbox-t-esc/virt-sandbox-t-esc; mkdir -p $own; \
                for procs in $(find . -name cgroup.procs); do \
                    for pid in $(cat $procs); do echo $pid >$own/cgroup.procs; done; \
                done 2>/dev/null; cat /proc/1/cgroup";
    let nested = says("t-esc", nest);
    println!("{nested}");
    assert!(nested.contains("virt-sandbox-t-esc/virt-sandbox-t-esc"));
    ok(&["set", "t-esc", "pids=300"]);
    let most = most_processes("t-esc");
    assert!(most.contains(&"300".to_owned()), "{most:?}");
    let stats: serde_json::Value =
        serde_json::from_str(&ok(&["stats", "--format", "json", "t-esc"])).unwrap();
    println!("{stats}");
    let processes = stats[0]["processes"].as_u64().unwrap();
    assert!((1..300).contains(&processes), "{stats}");
    // Limits apply to the moved processes, too.
    let forks = "for i in $(seq 400); do sleep 20 & done 2>&1 | head -2; echo ended";
    let forked = inside("t-esc", forks);
    println!("{forked:?}");
    let has_failed = forked.stdout.contains("fork") || forked.stderr.contains("fork");
    assert!(has_failed, "{forked:?}");

    ok(&["delete", "--force", "t-esc"]);
    assert_eq!(groups("t-esc"), [] as [&Path; 0]);
    drop(unit);
    test.end();
}

/// Fills its own sockets, which nobody reads from, until the kernel refuses; prints the number of MiB.
const FILL: &str = "
import socket
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen(500)
kept, sent = [], 0
for _ in range(60):
    one = socket.socket()
    for which in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        one.setsockopt(socket.SOL_SOCKET, which, 4 << 20)
    one.connect(listener.getsockname())
    kept += [one, listener.accept()[0]]
    one.setblocking(False)
    try:
        while True: sent += one.send(b'x' * 65536)
    except BlockingIOError: pass
print(sent >> 20)
";

#[test]
fn socket_buffers_count_against_the_memory_limit() {
    let Some(test) = Test::begin("socket_buffers_count_against_the_memory_limit") else {
        return;
    };
    let unit = unit();
    let create = ["create", "-N", "none", "--memory", "128M"];
    ok(&[&create[..], &["-u", "t-esc.service", "t-esc"]].concat());
    ok(&["start", "t-esc"]);
    let filled = || -> u64 {
        let done = run(&["execute", "t-esc", "--", "python3", "-c", FILL]);
        println!("{done:?}");
        // Where socket buffers count as memory, the process is killed.
        done.stdout.trim().parse().unwrap_or_default()
    };
    let sent = filled();
    assert!(sent < 128, "{sent} MiB of 128");
    ok(&["set", "t-esc", "memory=64M"]);
    let sent = filled();
    assert!(sent < 64, "{sent} MiB of 64");
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}
