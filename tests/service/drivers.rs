//! Every verb with every driver: the same program, the same arguments, the same result.
//!
//! [`one_machine_runs_the_main_verbs`] is part of every run; the table is for `make test-vm`, since boots are emulated without
//! KVM.

mod more;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_harness::libvirtd;

use crate::ports::free_port;
use crate::support::{
    HostFile, Test, address, eventually, get, in_tree, inside, listed, ok, output, program, run,
    run_with_input, says,
};

/// A driver of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Containers,
    Machines,
}

const DRIVERS: [Driver; 2] = [Driver::Containers, Driver::Machines];

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Self::Containers => "lxc",
            Self::Machines => "qemu",
        }
    }

    fn uri(self) -> String {
        match self {
            Self::Containers => std::env::var(libvirtd::URI_VARIABLE).unwrap(),
            Self::Machines => libvirtd::qemu_uri().unwrap(),
        }
    }

    /// Returns the process that ends a running sandbox if it is killed.
    fn process(self, name: &str) -> Pid {
        let pid = match self {
            Self::Containers => output("virsh", &["-c", &self.uri(), "domid", name]),
            Self::Machines => {
                let processes = fs::read_dir("/proc").unwrap().flatten();
                let is_it = |pid: &String| {
                    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    String::from_utf8_lossy(&line).contains(&format!("guest={name},"))
                };
                let mut names = processes.map(|entry| entry.file_name().into_string().unwrap());
                names.find(is_it).unwrap()
            }
        };
        Pid::from_raw(pid.trim().parse().unwrap())
    }
}

/// Driver, sandbox and ports of one cell of the table.
struct Cell {
    driver: Driver,
    name: String,
    /// Host port published for port 80.
    port: u16,
    /// Host port published for port 8081.
    inner_port: u16,
}

impl Cell {
    fn says(&self, script: &str) -> String {
        says(&self.name, script)
    }

    fn state(&self) -> String {
        listed(&self.name).unwrap()["state"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn url(&self) -> String {
        format!("http://{}/", address(&self.name))
    }

    fn answers(&self) -> bool {
        get(&self.url()).stdout.contains("<html")
    }

    fn other(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    fn started(&self, command: &str) -> Child {
        let mut child = program();
        child.args(["execute", &self.name, "--", "sh", "-c", command]);
        child.stdin(Stdio::null()).stdout(Stdio::null());
        child.spawn().unwrap()
    }
}

/// A verb, and the function that checks it.
type Row = (&'static str, fn(&Cell));

/// Rows of the table, which run in this order on one sandbox that is stopped at first.
const VERBS: [Row; 33] = [
    ("create", create),
    ("edit", more::edit),
    ("enable, disable", more::enable),
    ("start", start),
    ("published ports", more::published),
    ("list, status, inspect", look),
    ("execute", execute),
    ("execute in a terminal", more::terminal),
    ("execute, killed", killed),
    ("execute, many at once", many),
    ("execute, twenty at once", more::twenty),
    ("execute, its streams", more::streams),
    ("connect", connect),
    ("reload", reload),
    ("logs", logs),
    ("logs -f, --since", more::follow),
    ("rotate", more::rotate),
    ("stats", stats),
    ("top", more::top),
    ("security", more::security),
    ("set", set),
    ("set, seen by its kernel", more::set_live),
    ("libvirtd restarted", libvirtd_restarted),
    ("ports after that", more::published),
    ("restart", more::restart),
    ("clone, running", clone),
    ("state survives a crash", crash),
    ("upgrade", more::upgrade),
    ("export, import", more::archive),
    ("rename", rename),
    ("repair", more::repair),
    ("run, for the host's unit", more::run_verb),
    ("stop, delete", end),
];

#[test]
#[ignore = "for make test-vm"]
fn every_verb_with_every_driver() {
    let Some(test) = Test::begin("every_verb_with_every_driver") else {
        return;
    };
    let mut table = vec![format!("{:<26} {:<8} {:<8}", "VERB", "lxc", "qemu")];
    let mut failures = Vec::new();
    let mut columns = DRIVERS.map(|driver| {
        let cell = Cell {
            driver,
            name: format!("t-v{}", driver.name()),
            port: free_port(),
            inner_port: free_port(),
        };
        (cell, true)
    });
    for (verb, row) in VERBS {
        let mut outcomes = Vec::new();
        for (cell, _) in &mut columns {
            let begin = std::time::Instant::now();
            let done = catch_unwind(AssertUnwindSafe(|| row(cell)));
            let seconds = begin.elapsed().as_secs_f32();
            outcomes.push(match done {
                Ok(()) => format!("{seconds:.1}s"),
                Err(_) => {
                    failures.push(format!("{verb}: {}", cell.name));
                    "FAILED".to_owned()
                }
            });
        }
        let line = format!("{verb:<26} {:<8} {:<8}", outcomes[0], outcomes[1]);
        eprintln!("{line}");
        table.push(line);
    }
    eprintln!("{}", table.join("\n"));
    assert!(failures.is_empty(), "{failures:?}");
    test.end();
}

#[test]
fn one_machine_runs_the_main_verbs() {
    let Some(test) = Test::begin("one_machine_runs_the_main_verbs") else {
        return;
    };
    let unit = HostFile::unit(
        "t-small.service",
        "[Service]\nType=exec\nStateDirectory=t-small\nUser=www-data\n\
         ExecStart=/bin/sh -c 'echo here > /var/lib/t-small/file; exec sleep infinity'\n",
    );
    let uri = Driver::Machines.uri();
    ok(&[
        "-c",
        &uri,
        "create",
        "-N",
        "none",
        "--start",
        "-u",
        "t-small.service",
        "t-small",
    ]);
    assert_eq!(listed("t-small").unwrap()["driver"], "qemu");
    let script = "stat -c %U:%s /var/lib/t-small/file; cat; test -w /usr || echo refused; exit 7";
    let done = run_with_input(&["execute", "t-small", "--", "sh", "-c", script], "typed\n");
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (7, "www-data:5\ntyped\nrefused\n"),
        "{done:?}"
    );
    let seen = fs::read_to_string(in_tree("t-small", "var/lib/t-small/file")).unwrap();
    assert_eq!(seen, "here\n");
    ok(&["stop", "t-small"]);
    ok(&["delete", "t-small"]);
    drop(unit);
    test.end();
}

fn create(cell: &Cell) {
    ok(&[
        "-c",
        &cell.driver.uri(),
        "create",
        "-u",
        "apache2.service",
        "--publish",
        &format!("{}:80", cell.port),
        "--publish",
        &format!("{}:8081", cell.inner_port),
        &cell.name,
    ]);
    let one = listed(&cell.name).unwrap();
    assert_eq!(one["driver"], cell.driver.name());
    assert_eq!(one["state"], "stopped");
}

fn start(cell: &Cell) {
    ok(&["start", &cell.name]);
    assert_eq!(cell.state(), "running");
    assert!(cell.answers());
    assert_eq!(run(&["start", &cell.name]).code, 6);
}

fn look(cell: &Cell) {
    assert!(ok(&["list", "--running"]).contains(&cell.name));
    assert!(ok(&["status", &cell.name]).contains("active (running)"));
    let inspected = ok(&["inspect", &cell.name]);
    assert!(inspected.contains("owners as on the host"), "{inspected}");
    let owner = cell.says("stat -c %U:%G /var/www /var/log/apache2 /etc/shadow");
    assert_eq!(owner, "root:root\nroot:adm\nroot:shadow");
}

fn execute(cell: &Cell) {
    for (script, code) in [
        ("exit 7", 7),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ] {
        assert_eq!(inside(&cell.name, script).code, code, "{script}");
    }
    let command = |arguments: &[&str]| run(&[&["execute"], arguments].concat());
    assert_eq!(command(&[&cell.name, "--", "no-such-program"]).code, 127);
    assert_eq!(command(&[&cell.name, "--", "/etc/passwd"]).code, 126);
    assert_eq!(
        command(&["-u", "nobody-here", &cell.name, "--", "true"]).code,
        125
    );
    let parted = inside(&cell.name, "echo out; echo err >&2");
    assert_eq!(
        (parted.stdout.as_str(), parted.stderr.as_str()),
        ("out\n", "err\n")
    );
    let large: String = "0123456789abcdef\n".repeat(100_000);
    let counted = run_with_input(&["execute", &cell.name, "--", "wc", "-c"], &large);
    assert_eq!(
        counted.stdout.trim(),
        large.len().to_string(),
        "{counted:?}"
    );
    let numbers: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let said = inside(&cell.name, "seq 200000").stdout;
    assert!(said == numbers, "{} of {}", said.len(), numbers.len());
    let options = [
        "-u", "www-data", "-w", "/tmp", "-e", "A=b c", &cell.name, "--", "sh", "-c",
    ];
    let as_user = command(&[&options[..], &["echo $(id -un) $(id -Gn) $(pwd) $A"]].concat());
    assert_eq!(
        as_user.stdout, "www-data www-data /tmp b c\n",
        "{as_user:?}"
    );
    // A background process does not keep `execute` waiting; in a container it holds the caller's own streams.
    if cell.driver == Driver::Machines {
        let left = inside(&cell.name, "sleep 1000 & echo done");
        assert_eq!((left.code, left.stdout.as_str()), (0, "done\n"));
        cell.says("pkill -x sleep");
    }
}

fn killed(cell: &Cell) {
    if cell.driver == Driver::Containers {
        return;
    }
    let mut child = cell.started("exec sleep 4321");
    let sleeps = || inside(&cell.name, "pgrep -f 'sleep 432[1]'").code == 0;
    eventually("it runs", sleeps);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it is ended with its caller", || !sleeps());
    assert_eq!(cell.says("echo clean"), "clean");
}

fn many(cell: &Cell) {
    let children: Vec<Child> = (0..6).map(|_| cell.started("sleep 2; exit 3")).collect();
    assert_eq!(cell.says("echo meanwhile"), "meanwhile");
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}

fn connect(cell: &Cell) {
    let shell = run_with_input(&["connect", &cell.name], "echo sum-$((1 + 1))\nexit 5\n");
    assert!(shell.stdout.contains("sum-2"), "{shell:?}");
    assert_eq!(shell.code, 5);
}

fn reload(cell: &Cell) {
    let master = || cell.says("systemctl show -P MainPID apache2.service");
    let before = master();
    ok(&["reload", &cell.name]);
    assert_eq!(master(), before);
    assert_eq!(
        run(&["reload", "-u", "no-such.service", &cell.name]).code,
        1
    );
}

fn logs(cell: &Cell) {
    cell.says("logger -t t-mark a word from inside");
    eventually("the journal has it", || {
        ok(&["logs", "-n", "20", &cell.name]).contains("a word from inside")
    });
    assert!(ok(&["logs", "-u", "apache2.service", &cell.name]).contains("Started apache2"));
}

fn stats(cell: &Cell) {
    let text = ok(&["stats", "--format", "json", &cell.name]);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = &all[0];
    assert!(one["memory"].as_u64().unwrap() > 1 << 20, "{one}");
    assert!(one["cpu_seconds"].as_f64().unwrap() > 0.0, "{one}");
    assert!(one["net_received"].as_u64().unwrap() > 0, "{one}");
    assert!(one["uptime"].as_f64().unwrap() > 0.0, "{one}");
    let processes = one["processes"].as_u64().unwrap();
    assert!((3..1000).contains(&processes), "{one}");
}

fn set(cell: &Cell) {
    let done = run(&[
        "set",
        &cell.name,
        "memory=1500M",
        "cpu-shares=512",
        "pids=4000",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    let is_later = done.stderr.contains("memory");
    assert_eq!(is_later, cell.driver == Driver::Machines, "{done:?}");
    assert!(ok(&["inspect", &cell.name]).contains("1500M"));
    assert!(
        !done.stderr.contains("pids") && !done.stderr.contains("cpu-shares"),
        "{done:?}"
    );
}

fn libvirtd_restarted(cell: &Cell) {
    let boot =
        || cell.says("cat /proc/sys/kernel/random/boot_id; systemctl show -P MainPID apache2");
    let before = boot();
    libvirtd::restart().unwrap();
    assert_eq!(cell.state(), "running");
    assert_eq!(boot(), before);
}

fn clone(cell: &Cell) {
    cell.says("echo cloned > /var/www/html/mark");
    let copy = cell.other("c");
    let done = run(&["clone", &cell.name, &copy]);
    if done.code != 0 {
        // libvirt cannot freeze every container.
        assert_eq!(cell.driver, Driver::Containers, "{done:?}");
        assert!(done.stderr.contains("frozen"), "{done:?}");
        return;
    }
    assert_eq!(cell.state(), "running");
    let now: i64 = output("date", &["+%s"]).trim().parse().unwrap();
    let inside: i64 = cell.says("date +%s").parse().unwrap();
    assert!((now - inside).abs() < 20, "{now} {inside}");
    let mark = fs::read_to_string(in_tree(&copy, "var/www/html/mark")).unwrap();
    assert_eq!(mark, "cloned\n");
    assert_eq!(listed(&copy).unwrap()["driver"], cell.driver.name());
    ok(&["delete", &copy]);
}

/// Kills the sandbox: synchronised data is kept, and nothing is left running.
fn crash(cell: &Cell) {
    cell.says(
        "for i in $(seq 20); do echo line-$i >> /var/lib/t-data; sync -d /var/lib/t-data; done",
    );
    kill(cell.driver.process(&cell.name), Signal::SIGKILL).unwrap();
    eventually("it is seen to have ended", || cell.state() == "stopped");
    let data = fs::read_to_string(in_tree(&cell.name, "var/lib/t-data")).unwrap();
    assert_eq!(data.lines().count(), 20);
    ok(&["start", &cell.name]);
    assert_eq!(cell.says("wc -l < /var/lib/t-data"), "20");
    assert!(cell.answers());
    ok(&["stop", &cell.name]);
    assert_eq!(cell.state(), "stopped");
}

fn rename(cell: &Cell) {
    let other = cell.other("r");
    ok(&["rename", &cell.name, &other]);
    assert_eq!(listed(&cell.name), None);
    assert!(in_tree(&other, "var/lib/t-data").exists());
    ok(&["rename", &other, &cell.name]);
    assert_eq!(cell.state(), "stopped");
}

fn end(cell: &Cell) {
    ok(&["stop", &cell.name]);
    ok(&["delete", &cell.name]);
    assert_eq!(listed(&cell.name), None);
}
