//! The life of a sandbox from create to delete, and two sandboxes of one unit.

use std::fs;

use crate::support::{
    HostFile, Test, address, get, in_tree, inside, listed, ok, output, run, run_with_input, says,
};

#[test]
fn a_sandbox_lives_from_create_to_delete() {
    let Some(test) = Test::begin("a_sandbox_lives_from_create_to_delete") else {
        return;
    };
    ok(&["create", "-u", "apache2.service", "t-web"]);
    let one = listed("t-web").unwrap();
    assert_eq!(one["state"], "stopped");
    assert_eq!(one["addresses"], serde_json::json!([]));
    ok(&["start", "t-web"]);
    assert_eq!(listed("t-web").unwrap()["state"], "running");
    let url = format!("http://{}/", address("t-web"));
    assert!(get(&url).stdout.contains("<html"), "{:?}", get(&url));

    assert!(ok(&["list"]).contains("t-web"));
    assert!(ok(&["list", "--running"]).contains("t-web"));
    let status = ok(&["status", "t-web"]);
    assert!(status.contains("active (running)"), "{status}");
    let config = ok(&["inspect", "t-web"]);
    assert!(config.contains("apache2.service"), "{config}");
    let both: serde_json::Value =
        serde_json::from_str(&ok(&["inspect", "--format", "json", "t-web"])).unwrap();
    assert_eq!(both["state"], "running");
    assert_eq!(both["config"]["name"], "t-web");
    let logs = ok(&["logs", "t-web"]);
    assert!(logs.contains("Started apache2.service"), "{logs}");
    assert_eq!(ok(&["logs", "-n", "1", "t-web"]).lines().count(), 1);

    // Commands and units know their domain.
    let uuid = both["config"]["uuid"].as_str().unwrap();
    let domain = format!("LIBVIRT_LXC_NAME=t-web\nLIBVIRT_LXC_UUID={uuid}");
    assert_eq!(says("t-web", "env | grep ^LIBVIRT | sort"), domain);
    let of_units = says("t-web", "systemctl show-environment | grep ^LIBVIRT");
    assert_eq!(of_units, domain);

    // Data of the service is kept across a restart.
    says("t-web", "echo kept > /var/www/html/kept");
    ok(&["stop", "t-web"]);
    assert_eq!(listed("t-web").unwrap()["state"], "stopped");
    assert!(!ok(&["list", "--running"]).contains("t-web"));
    assert!(ok(&["logs", "t-web"]).contains("Started apache2.service"));
    // Stopping a stopped sandbox succeeds.
    ok(&["stop", "t-web"]);
    ok(&["start", "t-web"]);
    assert_eq!(
        get(&format!("http://{}/kept", address("t-web"))).stdout,
        "kept\n"
    );

    let master = || says("t-web", "systemctl show -P MainPID apache2.service");
    let before = (
        says("t-web", "cat /proc/sys/kernel/random/boot_id"),
        master(),
    );
    ok(&["reload", "t-web"]);
    assert_eq!(master(), before.1, "a reload keeps the process");
    ok(&["restart", "t-web"]);
    assert!(
        !get(&format!("http://{}/", address("t-web")))
            .stdout
            .is_empty()
    );

    ok(&["stop", "t-web"]);
    let said = ok(&["logs", "t-web"]);
    assert!(said.contains("Stopped apache2.service"), "{said}");
    assert!(!said.contains("Failed unmounting"), "{said}");
    ok(&["delete", "t-web"]);
    assert_eq!(listed("t-web"), None);
    test.end();
}

#[test]
fn execute_behaves_like_a_command_on_the_host() {
    let Some(test) = Test::begin("execute_behaves_like_a_command_on_the_host") else {
        return;
    };
    ok(&[
        "create",
        "--start",
        "-N",
        "none",
        "-u",
        "apache2.service",
        "t-exec",
    ]);
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -KILL $$", 128 + 9),
        ("kill -TERM $$", 128 + 15),
        ("exec /nonexistent", 127),
    ] {
        assert_eq!(inside("t-exec", script).code, code, "{script}");
    }
    let command = |arguments: &[&str]| run(&[&["execute"], arguments].concat());
    assert_eq!(command(&["t-exec", "--", "no-such-program"]).code, 127);
    assert_eq!(command(&["t-exec", "--", "/etc/passwd"]).code, 126);
    assert_eq!(command(&["t-none", "--", "true"]).code, 125);
    let echoed = run_with_input(&["execute", "t-exec", "--", "cat"], "hi\n");
    assert_eq!((echoed.code, echoed.stdout.as_str()), (0, "hi\n"));
    let parted = inside("t-exec", "echo out; echo err >&2");
    assert_eq!(
        (parted.stdout.as_str(), parted.stderr.as_str()),
        ("out\n", "err\n")
    );
    let as_user = command(&[
        "-u",
        "www-data",
        "-w",
        "/tmp",
        "-e",
        "A=b c",
        "t-exec",
        "--",
        "sh",
        "-c",
        "echo $(id -un) $(pwd) $A",
    ]);
    assert_eq!(as_user.stdout, "www-data /tmp b c\n", "{as_user:?}");
    let shell = run_with_input(&["connect", "t-exec"], "echo sum-$((1 + 1))\nexit 5\n");
    assert!(shell.stdout.contains("sum-2"), "{shell:?}");
    assert_eq!(shell.code, 5);
    ok(&["delete", "--force", "t-exec"]);
    test.end();
}

#[test]
fn two_sandboxes_of_a_unit_share_nothing() {
    let Some(test) = Test::begin("two_sandboxes_of_a_unit_share_nothing") else {
        return;
    };
    let before = host_copy();
    for name in ["t-red", "t-blue"] {
        ok(&["create", "-u", "apache2.service", name]);
        fs::write(in_tree(name, "var/www/html/index.html"), name).unwrap();
        ok(&["start", name]);
    }
    assert_ne!(address("t-red"), address("t-blue"));
    for name in ["t-red", "t-blue"] {
        assert_eq!(get(&format!("http://{}/", address(name))).stdout, name);
    }
    // They reach each other over the network.
    let blue = format!("http://{}/", address("t-blue"));
    assert_eq!(
        says(
            "t-red",
            &format!("curl -sS --max-time 10 --noproxy '*' {blue}")
        ),
        "t-blue"
    );
    says(
        "t-red",
        "echo '# mine' >> /etc/apache2/apache2.conf; rm -r /var/www/html",
    );
    ok(&["stop", "t-red"]);
    assert_eq!(get(&blue).stdout, "t-blue");
    for name in ["t-red", "t-blue"] {
        ok(&["delete", "--force", name]);
    }
    assert_eq!(host_copy(), before, "the host's own files were changed");
    test.end();
}

/// Returns names, owners, modes, times and content of the service's files on the host.
fn host_copy() -> String {
    let script = "find /etc/apache2 /var/www /var/log/apache2 -printf '%p %m %u %g %T@ %C@ %s\\n' | sort; \
                  find /etc/apache2 /var/www -type f -print0 | sort -z | xargs -0 sha256sum";
    output("sh", &["-c", script])
}

/// Network without a DHCP server.
struct SilentNetwork;

impl SilentNetwork {
    const NAME: &str = "t-silent";

    fn new() -> Self {
        let xml = "<network><name>t-silent</name><bridge name='t-silent'/></network>";
        let file = HostFile::new("/run/t-silent.xml", xml);
        output("virsh", &["net-create", "/run/t-silent.xml"]);
        drop(file);
        Self
    }
}

impl Drop for SilentNetwork {
    fn drop(&mut self) {
        output("virsh", &["net-destroy", Self::NAME]);
    }
}

#[test]
fn start_names_the_nic_that_got_no_address() {
    let Some(test) = Test::begin("start_names_the_nic_that_got_no_address") else {
        return;
    };
    let network = SilentNetwork::new();
    let source = format!("dhcp,source={}", SilentNetwork::NAME);
    let nics = ["-N", "dhcp", "-N", source.as_str()];
    ok(&[
        &["create"][..],
        &nics,
        &["t-silent", "--", "/usr/bin/sleep", "infinity"],
    ]
    .concat());
    let started = run(&["-v", "start", "t-silent"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    let warnings: Vec<&str> = (started.stderr.lines())
        .filter(|line| line.contains("no DHCP server answered"))
        .collect();
    assert_eq!(warnings.len(), 1, "{}", started.stderr);
    let said = "'t-silent' waits for its boot";
    assert!(started.stderr.contains(said), "{}", started.stderr);
    assert!(warnings[0].contains("'t-silent': asking for an address on eth1"));
    ok(&["delete", "--force", "t-silent"]);
    drop(network);
    test.end();
}
