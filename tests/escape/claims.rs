//! Claims of a sandbox that the host must not trust: its addresses, its journal, its answers to commands. Also connections that
//! it accepts and never reads from, and others that keep the host's forwarder busy.

use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::process::{Child, Command};
use std::time::Duration;

use test_harness::libvirtd;

use crate::support::{HostFile, Test, eventually, finish, listed, ok, program, says, subnet};
use crate::unit;

/// Output that must not reach a terminal: titles, cleared screens, 8-bit colours, reversed text, false line breaks.
const NOISE: &str = r"\033]0;owned\007\033[2J\302\23331m \342\200\256live\342\200\254 \342\201\246x\342\200\250y\342\200\213\r";

/// Replaces a program inside by one that prints terminal escapes and a forged error message of `virt-sandbox-service`.
fn replace(name: &str, program: &str) {
    let script = format!(
        "printf '%s\\n' '#!/bin/sh' \"printf '{NOISE}\\nvirt-sandbox-service: error: forged\\n' | tee /dev/stderr\" 'exit 1' \
         > /run/t-noise && chmod 755 /run/t-noise && mount --bind /run/t-noise \"$(command -v {program})\""
    );
    says(name, &script);
}

/// Returns what a command line of the program under test shows at a terminal.
fn at_terminal(arguments: &str) -> String {
    let name = program().get_program().to_str().unwrap().to_owned();
    let mut script = Command::new("script");
    let line = format!("stty cols 120; timeout 60 {name} {arguments}");
    script.args(["-qec", &line, "/dev/null"]);
    finish(script, "").stdout
}

/// Returns whether a terminal would interpret this character instead of showing it.
fn is_obeyed(c: char) -> bool {
    let is_hidden = |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    (c.is_control() && !"\r\n\t".contains(c)) || is_hidden(c)
}

fn assert_harmless(arguments: &str) {
    let shown = at_terminal(arguments);
    println!("{arguments}: {} bytes", shown.len());
    assert!(!shown.trim().is_empty(), "{arguments} shows nothing");
    let bad: Vec<char> = shown.chars().filter(|c| is_obeyed(*c)).collect();
    assert!(bad.is_empty(), "{arguments}: {bad:?} in {shown:?}");
    // A carriage return alone goes back to the beginning of the line.
    assert!(
        !shown.replace("\r\n", "").contains('\r'),
        "{arguments}: {shown:?}"
    );
    // These verbs quote the sandbox, so a forged message may appear.
    let is_quoting = arguments.starts_with("status") || arguments.starts_with("logs");
    let is_error = |line: &str| line.starts_with("virt-sandbox-service: error: forged");
    let forged = !is_quoting && shown.lines().any(is_error);
    assert!(!forged, "{arguments}: {shown}");
}

#[test]
fn output_of_a_container_cannot_control_a_terminal() {
    let Some(test) = Test::begin("output_of_a_container_cannot_control_a_terminal") else {
        return;
    };
    let unit = unit();
    ok(&["create", "-N", "none", "-u", "t-esc.service", "t-esc"]);
    ok(&["start", "t-esc"]);
    let said = format!(
        "printf '{NOISE}\\n' | systemd-cat -t '{}'; journalctl --sync",
        "evil\u{202e}"
    );
    says("t-esc", &said);
    // journalctl names a broken file in its complaint, and the sandbox chose that name.
    let broken =
        r#"cd /var/log/journal/* && printf x > "$(printf 'a\033[2J\302\233\342\200\256').journal""#;
    says("t-esc", broken);
    for format in [
        "short",
        "cat",
        "json",
        "json-pretty",
        "verbose",
        "export",
        "with-unit",
        "short-iso",
    ] {
        assert_harmless(&format!("logs t-esc -n 20 -o {format}"));
    }
    assert_harmless("logs t-esc -r");
    let follow = format!(
        "timeout 5 {} logs t-esc -f -o cat",
        program().get_program().to_str().unwrap()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &follow, "/dev/null"]);
    let shown = finish(script, "").stdout;
    assert!(
        shown.contains("live") && !shown.chars().any(is_obeyed),
        "{shown:?}"
    );
    // Output to a pipe is unchanged.
    assert!(ok(&["logs", "t-esc", "-o", "cat"]).contains("\u{1b}]0;owned\u{7}"));

    for name in ["systemctl", "logrotate", "journalctl", "sync"] {
        if says("t-esc", &format!("command -v {name} || true")).is_empty() {
            continue;
        }
        replace("t-esc", name);
    }
    for arguments in [
        "status t-esc",
        "reload t-esc",
        "rotate t-esc",
        "list",
        "inspect t-esc",
        "inspect --format json t-esc",
        "status --format json t-esc",
        "top -b -n 1 t-esc",
        "stats t-esc",
        "security t-esc",
    ] {
        assert_harmless(arguments);
    }
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

#[test]
fn a_container_has_no_addresses_but_its_own() {
    let Some(test) = Test::begin("a_container_has_no_addresses_but_its_own") else {
        return;
    };
    let unit = unit();
    ok(&["create", "-u", "t-esc.service", "t-esc"]);
    ok(&["start", "t-esc"]);
    let host = format!("{}.1", subnet());
    let beside = format!("{}.251", subnet());
    let lies = format!(
        "for a in $(seq 0 9); do for b in $(seq 1 250); do echo \"address add 10.77.$a.$b/32 dev lo\"; done; done | ip -batch -\n\
         for b in $(seq 1 100); do ip address add {}.$b/32 dev lo 2>/dev/null; done\n\
         ip -6 address add ::ffff:127.0.0.1/128 dev eth0; ip -6 address add ::ffff:{host}/128 dev eth0\n\
         ip address add {beside}/32 dev eth0; true",
        subnet()
    );
    says("t-esc", &lies);
    let all = listed("t-esc").unwrap()["addresses"].clone();
    let all: Vec<IpAddr> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().parse().unwrap())
        .collect();
    println!("{all:?}");
    assert!(all.len() <= 64, "{}", all.len());
    let is_near = |address: &IpAddr| address.to_string().starts_with(&format!("{}.", subnet()));
    assert!(
        all.iter()
            .all(|one| is_near(one) && one.to_string() != host),
        "{all:?}"
    );
    for shown in [ok(&["list"]), at_terminal("list")] {
        let widest = shown.lines().map(|line| line.chars().count()).max();
        assert!(widest.unwrap() < 150, "{shown}");
        assert!(shown.contains(",+"), "{shown}");
    }
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

/// Accepts connections and never reads from them.
const DEAF: &str = "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)\n\
    s.bind(('0.0.0.0', 7100)); s.listen(1000); kept = []\nwhile True: kept.append(s.accept())\n";

/// Writes into 400 connections from 400 addresses until all are full; prints the number of MiB.
const PUSHES: &str = r"
import socket, sys, time
port = int(sys.argv[1]); clients = []
for n in range(400):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    s.bind(('127.0.%d.%d' % (1 + n // 200, 1 + n % 200), 0)); s.setblocking(False)
    try: s.connect(('127.0.0.1', port))
    except BlockingIOError: pass
    clients.append(s)
pushed, last, quiet = 0, -1, 0
while quiet < 3:
    quiet = quiet + 1 if pushed == last else 0
    last = pushed
    for s in clients:
        try:
            while True: pushed += s.send(b'x' * 1048576)
        except OSError: pass
    time.sleep(0.5)
print(pushed >> 20)
";

#[test]
fn unread_connections_hold_bounded_host_memory() {
    let Some(test) = Test::begin("unread_connections_hold_bounded_host_memory") else {
        return;
    };
    let unit = HostFile::unit(
        "t-esc-deaf.service",
        "[Service]\nExecStart=/usr/bin/python3 /srv/deaf\n",
    );
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let publish = format!("127.0.0.1:{port}:7100");
    let create = [
        "create",
        "-N",
        "none",
        "--memory",
        "256M",
        "-u",
        "t-esc-deaf.service",
    ];
    ok(&[&create[..], &["--publish", &publish, "t-esc"]].concat());
    std::fs::write(crate::support::in_tree("t-esc", "srv/deaf"), DEAF).unwrap();
    ok(&["start", "t-esc"]);
    eventually("it listens", || {
        says("t-esc", "ss -ltnH sport = :7100").contains(":7100")
    });
    let mut pushes = Command::new("python3");
    pushes.args(["-c", PUSHES, &port.to_string()]);
    let done = finish(pushes, "");
    println!("400 connections have pushed {} MiB", done.stdout.trim());
    let pushed: u64 = done.stdout.trim().parse().unwrap();
    // A quarter of the memory limit, and the clients' own socket buffers.
    assert!((1..=64 + 25).contains(&pushed), "{done:?}");
    // Other clients are still accepted, and the sandbox can be stopped.
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

/// Sends datagrams to a port of the host for three seconds, as fast as it can.
const FLOOD: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('127.0.0.1', int(sys.argv[1])))
end = time.time() + 3
while time.time() < end:
    for _ in range(100):
        try: s.send(b'x' * 1000)
        except OSError: pass
";

#[test]
fn forwarding_takes_no_more_cpu_time_than_the_sandbox_may() {
    let Some(test) = Test::begin("forwarding_takes_no_more_cpu_time_than_the_sandbox_may") else {
        return;
    };
    let unit = unit();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let publish = format!("127.0.0.1:{port}:7100/udp");
    let create = ["create", "-N", "none", "-u", "t-esc.service"];
    ok(&[&create[..], &["--publish", &publish, "t-esc"]].concat());
    ok(&["start", "t-esc"]);
    let forwarder = fs::read_to_string("/etc/libvirt-sandbox/services/t-esc/ports").unwrap();
    let used_in_a_flood = || {
        let before = cpu_time(forwarder.trim());
        let mut floods = Command::new("python3");
        floods.args(["-c", FLOOD, &port.to_string()]);
        finish(floods, "");
        cpu_time(forwarder.trim()) - before
    };
    // How much it takes if nothing stops it depends on the host.
    let unlimited = used_in_a_flood();
    // A quota that is changed while it runs holds within a second.
    ok(&["set", "t-esc", "cpu-quota=2"]);
    std::thread::sleep(Duration::from_secs(2));
    let limited = used_in_a_flood();
    ok(&["set", "t-esc", "cpu-quota=100"]);
    println!("the forwarder has used {unlimited:?} without a quota, {limited:?} with 2%");
    // Two percent of three seconds, and the unit of the measure.
    assert!(limited <= Duration::from_millis(120), "{limited:?}");
    assert!(unlimited > 2 * Duration::from_millis(120), "{unlimited:?}");
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

/// Returns the CPU time of a process (`proc_pid_stat(5)`, utime and stime), whose unit is a hundredth of a second.
fn cpu_time(pid: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(
        10 * ticks
            .map(|field| field.parse::<u64>().unwrap())
            .sum::<u64>(),
    )
}

/// Starts a server on the host's loopback that tells each client that it was reached.
fn loopback(port: u16) -> Child {
    let script = format!(
        "import socket, threading\nt = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         t.bind(('127.0.0.1', {port})); t.listen(9)\nu = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', {port}))\n\
         def tcp():\n  while True: c, _ = t.accept(); c.sendall(b'HOST'); c.close()\n\
         threading.Thread(target=tcp, daemon=True).start()\n\
         while True: m, a = u.recvfrom(9); u.sendto(b'HOST', a)\n"
    );
    Command::new("python3")
        .args(["-c", &script])
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "slow: make test-slow"]
fn claims_of_a_machine_are_not_trusted() {
    let Some(test) = Test::begin("claims_of_a_machine_are_not_trusted") else {
        return;
    };
    let unit = unit();
    let uri = libvirtd::qemu_uri().unwrap();
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (guest, tcp, udp) = (free(), free(), free());
    let publish = [
        format!("127.0.0.1:{tcp}:{guest}"),
        format!("127.0.0.1:{udp}:{guest}/udp"),
    ];
    let create = [
        "-c",
        &uri,
        "create",
        "--imagesize",
        "300M",
        "-u",
        "t-esc.service",
    ];
    let ports = ["--publish", &publish[0], "--publish", &publish[1], "t-esc"];
    ok(&[&create[..], &ports].concat());
    ok(&["start", "t-esc"]);
    let mut prey = loopback(guest);
    let host = format!("{}.1", subnet());
    let lies = format!(
        "ip -6 address add ::ffff:127.0.0.1/128 dev eth0; ip -6 address add ::ffff:{host}/128 dev eth0; \
         ip address add {host}/32 dev lo; ip address add 127.0.0.2/8 dev eth0; true"
    );
    says("t-esc", &lies);
    // The forwarder connects inside, where nothing listens.
    let mut client = Command::new("python3");
    let asks = format!(
        "import socket\n\
         def tcp():\n  s = socket.create_connection(('127.0.0.1', {tcp}), 20); s.settimeout(20); return s.recv(9)\n\
         def udp():\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(('127.0.0.1', {udp})); s.send(b'x'); return s.recv(9)\n\
         for ask in tcp, udp:\n  try: print(ask.__name__, ask())\n  except OSError as error: print(ask.__name__, error)\n"
    );
    client.args(["-c", &asks]);
    let done = finish(client, "");
    println!("{}", done.stdout);
    let serves = format!(
        "systemd-run --quiet python3 -c 'import socket\ns = socket.create_server((\"\", {guest}))\nwhile True: c, _ = s.accept(); c.sendall(b\"GUEST\"); c.close()'; \
         until ss -ltnH sport = :{guest} | grep -q .; do sleep 0.2; done"
    );
    says("t-esc", &serves);
    let mut client = Command::new("python3");
    client.args(["-c", &asks]);
    let served = finish(client, "");
    assert!(served.stdout.contains("tcp b'GUEST'"), "{served:?}");
    assert!(
        done.stdout.contains("tcp") && done.stdout.contains("udp"),
        "{done:?}"
    );
    assert!(!done.stdout.contains("HOST"), "{done:?}");
    let addresses = listed("t-esc").unwrap()["addresses"].to_string();
    println!("{addresses}");
    assert!(!addresses.contains("ffff") && !addresses.contains(&format!("\"{host}\"")));
    prey.kill().unwrap();
    prey.wait().unwrap();

    // The guest's own journalctl reads the journal in its image.
    replace("t-esc", "journalctl");
    for format in ["short", "json", "cat"] {
        assert_harmless(&format!("logs t-esc -o {format}"));
    }
    replace("t-esc", "systemctl");
    assert_harmless("status t-esc");
    assert_harmless("reload t-esc");
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}
