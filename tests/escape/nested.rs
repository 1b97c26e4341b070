//! Mounts whose source is below another mount: root inside replaces the source by a link to the host's files and restarts.

use std::fs;
use std::process::Command;

use crate::support::{HostFile, Test, finish, inside, ok, run};
use crate::{MARKER, unit};

const OUTER: &str = "/var/lib/t-escape-nested";
const BESIDE: &str = "/var/lib/t-escape-nested-beside";

struct Prey {
    _files: [HostFile; 2],
}

impl Prey {
    fn new() -> Self {
        let files = [
            (format!("{OUTER}/sub/file"), "shared"),
            (format!("{BESIDE}/file"), MARKER),
        ];
        Self {
            _files: files.map(|(path, content)| HostFile::new(&path, content)),
        }
    }
}

fn mounts(option: &str) -> [String; 2] {
    [
        format!("host-bind:/mnt={OUTER}"),
        format!("host-bind:/opt={OUTER}/sub{option}"),
    ]
}

/// Targets of links that lead to the host's files.
const LINKS: [&str; 3] = [
    BESIDE,
    "../t-escape-nested-beside",
    "../../../../../../proc/1/root/var/lib/t-escape-nested-beside",
];

fn replace_by(link: &str) -> String {
    format!("rm -rf /mnt/sub && ln -s {link} /mnt/sub")
}

/// Script that reads and changes what is mounted at `/opt`.
const TRY: &str = "cat /opt/file; echo changed >/opt/file; touch /opt/new; ls /opt";

fn assert_untouched() {
    assert_eq!(
        fs::read_to_string(format!("{BESIDE}/file")).unwrap(),
        MARKER
    );
    assert_eq!(fs::read_dir(BESIDE).unwrap().count(), 1);
}

#[test]
fn a_service_cannot_redirect_its_mounts() {
    let Some(test) = Test::begin("a_service_cannot_redirect_its_mounts") else {
        return;
    };
    let (unit, prey) = (unit(), Prey::new());
    let [outer, inner] = mounts("");
    let create = ["create", "-N", "none", "-u", "t-esc.service", "t-esc"];
    ok(&[&create[..], &["-m", &outer, "-m", &inner]].concat());
    for link in LINKS {
        fs::remove_file(format!("{OUTER}/sub")).unwrap_or_default();
        fs::create_dir_all(format!("{OUTER}/sub")).unwrap();
        fs::write(format!("{OUTER}/sub/file"), "shared").unwrap();
        ok(&["start", "t-esc"]);
        let done = inside("t-esc", "cat /opt/file; echo written >/opt/written");
        assert_eq!((done.code, done.stdout.as_str()), (0, "shared"), "{done:?}");
        assert!(fs::exists(format!("{OUTER}/sub/written")).unwrap());
        assert_eq!(inside("t-esc", &replace_by(link)).code, 0);
        ok(&["stop", "t-esc"]);
        // The sandbox may fail to start.
        let started = run(&["start", "t-esc"]);
        println!("{link}: {} {}", started.code, started.stderr.trim());
        let done = inside("t-esc", TRY);
        assert!(!done.stdout.contains(MARKER), "{link}: {done:?}");
        assert_untouched();
        run(&["stop", "t-esc"]);
    }
    ok(&["delete", "--force", "t-esc"]);
    drop((unit, prey));
    test.end();
}

#[test]
fn a_command_cannot_redirect_mounts_of_the_next() {
    let Some(test) = Test::begin("a_command_cannot_redirect_mounts_of_the_next") else {
        return;
    };
    let prey = Prey::new();
    for (link, option) in LINKS.into_iter().zip(["", ",ro", ""]) {
        fs::remove_file(format!("{OUTER}/sub")).unwrap_or_default();
        fs::create_dir_all(format!("{OUTER}/sub")).unwrap();
        fs::write(format!("{OUTER}/sub/file"), "shared").unwrap();
        let [outer, inner] = mounts(option);
        for script in [&format!("cat /opt/file; {}", replace_by(link)), TRY] {
            let mut command = Command::new(crate::command_program());
            command.args(["-p", "-m", &outer, "-m", &inner, "--", "sh", "-c", script]);
            let done = finish(command, "");
            let is_first = script != TRY;
            assert_eq!(done.stdout.contains("shared"), is_first, "{link}: {done:?}");
        }
        // The file is readable inside anyway.
        assert_untouched();
    }
    drop(prey);
    test.end();
}
