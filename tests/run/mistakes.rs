//! Wrong command lines, and `--dry-run`.

use std::fs;
use std::process::Command;

use test_harness::host;

use crate::support::{Test, program};

cases! {
    every:
        invalid_arguments_are_refused,
        arguments_that_cannot_work_are_refused,
        a_dry_run_only_prints_the_plan;
}

/// Wrong command lines, each with a part of its error message.
const REFUSED: &[(&[&str], &str)] = &[
    (&["--no-such-option"], "--no-such-option"),
    (&["-m", "wat:/mnt=/x"], "'wat' is not a type of mount"),
    (&["-m", "r:/mnt=1M"], "'r' is not a type of mount"),
    (&["-m", ":/mnt=/x"], "not a type of mount"),
    (&["-m", "/mnt=/x"], "is not a mount"),
    (&["-m", "host-bind:/mnt"], "is not a mount"),
    (&["-m", "host-bind:mnt=/x"], "absolute"),
    (
        &["-m", "host-bind:/proc=/x"],
        "nothing can be mounted on '/proc'",
    ),
    (&["-m", "host-bind:/a/../b=/x"], "/a/../b"),
    (&["-m", "host-bind:/mnt=/x,wat"], "'wat' is not an option"),
    (&["-m", "host-image:/mnt=/x,format=wat"], "'wat'"),
    (
        &["-m", "host-image:/mnt=/x,partition=0"],
        "'0' is not the number of a partition",
    ),
    (&["-m", "host-image:/mnt="], "has no source"),
    (&["-m", "ram:/=1M"], "nothing can be mounted on '/'"),
    (&["-m", "ram:/mnt=10MB"], "10MB"),
    (&["-m", "ram:/mnt=-1"], "-1"),
    (&["-m", "ram:/mnt=99999999999G"], "99999999999G"),
    (&["-i", "relative"], "absolute"),
    (&["-i", "/a=/b=/c"], "is not an include"),
    (&["--disk", "wat:a=/x"], "'wat' is not a type of disk"),
    (&["--disk", "file:a/b=/x"], "is not the tag of a disk"),
    (&["--disk", "file:a=/x,wat"], "'wat' is not an option"),
    (&["-N", "dhcp,dhcp=x"], "'dhcp=x'"),
    (&["-N", "dhcp,dhcp"], "'dhcp' is given twice"),
    (&["-N", ""], "''"),
    (&["-N", "dhcp,"], "''"),
    (&["-N", "address=192.0.2.300"], "192.0.2.300"),
    (&["-N", "address=2001:db8::g"], "2001:db8::g"),
    (&["-N", "address=192.0.2.7/33"], "33"),
    (&["-N", "address=192.0.2.7%192.0.2.x"], "192.0.2.x"),
    (&["-N", "dhcp,mac=52:54:00:00:00"], "52:54:00:00:00"),
    (&["-N", "dhcp,mac=ff:ff:ff:ff:ff:ff"], "ff:ff:ff:ff:ff:ff"),
    (&["-N", "dhcp,mac=wat"], "wat"),
    (
        &["-N", "address=192.0.2.7,route=192.0.2.x%192.0.2.1"],
        "192.0.2.x",
    ),
    (
        &["-N", "address=192.0.2.7,route=198.51.100.0/24"],
        "198.51.100.0/24",
    ),
    (
        &["-N", "route=198.51.100.0/24%192.0.2.1"],
        "a route needs an address",
    ),
    (
        &["-N", "dhcp,route=198.51.100.0/24%192.0.2.1"],
        "dhcp and route exclude each other",
    ),
    (
        &["-N", "dhcp,address=192.0.2.7"],
        "dhcp and address exclude each other",
    ),
    (
        &["-N", "address=192.0.2.7,dhcp"],
        "dhcp and address exclude each other",
    ),
    (
        &["-N", "dhcp,filter.ip=192.0.2.7"],
        "filter parameters need filter=",
    ),
    (&["-N", "dhcp,filter=a,filter.ip"], "filter.ip"),
    (&["-N", "dhcp,source=a,bridge=b"], "one of source="),
    (&["-s", "wat"], "'wat' is not a security option"),
    (&["-s", "dynamic,garbage"], "is not a security option"),
    (
        &["-s", "dynamic,labell=system_u:system_r:svirt_t:s0"],
        "is not a security option",
    ),
    (&["-s", "static"], "static,label=LABEL"),
    (&["-e", "=x"], "no name before '='"),
    (&["-e", "NO_SUCH_VARIABLE"], "'NO_SUCH_VARIABLE'"),
    (&["-n", "a/b"], "a/b"),
    (&["--hostname", "a b"], "a b"),
    (&["--timeout", "0"], "'0' is not a number of seconds"),
    (&["--timeout", "wat"], "'wat' is not a number of seconds"),
    (&["--escape", "ab"], "'ab'"),
    (&["--memory", "wat"], "wat"),
    (&["--cpus", "0"], "0"),
    (&["--publish", "wat"], "wat"),
    (
        &["--virt-type", "wat"],
        "'wat' is not a type of virtual machine",
    ),
];

fn invalid_arguments_are_refused(test: &Test) {
    for (options, what) in REFUSED {
        let mut arguments = options.to_vec();
        arguments.extend(["--", "true"]);
        let said = test.refusal_of_usage(&arguments);
        let line = said.lines().next().unwrap();
        assert!(line.contains(what), "{options:?}: {line}");
    }
    assert!(test.refusal_of_usage(&[]).contains("COMMAND"));
}

fn arguments_that_cannot_work_are_refused(test: &Test) {
    for (options, what) in [
        (&["-N", "none", "-N", "dhcp"][..], "exclude each other"),
        (&["-m", "host-bind:/mnt=/no/such/place"], "/no/such/place"),
        (
            &["-m", "host-bind:/=/usr", "--root", "/usr"],
            "more than once",
        ),
        (&["--cpu-pinning", "4000"], "CPU 4000"),
        (&["--numa-nodes", "77"], "NUMA node 77"),
        (&["--io-write", "/dev/null=1M"], "no block device"),
        (&["--net-receive", "1M"], "'net-receive'"),
        (&["--root", "/etc/passwd"], "is not a directory"),
        (&["--root", "/no/such/place"], "/no/such/place"),
        (&["-I", "/no/such/place"], "/no/such/place"),
        (&["-c", "lxc://elsewhere/"], "another host"),
        (&["-c", "wat"], "is not a libvirt connection"),
        (&["-c", "xen:///system"], "runs no sandboxes"),
    ] {
        let mut arguments = options.to_vec();
        arguments.extend(["--", "true"]);
        // The connection may be given only once.
        let line = match options[0] {
            "-c" => {
                let mut command = Command::new(program());
                command.args(&arguments);
                let done = host::finish(command, b"").unwrap();
                assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{done:?}");
                done.stderr
            }
            _ => test.refusal(&arguments),
        };
        assert!(line.contains(what), "{options:?}: {line}");
    }
}

fn a_dry_run_only_prints_the_plan(test: &Test) {
    let image = test.file("image", vec![0; 1 << 20]);
    let before = fs::metadata(&image).unwrap().modified().unwrap();
    let disk = format!("file:a={image}");
    for option in ["--print-xml", "--dry-run"] {
        let mut command = test.command();
        command.args([
            option,
            "-m",
            "host-bind:/mnt=",
            "-m",
            "ram:/srv=1M",
            "--disk",
            &disk,
            "-N",
            "none",
        ]);
        command.args(["--", "touch", &image]);
        let done = host::finish(command, b"").unwrap();
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
        assert!(done.stdout.starts_with("<domain "), "{done:?}");
        assert_eq!(
            done.stdout.contains("\"argv\""),
            option == "--dry-run",
            "{done:?}"
        );
    }
    assert_eq!(fs::metadata(&image).unwrap().modified().unwrap(), before);
    test.assert_clean();
}
