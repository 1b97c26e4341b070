//! Everyday verbs: autostart, the configuration, the journal, log files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{HostFile, Test, eventually, finish, in_tree, ok, program, run, says};

const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// Unit that prints a terminal escape sequence, and can reload.
const UNIT: &str = "[Service]\n\
    ExecStart=/bin/sh -c 'printf \"evil \\\\033]0;title\\\\007 \\\\033[31mred\\\\n\"; echo plain; exec sleep infinity'\n\
    ExecReload=/bin/echo reloaded\n";

fn edit(name: &str, editor: &str) -> test_harness::host::Done {
    let mut command = program();
    command.args(["edit", name]).env("VISUAL", editor);
    finish(command, "")
}

fn uuid(name: &str) -> String {
    let all = ok(&["inspect", "--format", "json", name]);
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    all["config"]["uuid"].as_str().unwrap().replace('-', "")
}

#[test]
fn autostart_works_with_and_without_systemd() {
    let Some(test) = Test::begin("autostart_works_with_and_without_systemd") else {
        return;
    };
    let unit = HostFile::unit("t-day.service", UNIT);
    let timer = HostFile::unit(
        "t-day2.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    );
    ok(&[
        "create",
        "-N",
        "none",
        "-u",
        "t-day.service",
        "-u",
        "t-day2.service",
        "t-day",
    ]);
    ok(&["create", "-N", "none", "-u", "t-day2.service", "t-day2"]);
    let link = |name: &str| Path::new(WANTS).join(format!("{name}_sandbox.service"));
    // A wrong name changes nothing.
    assert_eq!(run(&["enable", "t-day", "t-none"]).code, 4);
    assert!(!link("t-day").is_symlink());
    ok(&["enable", "t-day", "t-day2"]);
    assert!(link("t-day").is_symlink() && link("t-day2").is_symlink());
    let status = ok(&["status", "--format", "json", "t-day"]);
    assert!(status.contains("\"enabled\": true"), "{status}");
    ok(&["rename", "t-day2", "t-day3"]);
    assert!(!link("t-day2").is_symlink() && link("t-day3").is_symlink());

    // A failed one does not stop the others.
    ok(&["start", "t-day3"]);
    let done = run(&["start", "t-day3", "t-day"]);
    assert_eq!(done.code, 6);
    assert!(
        done.stderr.contains("'t-day3' is running already"),
        "{done:?}"
    );
    assert_eq!(says("t-day", "systemctl is-active t-day.service"), "active");

    // Only units that can reload.
    ok(&["reload", "t-day"]);
    eventually("it was reloaded", || {
        ok(&["logs", "t-day"]).contains("reloaded")
    });
    for (arguments, said) in [
        (["-u", "t-day2", "t-day"], "not applicable"),
        (["-u", "t-none", "t-day"], "not found"),
        (["-u", "t-day2.service", "t-day3"], "not applicable"),
    ] {
        let done = run(&[&["reload"], arguments.as_slice()].concat());
        assert_eq!(done.code, 1);
        assert!(done.stderr.contains(said), "{done:?}");
    }
    assert_eq!(run(&["reload", "t-day3"]).code, 1);

    let table = ok(&["top", "-n", "2", "-d", "0.1", "-b"]);
    assert_eq!(table.matches("t-day3").count(), 2, "{table}");

    ok(&["disable", "--now", "t-day", "t-day3"]);
    ok(&["disable", "t-day"]);
    assert!(!link("t-day").is_symlink());
    assert!(!ok(&["list", "--running"]).contains("t-day"));
    // `delete` disables a sandbox.
    ok(&["enable", "t-day"]);
    ok(&["delete", "t-day", "t-day3"]);
    assert!(!link("t-day").is_symlink());
    drop((unit, timer));
    test.end();
}

#[test]
fn only_a_valid_edit_is_kept() {
    let Some(test) = Test::begin("only_a_valid_edit_is_kept") else {
        return;
    };
    let unit = HostFile::unit("t-edit.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-edit.service", "t-edit"]);
    let file = Path::new("/etc/libvirt-sandbox/services/t-edit/sandbox.toml");
    let before = fs::read_to_string(file).unwrap();
    for (editor, said) in [
        ("true", "nothing was changed"),
        ("false", "editor 'false' failed"),
        ("sed -i 's/^timeout.*/timeout = soon/'", "line "),
        ("sed -i 's/^timeout/timeuot/'", "`timeout`"),
        (
            "sed -i 's/^units.*/units = [\"t-nowhere.service\"]/'",
            "has 't-nowhere.service'",
        ),
        (
            "sed -i 's/^name.*/name = \"t-other\"/'",
            "rename t-edit t-other",
        ),
        (
            "sed -i 's/^uuid.*/uuid = \"67e55044-10b1-426f-9247-bb680e5fe0c8\"/'",
            "'uuid'",
        ),
        ("sed -i 's|^path.*|path = \"/etc\"|'", "'path'"),
        (
            "sed -i 's|^connection.*|connection = \"lxc:///x\"|'",
            "connection",
        ),
        (
            "sed -i 's|^units.*|units = [\"a\\\\nb.service\"]|'",
            "b.service",
        ),
        (
            "sed -i 's|^hostname.*|hostname = \"a b\"|'",
            "not a host name",
        ),
        ("truncate -s 0", "neither 'units' nor"),
        ("rm -f", "left no text"),
        ("sh -c 'printf \"\\377\" > $1' sh", "left no text"),
    ] {
        let done = edit("t-edit", editor);
        assert!(done.stderr.contains(said), "{editor}: {done:?}");
        assert!(done.stderr.contains("nothing was changed"), "{done:?}");
        assert!(done.stderr.matches("error: ").count() <= 1, "{done:?}");
        assert_eq!(done.code, i32::from(editor != "true"), "{editor}: {done:?}");
        assert_eq!(fs::read_to_string(file).unwrap(), before, "{editor}");
    }
    let done = edit(
        "t-edit",
        "sed -i 's/^hostname.*/hostname = \"elsewhere\" # mine/'",
    );
    assert!(
        done.code == 0 && done.stderr.contains("when 't-edit' is started"),
        "{done:?}"
    );
    assert!(fs::read_to_string(file).unwrap().contains("# mine"));
    ok(&["start", "t-edit"]);
    assert_eq!(
        says("t-edit", "hostname; cat /etc/hostname"),
        "elsewhere\nelsewhere"
    );
    let done = edit("t-edit", "sed -i 's/^timeout.*/timeout = 33/'");
    assert!(
        done.code == 0 && done.stderr.contains("restart t-edit"),
        "{done:?}"
    );
    // A configuration broken by other means can be repaired with `edit`.
    fs::write(file, format!("{before}rubbish")).unwrap();
    assert_eq!(
        edit("t-edit", "sed -i 's/^rubbish/name = \"t-edit\"/'").code,
        1
    );
    assert_eq!(edit("t-edit", "sed -i '/^rubbish/d'").code, 0);
    ok(&["delete", "--force", "t-edit"]);
    drop(unit);
    test.end();
}

#[test]
fn logs_shows_only_the_journal() {
    let Some(test) = Test::begin("logs_shows_only_the_journal") else {
        return;
    };
    let unit = HostFile::unit("t-log.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-log.service", "t-log"]);
    let id = uuid("t-log");
    let link = Path::new("/var/log/journal").join(&id);
    assert!(link.symlink_metadata().is_err());
    for _ in 0..2 {
        ok(&["start", "t-log"]);
        ok(&["stop", "t-log"]);
    }
    let logs = |arguments: &[&str]| ok(&[&["logs"], arguments, &["t-log"]].concat());
    let plain = |text: &str| text.matches(" plain").count();
    assert_eq!(plain(&logs(&[])), 2);
    assert_eq!(plain(&logs(&["-b"])), 1);
    assert_eq!(plain(&logs(&["-b=-1"])), 1);
    assert_eq!(
        plain(&logs(&["-u", "t-log", "--since", "-1h", "--until", "+1h"])),
        2
    );
    assert_eq!(plain(&logs(&["--until", "yesterday"])), 0);
    assert_eq!(logs(&["-n", "3", "-o", "cat"]).lines().count(), 3);
    assert_eq!(run(&["logs", "-o", "wrong", "t-log"]).code, 1);
    // Unchanged for a program; escaped for a terminal.
    assert!(logs(&["-o", "cat"]).contains("\x1b[31m"));
    assert!(!logs(&[]).contains('\x1b'));
    let mut script = std::process::Command::new("script");
    let typed = format!("{} logs -o cat t-log", program().get_program().display());
    script.args(["-qec", &typed, "/dev/null"]);
    let shown = finish(script, "").stdout;
    assert!(
        shown.contains("red") && !shown.contains('\x1b'),
        "{shown:?}"
    );
    ok(&["rename", "t-log", "t-log2"]);

    // Links in place of the journal lead to another one.
    let other = tempfile::tempdir().unwrap();
    let dir = in_tree("t-log2", &format!("var/log/journal/{id}"));
    fs::copy(
        dir.join("system.journal"),
        other.path().join("system.journal"),
    )
    .unwrap();
    for entry in fs::read_dir(&dir).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
    symlink(
        other.path().join("system.journal"),
        dir.join("system.journal"),
    )
    .unwrap();
    assert_eq!(plain(&run(&["logs", "t-log2"]).stdout), 0);
    fs::remove_dir_all(&dir).unwrap();
    symlink(other.path(), &dir).unwrap();
    let done = run(&["logs", "t-log2"]);
    assert_eq!((done.code, plain(&done.stdout)), (1, 0), "{done:?}");
    ok(&["delete", "t-log2"]);
    drop(unit);
    test.end();
}

/// Unit that counts into its log as fast as it can, and reopens it on request.
const COUNTING: &str = "[Service]\nLogsDirectory=t-rot\n\
    ExecStart=/bin/bash -c 'l=/var/log/t-rot/a.log; trap \"exec >>$$l\" USR1; exec >>$$l; \
    for ((n = 0; ; n++)); do echo n=$$n; ((n %% 50)) || read -t 0.01 <> <(:); done'\n";

#[test]
fn rotate_loses_no_line_of_a_log() {
    let Some(test) = Test::begin("rotate_loses_no_line_of_a_log") else {
        return;
    };
    if !Path::new("/usr/sbin/logrotate").exists() {
        eprintln!("SKIP rotate_loses_no_line_of_a_log: there is no logrotate");
        return;
    }
    let unit = HostFile::unit("t-rot.service", COUNTING);
    let host = HostFile::new("/var/lib/t-out/host.log", "mine\n");
    ok(&["create", "-N", "none", "-u", "t-rot.service", "t-rot"]);
    assert_eq!(run(&["rotate", "t-rot"]).code, 7, "it does not run");
    let tree = |path: &str| -> PathBuf { in_tree("t-rot", path) };
    fs::create_dir_all(tree("etc/logrotate.d")).unwrap();
    let rules = |text: &str| fs::write(tree("etc/logrotate.d/t-rot"), text).unwrap();
    let told = "/var/log/t-rot/*.log /var/log/t-rot/d/*.log {\nmissingok\nrotate 3\ncreate\nsharedscripts\npostrotate\n\
                systemctl kill -s USR1 --kill-who=main t-rot.service\nendscript\n}\n";
    rules(told);
    ok(&["start", "t-rot"]);
    let length = |path: &str| fs::metadata(tree(path)).map_or(0, |metadata| metadata.len());
    eventually("it counts", || length("var/log/t-rot/a.log") > 1000);
    symlink("/var/lib/t-out/host.log", tree("var/log/t-rot/b.log")).unwrap();
    symlink("/var/lib/t-out", tree("var/log/t-rot/d")).unwrap();
    ok(&["rotate", "--force", "t-rot"]);
    eventually("it counts on in the new file", || {
        length("var/log/t-rot/a.log") > 1000
    });
    says("t-rot", "systemctl stop t-rot.service");
    let numbers: Vec<u64> = ["var/log/t-rot/a.log.1", "var/log/t-rot/a.log"]
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(tree(path)).unwrap();
            let numbers = text.lines().map(|line| line[2..].parse().unwrap());
            numbers.collect::<Vec<u64>>()
        })
        .collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
    let names: Vec<_> = fs::read_dir("/var/lib/t-out").unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(
        fs::read_to_string("/var/lib/t-out/host.log").unwrap(),
        "mine\n"
    );

    // The state in the sandbox says that no rotation is due.
    ok(&["rotate", "--all"]);
    assert!(!tree("var/log/t-rot/a.log.2").exists());
    assert!(length("var/lib/logrotate/status") > 0);
    // Without /etc/logrotate.conf, the directory logrotate.d is used.
    fs::rename(tree("etc/logrotate.conf"), tree("etc/logrotate.off")).unwrap();
    rules(&told.replace("systemctl", "exit 0; systemctl"));
    ok(&["rotate", "--force", "t-rot"]);
    assert!(tree("var/log/t-rot/a.log.2").exists());
    // A configuration that never ends or is wrong is reported.
    rules(&told.replace("systemctl", "sleep 7777; systemctl"));
    let done = run(&["rotate", "--force", "--timeout", "1", "t-rot"]);
    assert!(
        done.code == 1 && done.stderr.contains("not done after 1 s"),
        "{done:?}"
    );
    assert_eq!(says("t-rot", "pgrep -fc 'sleep 777[7]' || :"), "0");
    rules("/var/log/t-rot/*.log {\nbogus\n}\n");
    let done = run(&["rotate", "--force", "--all"]);
    assert!(done.stderr.contains("bogus"), "{done:?}");
    rules(&told.replace("systemctl", "exit 1; systemctl"));
    let done = run(&["rotate", "--force", "--all"]);
    assert!(
        done.code == 1 && done.stderr.contains("postrotate"),
        "{done:?}"
    );
    ok(&["delete", "--force", "t-rot"]);
    drop((unit, host));
    test.end();
}
