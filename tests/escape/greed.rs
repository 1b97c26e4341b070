//! A sandbox that takes all there is: what is left for the host and for other sandboxes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
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
    // Files in memory are nobody's to be ended for, so who fills it ends all of its own sandbox, and no other.
    let place = "/dev/shm/full";
    let eaten = run(&["execute", "t-esc", "--", "/srv/attacker", "hungry", place]);
    println!("memory of {place}: {eaten:?}");
    assert_eq!(since("t-esc2"), before[1], "another sandbox was ended");
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
    let most = inside(
        "t-esc",
        "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/system.slice/t-esc.service/pids.max",
    );
    println!("{most:?}");
    let mut child = program();
    // Each of its processes makes others, until none can be made.
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 3; cat /proc/loadavg";
    child.args([
        "execute", "t-esc", "--", "timeout", "20", "bash", "-c", bomb,
    ]);
    child
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    // The host's own can go on, and end it.
    for _ in 0..5 {
        finish(Command::new("true"), "");
    }
    ok(&["list"]);
    ok(&["delete", "--force", "t-esc"]);
    child.wait().unwrap();
    let left = fs::read_to_string("/proc/loadavg").unwrap();
    std::io::stdout().write_all(left.as_bytes()).unwrap();
    drop(unit);
    test.end();
}
