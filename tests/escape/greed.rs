//! A sandbox that exhausts every resource it can: the host and other sandboxes must still have theirs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use crate::support::{Test, finish, inside, ok, program, run};
use crate::{attacker, place, unit};

/// A program that runs inside and talks to the test over pipes.
struct Attacker(Child);

impl Attacker {
    fn new(name: &str, words: &[&str]) -> Self {
        let mut command = program();
        command
            .args(["execute", name, "--", "/srv/attacker"])
            .args(words);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Returns the lines of output before `last`.
    fn until(&mut self, last: &str) -> Vec<String> {
        let stdout = BufReader::new(self.0.stdout.as_mut().unwrap());
        let lines = stdout.lines().map(|line| line.unwrap().trim().to_owned());
        lines.take_while(|line| line != last).collect()
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.stdout.take().unwrap().read_to_end(&mut Vec::new());
        self.0.wait().unwrap();
    }
}

/// Creates a sandbox of these tests.
fn make(name: &str, options: &[&str]) {
    ok(&[
        &["create", "-N", "none", "-u", "t-esc.service"][..],
        options,
        &[name],
    ]
    .concat());
    place(name);
    ok(&["start", name]);
}

#[test]
fn a_sandbox_cannot_exhaust_limits_of_others() {
    let Some(test) = Test::begin("a_sandbox_cannot_exhaust_limits_of_others") else {
        return;
    };
    let unit = unit();
    make("t-esc", &[]);
    make("t-esc2", &[]);
    let mut greedy = Attacker::new("t-esc", &["greedy"]);
    for line in greedy.until("all taken") {
        println!("took     {}", line.replace('\t', "  "));
    }
    let mut on_host = Command::new(attacker());
    on_host.arg("modest");
    let missing = [
        finish(on_host, ""),
        run(&["execute", "t-esc2", "--", "/srv/attacker", "modest"]),
    ];
    for (who, missing) in ["the host", "another sandbox"].into_iter().zip(&missing) {
        println!("{who} misses: {:?}", missing.stdout);
        assert_eq!(
            missing.stdout.replace('\r', ""),
            "all asked\n",
            "{who}: {missing:?}"
        );
    }
    greedy.end();
    // Its leftovers go with it.
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", "--force", name]);
    }
    drop(unit);
    test.end();
}

#[test]
fn a_process_that_exhausts_memory_is_killed_inside() {
    let Some(test) = Test::begin("a_process_that_exhausts_memory_is_killed_inside") else {
        return;
    };
    let unit = unit();
    make("t-esc", &["--memory", "256M"]);
    make("t-esc2", &["--memory", "256M"]);
    let since = |name: &str| {
        let show =
            "systemctl show --property=MainPID --value t-esc; cat /proc/1/stat | cut -d' ' -f22";
        inside(name, show).stdout
    };
    let before = ["t-esc", "t-esc2"].map(since);
    let eaten = run(&["execute", "t-esc", "--", "/srv/attacker", "hungry"]);
    println!("memory of its own: {eaten:?}");
    assert_ne!(eaten.code, 0, "it had enough: {eaten:?}");
    assert_eq!(
        ["t-esc", "t-esc2"].map(since),
        before,
        "somebody else was ended"
    );
    // Killing a process does not free a tmpfs, so every tmpfs is smaller than the memory limit.
    for place in ["/dev/shm/full", "/tmp/full", "/run/full"] {
        let eaten = run(&["execute", "t-esc", "--", "/srv/attacker", "hungry", place]);
        println!("memory of {place}: {eaten:?}");
        assert_eq!(eaten.stdout.trim(), "full", "{place}: {eaten:?}");
        assert_eq!(
            ["t-esc", "t-esc2"].map(since),
            before,
            "somebody was ended for {place}"
        );
    }
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", "--force", name]);
    }
    drop(unit);
    test.end();
}

#[test]
fn a_fork_bomb_is_stopped_by_default() {
    let Some(test) = Test::begin("a_fork_bomb_is_stopped_by_default") else {
        return;
    };
    let unit = unit();
    make("t-esc", &[]);
    let mut child = program();
    // A fork bomb.
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 3; cat /proc/loadavg";
    child.args(["execute", "t-esc", "--", "timeout", "8", "bash", "-c", bomb]);
    child
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    // Commands of the host still work, and can stop the sandbox.
    for _ in 0..5 {
        finish(Command::new("true"), "");
    }
    println!("{}", ok(&["stats", "t-esc"]));
    ok(&["delete", "--force", "t-esc"]);
    child.wait().unwrap();
    let left = fs::read_to_string("/proc/loadavg").unwrap();
    std::io::stdout().write_all(left.as_bytes()).unwrap();
    drop(unit);
    test.end();
}

#[test]
fn a_full_image_takes_no_more_of_the_hosts_disk() {
    let Some(test) = Test::begin("a_full_image_takes_no_more_of_the_hosts_disk") else {
        return;
    };
    let unit = unit();
    let create = ["create", "-N", "none", "-u", "t-esc.service"];
    ok(&[&create[..], &["--imagesize", "300M", "t-esc"]].concat());
    ok(&["start", "t-esc"]);
    let fill = "for at in /var/full /etc/full /home/full /srv/full; do cat /dev/zero >$at; done 2>&1; \
                i=0; while : >/srv/many.$i; do i=$((i+1)); done 2>&1";
    let done = inside("t-esc", fill);
    println!("{:.300}", done.stdout);
    assert!(done.stdout.contains("No space left"), "{done:?}");
    let inspected = ok(&["inspect", "t-esc"]);
    let image = inspected
        .split(['"', '\'', ' ', '\n'])
        .find(|word| {
            word.starts_with('/')
                && fs::metadata(word).is_ok_and(|file| file.is_file() && file.len() >= 300 << 20)
        })
        .unwrap_or_else(|| panic!("no image in {inspected}"));
    let metadata = fs::metadata(image).unwrap();
    println!(
        "{image}: {} bytes, {} blocks",
        metadata.len(),
        metadata.blocks()
    );
    assert_eq!(metadata.len(), 300 << 20);
    assert!(metadata.blocks() * 512 <= (300 << 20) + (1 << 20));
    // Commands of the host still end.
    for words in [&["stop", "t-esc"][..], &["start", "t-esc"], &["list"]] {
        let done = run(words);
        println!("{words:?}: {} {}", done.code, done.stderr);
    }
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}
