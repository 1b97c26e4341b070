//! Published ports.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::time::Duration;

use test_harness::libvirtd;

use crate::support::{HostFile, Test, address, eventually, get, listed, ok, program, run, says};

/// Answers datagrams with their content and their apparent sender.
const ECHO: &str = "[Service]\nExecStart=/usr/bin/python3 -u -c 'import socket\\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\\n\
    s.bind((\"\", 7000))\\n\
    while True: (t, a) = s.recvfrom(9000); s.sendto(t + b\" \" + a[0].encode(), a)'\n";

/// Returns a free port of the host.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind("[::]:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Sends a datagram and returns the answer.
pub fn echoed(port: u16, question: &str) -> Option<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.send(question.as_bytes()).unwrap();
    let mut buffer = [0; 9000];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn a_published_port_is_answered_while_the_sandbox_runs() {
    let Some(test) = Test::begin("a_published_port_is_answered_while_the_sandbox_runs") else {
        return;
    };
    let unit = HostFile::unit("t-echo.service", ECHO);
    let (web, echo) = (free_port(), free_port());
    let publish = [format!("{web}:80"), format!("127.0.0.1:{echo}:7000/udp")];
    let units = ["create", "-u", "apache2.service", "-u", "t-echo.service"];
    let ports = ["--publish", &publish[0], "--publish", &publish[1], "t-port"];
    ok(&[&units[..], &ports].concat());
    let url = format!("http://127.0.0.1:{web}/");
    assert_ne!(get(&url).code, 0, "answered before the start");
    ok(&["start", "t-port"]);
    assert!(get(&url).stdout.contains("<html"), "{:?}", get(&url));
    assert!(
        get(&format!("http://[::1]:{web}/"))
            .stdout
            .contains("<html")
    );
    // The sender must not seem to be the sandbox's own loopback.
    let expected = format!("hello {}", address("t-port"));
    assert_eq!(echoed(echo, "hello"), Some(expected));
    assert_eq!(listed("t-port").unwrap()["publish"][0], publish[0]);
    assert!(ok(&["list"]).contains(&publish[0]));

    // Another sandbox with the same port does not start, and the message says why.
    let other = ["create", "-N", "none", "-u", "t-echo.service", "--publish"];
    ok(&[&other[..], &[&format!("[::1]:{web}:7000"), "t-late"]].concat());
    let done = run(&["start", "t-late"]);
    assert_eq!(done.code, 1, "{done:?}");
    for word in [&format!("port {web}/tcp is in use"), "t-port"] {
        assert!(done.stderr.contains(word), "{done:?}");
    }
    assert_eq!(listed("t-late").unwrap()["state"], "stopped");

    libvirtd::restart().unwrap();
    assert!(get(&url).stdout.contains("<html"), "{:?}", get(&url));
    // A rebooting sandbox keeps its ports: clients wait.
    let boot = || says("t-port", "systemctl show -P InvocationID apache2");
    let before = boot();
    run(&["execute", "t-port", "--", "reboot"]);
    eventually("the sandbox is there again", || {
        let rebooted = run(&[
            "execute",
            "t-port",
            "--",
            "systemctl",
            "is-active",
            "apache2",
        ]);
        rebooted.stdout == "active\n" && boot() != before
    });
    assert!(get(&url).stdout.contains("<html"), "{:?}", get(&url));
    ok(&["restart", "t-port"]);
    assert!(get(&url).stdout.contains("<html"), "{:?}", get(&url));
    ok(&["stop", "t-port"]);
    let refused = TcpStream::connect(("127.0.0.1", web)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    ok(&["delete", "t-port"]);
    ok(&["delete", "t-late"]);
    drop(unit);
    test.end();
}

/// Starts systemd-socket-activate, which runs the host's unit when a client connects.
pub fn listen(port: u16, name: &str) -> Child {
    // It passes on only the variables that it is told to.
    Command::new("systemd-socket-activate")
        .arg("--setenv=VIRT_SANDBOX_GUEST_INIT")
        .arg(format!("--listen={port}"))
        .arg(program().get_program())
        .args(["run", name])
        .spawn()
        .unwrap()
}

#[test]
fn a_sandbox_starts_on_demand_and_stops_when_idle() {
    let Some(test) = Test::begin("a_sandbox_starts_on_demand_and_stops_when_idle") else {
        return;
    };
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: there is no systemd-socket-activate");
        return;
    }
    let port = free_port();
    let publish = format!("{port}:80");
    let demand = ["--on-demand", "--idle-stop", "2", "--publish", &publish];
    let create = ["create", "-N", "none", "-u", "apache2.service", "t-call"];
    ok(&[&create[..], &demand].concat());
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    verify.arg("/etc/systemd/system/t-call_sandbox.socket");
    let done = crate::support::finish(verify, "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    // Leftovers of one run do not disturb the next.
    for _ in 0..2 {
        let mut host = listen(port, "t-call");
        let url = format!("http://127.0.0.1:{port}/");
        eventually("somebody listens", || {
            test_harness::host::output("ss", &["-ltnH", &format!("sport = :{port}")])
                .is_ok_and(|said| !said.is_empty())
        });
        assert_eq!(listed("t-call").unwrap()["state"], "stopped");
        let page = get(&url);
        assert!(page.stdout.contains("<html"), "{page:?}");
        assert_eq!(host.wait().unwrap().code(), Some(0));
        assert_eq!(listed("t-call").unwrap()["state"], "stopped");
    }
    ok(&["delete", "t-call"]);
    test.end();
}

#[test]
fn invalid_ports_are_refused() {
    let Some(test) = Test::begin("invalid_ports_are_refused") else {
        return;
    };
    let create = ["create", "-N", "none", "-u", "apache2.service", "t-bad"];
    for (arguments, code, word) in [
        (&["--publish", "80"][..], 2, "HOSTPORT:GUESTPORT"),
        (
            &["--publish", "80:80", "--publish", "127.0.0.1:80:81"],
            1,
            "the same port",
        ),
        (&["--on-demand"], 2, "--publish"),
        (
            &["--publish", "80:80", "--idle-stop", "9"],
            2,
            "--on-demand",
        ),
    ] {
        let done = run(&[&create[..], arguments].concat());
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.stderr.contains(word), "{done:?}");
    }
    let elsewhere = ["--publish", "192.0.2.77:80:80", "--start"];
    let done = run(&[&create[..], &elsewhere].concat());
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("none of this host"), "{done:?}");
    assert_eq!(listed("t-bad"), None);
    test.end();
}
