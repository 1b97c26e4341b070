//! Imports of untrusted archives: an import and later upgrades take nothing of the host that the administrator did not name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{HostFile, Test, finish, in_tree, ok, output, run};

/// Content of the host's secret files.
const MARKER: &str = "t-archives-secret-of-the-host";

const UNIT: &str = "[Service]\nEnvironmentFile=-/etc/t-archive/open.env\nEnvironmentFile=-/etc/t-archive/secret.env\n\
                    EnvironmentFile=-/etc/t-archive/shut/in.env\nExecStart=/bin/sleep infinity\n";

/// Writes the archive `good.tar` of `dir` again as `bad.tar`, with `lines` put first in its `sandbox.toml`.
fn claim(dir: &Path, lines: &str) {
    let script = r#"
import io, sys, tarfile
top, lines = sys.argv[1], sys.argv[2]
with tarfile.open(top + '/good.tar') as old, tarfile.open(top + '/bad.tar', 'w') as new:
    for member in old:
        content = old.extractfile(member).read() if member.isreg() else None
        if member.name == 'virt-sandbox/sandbox.toml':
            keys = [line.split('=')[0].strip().split('.')[0] for line in lines.splitlines()]
            kept = [line for line in content.decode().splitlines() if line.split('=')[0].strip('[] ') not in keys]
            content = (lines + '\n' + '\n'.join(kept) + '\n').encode()
            member.size = len(content)
        new.addfile(member, io.BytesIO(content) if content is not None else None)
"#;
    output("python3", &["-c", script, dir.to_str().unwrap(), lines]);
}

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Lists the files of a sandbox's tree and records that contain the marker.
fn found(name: &str) -> String {
    let mut grep = Command::new("grep");
    let records = Path::new("/etc/libvirt-sandbox/services").join(name);
    grep.args(["-rla", "--", MARKER])
        .args([in_tree(name, ""), records]);
    finish(grep, "").stdout
}

#[test]
fn upgrades_bring_no_host_secrets_to_an_imported_sandbox() {
    let Some(test) = Test::begin("upgrades_bring_no_host_secrets_to_an_imported_sandbox") else {
        return;
    };
    let unit = HostFile::unit("t-esc-archive.service", UNIT);
    let create = ["create", "-N", "none", "-u", "t-esc-archive.service"];
    ok(&[&create[..], &["t-esc"]].concat());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    ok(&["export", "t-esc", "-o", &path("good.tar")]);
    ok(&["delete", "t-esc"]);
    // Files that the host has by then: one that everybody may read, and three that only root may read.
    let open = HostFile::new("/etc/t-archive/open.env", "OPEN=1\n");
    let secret = HostFile::new("/etc/t-archive/secret.env", MARKER);
    let shut = HostFile::new("/etc/t-archive/shut/in.env", MARKER);
    set_mode("/etc/t-archive/secret.env", 0o600);
    set_mode("/etc/t-archive/shut", 0o700);
    let upgraded = |name: &str, words: &[&str]| ok(&[&["upgrade", name], words].concat());

    ok(&["import", &path("good.tar")]);
    let told = upgraded("t-esc", &[]);
    assert!(
        in_tree("t-esc", "etc/t-archive/open.env").exists(),
        "{told}"
    );
    assert!(
        told.contains("withheld  /etc/t-archive/secret.env"),
        "{told}"
    );
    assert_eq!(found("t-esc"), "");
    // A clone gets none either, and neither does the next upgrade.
    ok(&["clone", "t-esc", "t-esc2"]);
    ok(&["rename", "t-esc2", "t-esc3"]);
    ok(&["export", "t-esc3", "-o", &path("again.tar")]);
    ok(&["delete", "t-esc3"]);
    ok(&["import", &path("again.tar")]);
    ok(&["upgrade", "--all"]);
    for name in ["t-esc", "t-esc3"] {
        upgraded(name, &[]);
        ok(&["upgrade", "--dry-run", name]);
        assert_eq!(found(name), "", "{name}");
    }
    // The sandbox's own file at such a path stays.
    let own = in_tree("t-esc", "etc/t-archive/secret.env");
    fs::write(&own, "mine").unwrap();
    upgraded("t-esc", &[]);
    assert_eq!(fs::read_to_string(&own).unwrap(), "mine");
    fs::remove_file(&own).unwrap();

    // One upgrade with --trust brings it.
    upgraded("t-esc", &["--trust"]);
    assert_eq!(fs::read_to_string(&own).unwrap(), MARKER);
    ok(&["delete", "t-esc"]);
    ok(&["import", "--trust=units", &path("good.tar")]);
    upgraded("t-esc", &[]);
    assert_eq!(fs::read_to_string(&own).unwrap(), MARKER);
    // A sandbox that was created on this host gets everything that its units name.
    ok(&[&create[..], &["t-esc4"]].concat());
    assert!(!found("t-esc4").is_empty());
    upgraded("t-esc4", &[]);
    assert!(!found("t-esc4").is_empty());
    for name in ["t-esc", "t-esc3", "t-esc4"] {
        ok(&["delete", name]);
    }
    drop((unit, shut, secret, open));
    test.end();
}

#[test]
fn imports_take_nothing_of_the_host_without_trust() {
    let Some(test) = Test::begin("imports_take_nothing_of_the_host_without_trust") else {
        return;
    };
    let unit = HostFile::unit("t-esc-archive.service", UNIT);
    ok(&[
        "create",
        "-N",
        "none",
        "-u",
        "t-esc-archive.service",
        "t-esc",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    ok(&["export", "t-esc", "-o", &path("good.tar")]);
    ok(&["delete", "t-esc"]);
    let bad = path("bad.tar");
    for (lines, kind, names) in [
        ("networks = ['dhcp,direct=lo']", "networks", "direct=lo"),
        (
            "networks = ['dhcp,bridge=virbr0']",
            "networks",
            "bridge=virbr0",
        ),
        (
            "networks = ['dhcp,source=other']",
            "networks",
            "source=other",
        ),
        (
            "networks = ['address=192.0.2.1/24']",
            "networks",
            "192.0.2.1",
        ),
        ("publish = ['80:80']", "ports", "80:80"),
        (
            "publish = ['127.0.0.1:5432:80']\non-demand = true",
            "ports",
            "5432",
        ),
        ("packages = ['apache2']", "units", "package apache2"),
        ("mounts = ['host-bind:/x=/etc,ro']", "mounts", "/etc"),
        ("devices = ['/dev/kvm']", "devices", "/dev/kvm"),
        ("resources.pids = 4000000", "limits", "4000000"),
    ] {
        claim(dir.path(), lines);
        let done = run(&["import", &bad]);
        assert_eq!(done.code, 1, "{lines}: {done:?}");
        let flag = format!("--trust={kind} ");
        for word in [names, flag.as_str()] {
            assert!(done.stderr.contains(word), "{lines}: {word}: {done:?}");
        }
        assert!(!in_tree("t-esc", "").exists(), "{lines}");
        assert!(!Path::new("/etc/libvirt-sandbox/services/t-esc").exists());
    }
    // Mounts that the administrator names are taken. The host's identity never is.
    let machine_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let uuid = match machine_id.trim() {
        "" => "00000000000000000000000000000000",
        id => id,
    };
    claim(
        dir.path(),
        &format!("networks = ['dhcp,direct=lo']\nuuid = '{uuid}'"),
    );
    ok(&["import", "-N", "none", &bad]);
    let config = ok(&["inspect", "t-esc"]);
    assert!(config.contains("networks = []"), "{config}");
    let plain = config.replace('-', "");
    assert!(!plain.contains(uuid), "{config}");
    ok(&["delete", "t-esc"]);
    claim(dir.path(), "publish = ['127.0.0.1:5432:80']");
    for trust in ["--trust", "--trust=all", "--trust=mounts,ports"] {
        ok(&["import", trust, &bad]);
        ok(&["delete", "t-esc"]);
    }
    drop(unit);
    test.end();
}

/// A link in place of a mounted directory would give the sandbox the link's target: a container the staging root,
/// a machine any directory of the host.
#[test]
fn imports_refuse_links_in_place_of_top_directories() {
    let Some(test) = Test::begin("imports_refuse_links_in_place_of_top_directories") else {
        return;
    };
    let unit = HostFile::unit("t-esc-archive.service", UNIT);
    let create = ["create", "-N", "none", "-u", "t-esc-archive.service"];
    ok(&[&create[..], &["t-esc"]].concat());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    ok(&["export", "t-esc", "-o", &path("good.tar")]);
    ok(&["delete", "t-esc"]);
    let script = r#"
import sys, tarfile
top, name, target = sys.argv[1:]
with tarfile.open(top + '/good.tar') as old, tarfile.open(top + '/bad.tar', 'w') as new:
    for member in old:
        if member.name == name and target:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            new.addfile(link)
        elif member.name != name and not member.name.startswith(name + '/'):
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
"#;
    for (name, target) in [
        ("tree/srv", ".."),
        ("tree/srv", "/"),
        ("tree/home", "."),
        ("tree/var", "/etc"),
        ("tree/home", ""),
    ] {
        let words = ["-c", script, dir.path().to_str().unwrap(), name, target];
        output("python3", &words);
        let done = run(&["import", &path("bad.tar")]);
        assert!(
            done.code != 0 && done.stderr.contains("no directory"),
            "{name} {target}: {done:?}"
        );
        assert!(
            !Path::new(&in_tree("t-esc", "")).exists(),
            "{name} {target}"
        );
    }
    // A tree that an earlier version imported.
    ok(&["import", &path("good.tar")]);
    let srv = in_tree("t-esc", "srv");
    fs::rename(&srv, in_tree("t-esc", "aside")).unwrap();
    std::os::unix::fs::symlink("..", &srv).unwrap();
    let started = run(&["start", "t-esc"]);
    assert!(
        started.code != 0 && started.stderr.contains("not a directory"),
        "{started:?}"
    );
    fs::remove_file(&srv).unwrap();
    fs::rename(in_tree("t-esc", "aside"), &srv).unwrap();
    ok(&["start", "t-esc"]);
    ok(&["stop", "t-esc"]);
    ok(&["delete", "t-esc"]);
    drop(unit);
    test.end();
}
