//! A sandbox that takes all there is: what is left for the host and for other sandboxes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use crate::support::{Test, finish, inside, ok, program, run};
use crate::{attacker, place, unit};

/// A program that runs inside, spoken to.
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

    /// What it says up to this line.
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

/// The sandboxes of these tests.
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
fn what_one_sandbox_takes_is_not_missing_elsewhere() {
    let Some(test) = Test::begin("what_one_sandbox_takes_is_not_missing_elsewhere") else {
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
    // What it has left behind goes with it.
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", "--force", name]);
    }
    drop(unit);
    test.end();
}

#[test]
fn who_eats_all_memory_is_ended_inside() {
    let Some(test) = Test::begin("who_eats_all_memory_is_ended_inside") else {
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
    // Files in memory are nobody's to be ended for, so there is less room for them than memory.
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
fn who_forks_without_end_is_stopped_by_default() {
    let Some(test) = Test::begin("who_forks_without_end_is_stopped_by_default") else {
        return;
    };
    let unit = unit();
    make("t-esc", &[]);
    let mut child = program();
    // Each of its processes makes others, until none can be made.
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 3; cat /proc/loadavg";
    child.args(["execute", "t-esc", "--", "timeout", "8", "bash", "-c", bomb]);
    child
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    // The host's own can go on, and end it.
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
fn who_fills_its_image_takes_no_more_of_the_hosts_disk() {
    let Some(test) = Test::begin("who_fills_its_image_takes_no_more_of_the_hosts_disk") else {
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
    // The host can still do with it what it likes.
    for words in [&["stop", "t-esc"][..], &["start", "t-esc"], &["list"]] {
        let done = run(words);
        println!("{words:?}: {} {}", done.code, done.stderr);
    }
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}
