//! A command's user, capabilities and environment.

use std::process::Command;

use test_harness::host;

use crate::support::{Test, open};

cases! {
    every:
        the_caller_has_no_capabilities,
        privileged_commands_run_as_root,
        a_command_can_run_as_another_user,
        users_cannot_read_files_of_others,
        the_first_process_cannot_be_inspected,
        set_user_id_programs_gain_nothing,
        variables_are_set,
        a_command_starts_in_the_given_directory,
        a_sandbox_has_a_host_name,
        a_command_sees_only_processes_of_its_sandbox;
}

const CAPABILITIES: &str =
    "sed -n 's/^\\(Cap[A-Z][a-z]*\\|NoNewPrivs\\):\\t//p' /proc/self/status | tr '\\n' ' '";
const NOTHING: &str =
    "0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 1";

fn the_caller_has_no_capabilities(test: &Test) {
    assert_eq!(test.says(&[], CAPABILITIES).trim(), NOTHING);
    let me = host::output("id", &["-un"]).unwrap();
    assert_eq!(
        test.says(&[], "id -un; echo $USER $LOGNAME $HOME"),
        format!("{}\nroot root /root", me.trim())
    );
    assert_eq!(test.says(&[], "id -G"), "0");
    for attempt in [
        "mount -t tmpfs x /mnt",
        "chown 1 /proc/self/fd/1",
        "kill -0 1 && chroot /usr true",
        "hostname x",
    ] {
        assert_ne!(test.run(&[], attempt).code, 0, "{attempt}");
    }
}

fn privileged_commands_run_as_root(test: &Test) {
    let shown = test.says(&["-p"], &format!("id -u; echo $USER $HOME; {CAPABILITIES}"));
    assert!(shown.starts_with("0\nroot /root\n"), "{shown}");
    let effective = shown.lines().last().unwrap().split(' ').nth(2).unwrap();
    assert_ne!(effective, "0000000000000000", "{shown}");
    assert_eq!(
        test.says(
            &["-p", "-m", "ram:/mnt=1M"],
            "touch /mnt/x; chown 1:2 /mnt/x; stat -c %u:%g /mnt/x"
        ),
        "1:2"
    );
    assert!(
        test.refusal_of_usage(&["-p", "-S", "nobody", "--", "true"])
            .contains("--switchto")
    );
}

fn a_command_can_run_as_another_user(test: &Test) {
    let script = format!("id -un; id -G; echo $USER $LOGNAME $HOME; {CAPABILITIES}");
    for (user, name) in [("games", "games"), ("5", "games"), ("nobody", "nobody")] {
        let group = host::output("id", &["-g", name]).unwrap();
        let home = host::output("getent", &["passwd", name]).unwrap();
        let home = home.split(':').nth(5).unwrap().to_owned();
        let shown = test.says(&["-S", user], &script);
        let expected = format!("{name}\n{}\n{name} {name} {home}\n{NOTHING}", group.trim());
        assert_eq!(shown.trim(), expected);
    }
    assert_eq!(test.says(&["-S", "root"], CAPABILITIES).trim(), NOTHING);
    assert!(
        test.refusal(&["-S", "no-such-user", "--", "true"])
            .contains("'no-such-user'")
    );
}

fn users_cannot_read_files_of_others(test: &Test) {
    let secret = test.file("secret", "text");
    open(&secret, 0o600);
    for place in [&secret, "/etc/shadow"] {
        let done = test.run(&["-S", "games"], &format!("cat {place}"));
        assert!(
            done.code != 0 && done.stderr.contains("Permission denied"),
            "{place}: {done:?}"
        );
    }
    // Root without capabilities has only an owner's rights.
    std::os::unix::fs::chown(&secret, Some(5), None).unwrap();
    let done = test.run(&[], &format!("cat {secret}"));
    assert!(
        done.code != 0 && done.stderr.contains("Permission denied"),
        "{done:?}"
    );
    assert_eq!(
        test.says(&["-S", "games"], &format!("cat {secret}")),
        "text"
    );
    assert_eq!(test.says(&["-p"], &format!("cat {secret}")), "text");
}

fn the_first_process_cannot_be_inspected(test: &Test) {
    for options in [&["-S", "games"][..], &[]] {
        for secret in [
            "cat /proc/1/environ",
            "ls /proc/1/root/",
            "readlink /proc/1/fd/0",
            "readlink /proc/1/exe",
            "readlink /proc/1/cwd",
        ] {
            assert_ne!(test.run(options, secret).code, 0, "{options:?} {secret}");
        }
    }
}

fn set_user_id_programs_gain_nothing(test: &Test) {
    std::fs::copy("/usr/bin/id", test.path("id")).unwrap();
    open(test.path("id"), 0o4755);
    assert_eq!(
        test.says(&["-S", "games"], &format!("{} -u", test.text("id"))),
        "5"
    );
}

fn variables_are_set(test: &Test) {
    let mut command = test.shell(
        &["-e", "A=b=c", "-e", "B=", "-e", "C", "-e", "HOME=/x"],
        "env",
    );
    command
        .env("C", "of the caller")
        .env("SECRET", "not for it")
        .env("LANG", "C.UTF-8");
    let done = host::finish(command, b"").unwrap();
    let has = |line: &str| done.stdout.lines().any(|one| one == line);
    for line in [
        "A=b=c",
        "B=",
        "C=of the caller",
        "HOME=/x",
        "LANG=C.UTF-8",
        "USER=root",
    ] {
        assert!(has(line), "{line}: {done:?}");
    }
    assert!(
        done.stdout.contains("\nPATH=/") || done.stdout.starts_with("PATH=/"),
        "{done:?}"
    );
    // A container tells its command the domain, and nothing else of libvirt.
    let of_domain = ["LIBVIRT_LXC_NAME=", "LIBVIRT_LXC_UUID="];
    let mut others =
        (done.stdout.lines()).filter(|line| !of_domain.iter().any(|own| line.starts_with(own)));
    assert!(
        !others.any(|line| line.contains("SECRET") || line.contains("LIBVIRT")),
        "{done:?}"
    );
    let mut command = test.shell(&["-e", "A=\u{e4}\n\u{1F980}"], "printf %s \"$A\"");
    assert_eq!(
        command.output().unwrap().stdout,
        "\u{e4}\n\u{1F980}".as_bytes()
    );
}

fn a_command_starts_in_the_given_directory(test: &Test) {
    let at = |directory: &str, options: &[&str]| {
        let mut command = test.command();
        command
            .current_dir(directory)
            .args(options)
            .args(["--", "pwd"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(at("/usr/share", &[]), "/usr/share\n");
    assert_eq!(at("/usr", &["-w", "share"]), "/usr/share\n");
    assert_eq!(at("/usr", &["-w", "/etc"]), "/etc\n");
    // The directory does not exist inside.
    let mounts = tempfile::Builder::new()
        .prefix("r-")
        .tempdir_in("/run")
        .unwrap();
    assert_eq!(at(mounts.path().to_str().unwrap(), &[]), "/\n");
    assert_eq!(at("/", &["-m", "ram:/mnt=1M", "-w", "/mnt"]), "/mnt\n");
    assert!(
        test.refusal(&["-w", "/no/such/place", "--", "true"])
            .contains("'/no/such/place'")
    );
}

fn a_sandbox_has_a_host_name(test: &Test) {
    assert_eq!(
        test.says(&["--hostname", "box.example.org"], "hostname; uname -n"),
        "box.example.org\nbox.example.org"
    );
    let name = test.name();
    let mut command = test.unnamed();
    let output = command
        .args(["-n", &name, "--", "hostname"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name}\n"));
    assert_ne!(host::output("hostname", &[]).unwrap().trim(), name);
}

fn a_command_sees_only_processes_of_its_sandbox(test: &Test) {
    let mut sleeper = Command::new("sleep").arg("86399").spawn().unwrap();
    let shown = test.says(&["-p"], "ps -e -o args=");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(
        !shown.contains("86399") && shown.lines().count() < 6,
        "{shown}"
    );
    assert_ne!(
        test.run(&["-p"], &format!("kill -0 {}", std::process::id()))
            .code,
        0
    );
}
