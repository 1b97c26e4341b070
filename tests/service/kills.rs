//! Kills of each process of a machine: no acknowledged data is lost, and nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_harness::libvirtd;

use crate::support::{Test, eventually, inside, listed, ok, program, run, says, send};

/// Number of times that each process is killed.
const ROUNDS: usize = 3;

const NAME: &str = "t-mkill";

/// Inserts rows into a server that syncs each commit to disk, and prints each row after its commit.
const INSERT: &str =
    "i=$1; while psql -qAtc \"insert into rows values ($i)\"; do echo $i; i=$((i + 1)); done";

/// Rows acknowledged to a client inside.
#[derive(Default)]
struct Rows {
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
    next: u64,
}

/// A client that inserts until it is killed.
struct Inserting {
    child: Child,
    reader: JoinHandle<()>,
}

impl Rows {
    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Starts to insert, and waits until a row is acknowledged.
    fn insert(&mut self) -> Inserting {
        self.next += 100_000;
        let first = self.next.to_string();
        let mut command = program();
        command.args(["execute", "-u", "postgres", NAME, "--", "sh", "-c", INSERT]);
        command.args(["insert", &first]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = Arc::clone(&self.acknowledged);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                acknowledged.lock().unwrap().insert(line.parse().unwrap());
            }
        });
        let before = self.count();
        eventually("rows are acknowledged", || self.count() > before);
        Inserting { child, reader }
    }

    /// Checks that every acknowledged row exists.
    fn assert_there(&self) {
        // Rows acknowledged during the query are not in its answer.
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let there = ok(&sql("select n from rows"));
        let there: BTreeSet<u64> = there.lines().map(|line| line.parse().unwrap()).collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "lost {lost:?} of {}", acknowledged.len());
        eprintln!("{} acknowledged, {} there", acknowledged.len(), there.len());
    }
}

impl Inserting {
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.end();
    }

    fn end(mut self) {
        self.child.wait().unwrap();
        self.reader.join().unwrap();
    }
}

/// Returns the arguments that query the server inside.
fn sql(statement: &str) -> [&str; 8] {
    [
        "execute", "-u", "postgres", NAME, "--", "psql", "-qAtc", statement,
    ]
}

/// Sleeps for a varying time of up to two seconds.
fn a_while() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    sleep(Duration::from_millis(u64::from(now.subsec_nanos() % 2000)));
}

/// Returns the sandbox's processes on the host: QEMU, and the servers of its directories.
fn processes() -> Vec<(Pid, String)> {
    let is_ours = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&words).replace('\0', " ");
        let is_ours = line.contains(NAME) && (line.contains("qemu") || line.contains("virtiofsd"));
        is_ours.then_some((Pid::from_raw(pid), line))
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(is_ours).collect()
}

fn nics() -> BTreeSet<String> {
    let all = fs::read_dir("/sys/class/net").unwrap().flatten();
    all.map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn state() -> String {
    let listed = listed(NAME).unwrap();
    listed["state"].as_str().unwrap().to_owned()
}

/// Starts `run`, as the host's unit does.
fn keep() -> Child {
    let child = program().args(["run", NAME]).spawn().unwrap();
    let begin = std::time::Instant::now();
    while run(&sql("select 1")).code != 0 {
        assert!(begin.elapsed().as_secs() < 600, "it does not come up");
        sleep(Duration::from_secs(1));
    }
    child
}

#[test]
#[ignore = "for make test-vm"]
fn no_acknowledged_row_of_a_machine_is_lost_by_a_kill() {
    let Some(test) = Test::begin("no_acknowledged_row_of_a_machine_is_lost_by_a_kill") else {
        return;
    };
    let nics_before = nics();
    let uri = libvirtd::qemu_uri().unwrap();
    let unit = "postgresql@15-main.service";
    ok(&["-c", &uri, "create", "-u", unit, NAME]);
    let mut keeper = keep();
    ok(&sql("create table rows (n bigint primary key)"));
    assert_eq!(ok(&sql("show fsync")), "on\n");
    let mut rows = Rows::default();
    for round in 0..ROUNDS {
        eprintln!("round {round}");
        // Kill the client on the host: the one inside ends, and nothing else.
        let inserting = rows.insert();
        a_while();
        inserting.kill();
        eventually("the client inside has ended", || {
            inside(NAME, "pgrep -f 'insert into row[s]'").code == 1
        });
        rows.assert_there();

        // Kill `run`: the machine goes on, and another `run` takes over.
        let inserting = rows.insert();
        a_while();
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        assert_eq!(state(), "running");
        let before = rows.count();
        eventually("it goes on", || rows.count() > before);
        keeper = keep();

        // Kill libvirtd: channels and journals do not depend on it.
        let mut follow = program();
        follow.args(["logs", "-f", "-n", "0", "-o", "cat", NAME]);
        let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
        a_while();
        libvirtd::crash().unwrap();
        assert_eq!(state(), "running");
        let before = rows.count();
        eventually("it goes on", || rows.count() > before);
        let mark = format!("mark-{round}");
        says(NAME, &format!("logger -t t-mark {mark}"));
        let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(&mark)), "{mark}");
        follow.kill().unwrap();
        follow.wait().unwrap();
        rows.assert_there();

        // Kill the machine: `run` ends, and so do all the sandbox's processes.
        a_while();
        let (qemu, _) = processes()
            .into_iter()
            .find(|(_, line)| line.contains(&format!("guest={NAME},")))
            .unwrap();
        kill(qemu, Signal::SIGKILL).unwrap();
        inserting.end();
        keeper.wait().unwrap();
        assert_eq!(state(), "failed");
        eventually("nothing is left of it", || {
            processes().is_empty() && nics() == nics_before
        });
        keeper = keep();
        rows.assert_there();
    }
    libvirtd::crash().unwrap();
    send(&keeper, Signal::SIGTERM);
    assert_eq!(keeper.wait().unwrap().code(), Some(0));
    assert_eq!(state(), "stopped");
    assert_eq!(run(&["delete", NAME]).code, 0);
    test.end();
}
