//! Secrets given to a sandbox: the workload has them, and nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use test_harness::libvirtd::qemu_uri;

use crate::support::{Test, eventually, finish, in_tree, ok, output, program, run, says};

/// The value of a variable, and the content of a credential.
const VARIABLE: &str = "t-secrets-variable \"$x\" \\ 'y'";
const CREDENTIAL: &str = "t-secrets-credential";
/// Prefix that both secrets share.
const MARKER: &str = "t-secrets-";

/// Files of root's with secrets.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write(
            "env",
            &format!("# comment\n\nPASSWORD='{}'\n", VARIABLE.replace('\'', "")),
        );
        files.write("credential", &format!("{CREDENTIAL}\n\0"));
        files
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn credential(&self) -> String {
        format!("db:{}", self.path("credential"))
    }
}

/// Lists files of the host that contain the marker and that an ordinary user can read.
fn seen_by_nobody() -> String {
    let mut grep = Command::new("setpriv");
    let who = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    grep.args(who).args(["grep", "-rlas", "--", MARKER]).args([
        "/etc/libvirt-sandbox",
        "/etc/systemd/system",
        "/var/lib/libvirt-sandbox",
        "/var/lib/virt-sandbox",
        "/var/log/libvirt",
        "/run/libvirt-sandbox",
        "/run/systemd/system",
    ]);
    finish(grep, "").stdout
}

/// Lists processes of the host that have the marker among their arguments.
fn in_arguments() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(MARKER))
        .collect()
}

/// Runs a command in a sandbox created with the options of `driver`, and searches for its secrets.
fn secrets_are_kept(driver: &[&str]) {
    let files = Files::new();
    let program = "cat $CREDENTIALS_DIRECTORY/db > /srv/credential; \
                   printf '%s' \"$PASSWORD\" > /srv/variable; exec sleep infinity";
    let create = [
        "create",
        "-N",
        "none",
        "--env-file",
        &files.path("env"),
        "--credential",
        &files.credential(),
        "t-esc",
        "--",
        "sh",
        "-c",
        program,
    ];
    ok(&[driver, &create].concat());
    ok(&["start", "t-esc"]);
    let has = |name: &str| says("t-esc", &format!("cat /srv/{name} | tr -d '\\0'"));
    eventually("the command has its variable", || {
        has("variable") == VARIABLE.replace('\'', "")
    });
    assert_eq!(has("credential"), CREDENTIAL);
    // Nobody on the host has them,
    assert_eq!(seen_by_nobody(), "");
    for words in [
        &["inspect", "t-esc"][..],
        &["inspect", "--format", "json", "t-esc"],
        &["list"],
        &["list", "--format", "json"],
        &["status", "t-esc"],
        &["status", "--format", "json", "t-esc"],
        &["security", "t-esc"],
        &["logs", "t-esc"],
    ] {
        let done = run(words);
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(!said.contains(MARKER), "{words:?}: {said}");
    }
    let shown = ok(&["inspect", "t-esc"]);
    assert!(
        shown.contains("PASSWORD") && shown.contains(&files.credential()),
        "{shown}"
    );
    assert!(ok(&["inspect", "--show-secrets", "t-esc"]).contains("t-secrets-variable"));
    let uri = ok(&["inspect", "t-esc"]);
    let uri = uri
        .lines()
        .find_map(|line| line.strip_prefix("connection = \""))
        .unwrap();
    let xml = output(
        "virsh",
        &["-c", uri.trim_end_matches('"'), "dumpxml", "t-esc"],
    );
    assert!(!xml.contains(MARKER), "{xml}");
    // and no other user inside.
    let other = "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'systemctl show virt-sandbox-command.service; \
                 cat /run/systemd/system/virt-sandbox-command.service /run/virt-sandbox/command.env \
                 /run/virt-sandbox/credentials/db /run/credentials/*/db' 2>&1; true";
    let said = says("t-esc", other);
    assert!(
        said.contains("/run/virt-sandbox/command.env") && !said.contains(MARKER),
        "{said}"
    );
    // Another unit of the sandbox loads it by name.
    let loaded = "systemd-run --quiet --wait --pipe -p LoadCredential=db:db sh -c 'cat $CREDENTIALS_DIRECTORY/db' | tr -d '\\0'";
    assert_eq!(says("t-esc", loaded), CREDENTIAL);

    // The file is read at every start, and no file of the stopped sandbox contains it.
    ok(&["stop", "t-esc"]);
    for place in [
        "/var/lib/libvirt-sandbox/t-esc",
        "/etc/libvirt-sandbox/services/t-esc",
    ] {
        let mut grep = Command::new("grep");
        grep.args(["-rlas", "--", CREDENTIAL, place]);
        assert_eq!(finish(grep, "").stdout, "", "{place}");
    }
    fs::remove_file(in_tree("t-esc", "srv/credential")).ok();
    files.write("credential", "t-secrets-new");
    ok(&["start", "t-esc"]);
    eventually("the new one is there", || {
        has("credential") == "t-secrets-new"
    });
    ok(&["stop", "t-esc"]);
    fs::remove_file(files.path("credential")).unwrap();
    let refused = run(&["start", "t-esc"]);
    assert!(
        refused.code == 1 && refused.stderr.contains(&files.credential()),
        "{refused:?}"
    );
    ok(&["delete", "--force", "t-esc"]);
}

#[test]
fn secrets_of_a_container_are_private() {
    let Some(test) = Test::begin("secrets_of_a_container_are_private") else {
        return;
    };
    secrets_are_kept(&[]);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn secrets_of_a_machine_are_private() {
    let Some(test) = Test::begin("secrets_of_a_machine_are_private") else {
        return;
    };
    secrets_are_kept(&["-c", &qemu_uri().unwrap()]);
    test.end();
}

#[test]
fn host_processes_have_no_secrets_in_their_arguments() {
    let Some(test) = Test::begin("host_processes_have_no_secrets_in_their_arguments") else {
        return;
    };
    let files = Files::new();
    ok(&[
        "create", "-N", "none", "--start", "t-esc", "--", "sleep", "infinity",
    ]);
    let mut child = program()
        .args([
            "execute",
            "--env-file",
            &files.path("env"),
            "-e",
            "B=2",
            "t-esc",
            "--",
        ])
        .args([
            "sh",
            "-c",
            "printf '%s' \"$PASSWORD|$B\" > /srv/seen; read line",
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let expected = format!("{}|2", VARIABLE.replace('\'', ""));
    eventually("the command has its variables", || {
        fs::read_to_string(in_tree("t-esc", "srv/seen")).is_ok_and(|seen| seen == expected)
    });
    assert_eq!(in_arguments(), [""; 0]);
    drop(child.stdin.take());
    child.wait().unwrap();
    // The environment of an executed command has each variable once.
    let names = says("t-esc", "env");
    assert!(!names.contains("VIRT_SANDBOX_ENTER"), "{names}");
    ok(&["delete", "--force", "t-esc"]);
    test.end();
}

/// Runs a command with secrets in a one-shot sandbox.
fn command_has_its_secrets(options: &[&str]) {
    let files = Files::new();
    let mut command = Command::new(crate::command_program());
    let script = "cd $CREDENTIALS_DIRECTORY && cat db | tr -d '\\0' && stat -c '%a %u' db . && stat -f -c %T . && id -u && \
                  printf '%s' \"$PASSWORD\"";
    command.args(options);
    command.args([
        "--env-file",
        &files.path("env"),
        "--credential",
        &files.credential(),
    ]);
    command.args(["--", "sh", "-c", script]);
    let done = finish(command, "");
    assert_eq!(done.code, 0, "{options:?}: {done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let [content, file, dir, kind, uid, variable] = lines.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!(*content, CREDENTIAL);
    assert_eq!(*file, format!("400 {uid}"));
    assert_eq!(*dir, format!("500 {uid}"));
    assert_eq!(*kind, "tmpfs");
    assert_eq!(*variable, VARIABLE.replace('\'', ""));
}

#[test]
fn secrets_of_a_command_are_in_memory() {
    let Some(test) = Test::begin("secrets_of_a_command_are_in_memory") else {
        return;
    };
    command_has_its_secrets(&[]);
    command_has_its_secrets(&["-p"]);
    command_has_its_secrets(&["-S", "nobody"]);
    let files = Files::new();
    let mut shown = Command::new(crate::command_program());
    shown.args([
        "--dry-run",
        "--credential",
        &files.credential(),
        "--",
        "true",
    ]);
    let shown = finish(shown, "");
    assert!(
        shown.code == 0 && !shown.stdout.contains(CREDENTIAL),
        "{shown:?}"
    );
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn secrets_of_a_command_in_a_machine_are_in_memory() {
    let Some(test) = Test::begin("secrets_of_a_command_in_a_machine_are_in_memory") else {
        return;
    };
    command_has_its_secrets(&["-c", &qemu_uri().unwrap()]);
    test.end();
}

#[test]
fn invalid_secrets_are_refused() {
    let Some(test) = Test::begin("invalid_secrets_are_refused") else {
        return;
    };
    let files = Files::new();
    files.write("bad.env", "A=1\nhunter2 is no variable\n");
    files.write("large", &"x".repeat((1 << 20) + 1));
    let bad = files.path("bad.env");
    let (large, missing) = (
        format!("x:{}", files.path("large")),
        format!("x:{}", files.path("missing")),
    );
    let twice = files.credential();
    for (options, words) in [
        (
            &["--env-file", bad.as_str()][..],
            &["bad.env", "line 2"][..],
        ),
        (&["--env-file", "/none"], &["/none"]),
        (&["--credential", large.as_str()], &["1048576"]),
        (&["--credential", missing.as_str()], &["missing"]),
        (&["--credential", "a/b:/etc/hosts"], &["a/b"]),
        (
            &["--credential", &twice, "--credential", &twice],
            &["two credentials 'db'"],
        ),
    ] {
        let service = [&["create", "-N", "none"], options, &["t-esc", "--", "true"]].concat();
        let mut command = Command::new(crate::command_program());
        command.args(options).args(["--", "true"]);
        for done in [run(&service), finish(command, "")] {
            assert_ne!(done.code, 0, "{options:?}: {done:?}");
            for word in words {
                assert!(done.stderr.contains(word), "{options:?}: {done:?}");
            }
            assert!(!done.stderr.contains("hunter2"), "{done:?}");
        }
        assert!(!in_tree("t-esc", "").exists());
        assert!(!Path::new("/etc/libvirt-sandbox/services/t-esc").exists());
    }
    // An archive cannot bring in a file of the host as a credential.
    let create = [
        "create",
        "-N",
        "none",
        "--credential",
        &twice,
        "t-esc",
        "--",
        "true",
    ];
    ok(&create);
    let archive = files.path("a.tar");
    ok(&["export", "t-esc", "-o", &archive]);
    ok(&["delete", "t-esc"]);
    let content = fs::read(&archive).unwrap();
    assert!(!String::from_utf8_lossy(&content).contains(CREDENTIAL));
    let refused = run(&["import", &archive]);
    assert!(
        refused.code == 1 && refused.stderr.contains("--trust=credentials "),
        "{refused:?}"
    );
    ok(&["import", "--trust=credentials", &archive]);
    ok(&["delete", "t-esc"]);
    test.end();
}
