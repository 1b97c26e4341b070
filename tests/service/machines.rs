//! Behaviour of virtual machines that differs from containers, for `make test-vm`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use test_harness::libvirtd;

use crate::ports::{echoed, free_port, listen};
use crate::support::{HostFile, Test, eventually, listed, ok, run, says};

/// Echo server on the loopback alone: answers a connection after its input ends, and datagrams at once.
const SERVER: &str = r#"#!/usr/bin/python3
import socket, threading
def stream(c):
    said = b""
    while True:
        more = c.recv(65536)
        if not more: break
        said += more
    c.sendall(said)
    c.close()
def streams():
    s = socket.create_server(("127.0.0.1", 7001), backlog=512)
    while True:
        threading.Thread(target=stream, args=(s.accept()[0],)).start()
threading.Thread(target=streams).start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 7000))
while True:
    t, a = s.recvfrom(9000)
    s.sendto(t + b" " + a[0].encode(), a)
"#;

/// Sends a question, ends the client's half, and returns the answer.
fn asked(port: u16, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(300)))?;
    connection.write_all(question)?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_without_a_network_answers_on_ports_of_the_host() {
    let Some(test) = Test::begin("a_machine_without_a_network_answers_on_ports_of_the_host") else {
        return;
    };
    let server = HostFile::script("/usr/local/bin/t-served", SERVER);
    let unit = HostFile::unit(
        "t-served.service",
        // The sandbox is up once the server listens.
        "[Service]\nExecStart=/usr/local/bin/t-served\n\
         ExecStartPost=/bin/sh -c 'until ss -ltn | grep -q :7001; do sleep 0.1; done'\n",
    );
    let uri = libvirtd::qemu_uri().unwrap();
    let (stream, nobody, datagram, call) = (free_port(), free_port(), free_port(), free_port());
    let publish = [
        format!("{stream}:7001"),
        format!("{nobody}:9"),
        format!("{datagram}:7000/udp"),
    ];
    let create = ["-c", &uri, "create", "-N", "none", "-u", "t-served.service"];
    let ports: Vec<&str> = publish
        .iter()
        .flat_map(|one| ["--publish", one.as_str()])
        .collect();
    ok(&[&create[..], &ports, &["t-mport"]].concat());
    ok(&["start", "t-mport"]);
    eventually("it listens", || {
        asked(stream, b"x").is_ok_and(|said| said == b"x")
    });

    // The client ends its half first; the data is larger than any buffer.
    let long: Vec<u8> = (0..4_000_000_u32)
        .map(|number| (number / 3) as u8)
        .collect();
    assert!(asked(stream, &long).unwrap() == long);
    let askers: Vec<_> = (0..100_usize)
        .map(|number| {
            let question = long[number..number + 20_000].to_vec();
            thread::spawn(move || assert!(asked(stream, &question).unwrap() == question))
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    // Nothing listens there: the client must get an error.
    let error = asked(nobody, b"x").unwrap_err().kind();
    assert!(
        matches!(
            error,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
        ),
        "{error}"
    );
    for question in ["one", "two"] {
        let expected = format!("{question} 127.0.0.1");
        assert_eq!(echoed(datagram, question), Some(expected));
    }
    let large = "d".repeat(8000);
    assert_eq!(echoed(datagram, &large).map(|said| said.len()), Some(8010));

    // Commands run meanwhile, and ports survive the loss of libvirtd.
    assert_eq!(says("t-mport", "echo beside"), "beside");
    libvirtd::restart().unwrap();
    assert_eq!(asked(stream, b"after").unwrap(), b"after");
    ok(&["stop", "t-mport"]);
    let refused = TcpStream::connect(("127.0.0.1", stream)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    ok(&["delete", "t-mport"]);

    // On demand: the first client waits for the machine.
    let demand = ["--on-demand", "--idle-stop", "3", "--publish"];
    let port = format!("{call}:7001");
    ok(&[&create[..], &demand, &[&port, "t-mcall"]].concat());
    let mut host = listen(call, "t-mcall");
    eventually("somebody listens", || {
        test_harness::host::output("ss", &["-ltnH", &format!("sport = :{call}")])
            .is_ok_and(|said| !said.is_empty())
    });
    assert_eq!(listed("t-mcall").unwrap()["state"], "stopped");
    assert_eq!(asked(call, b"first").unwrap(), b"first");
    assert_eq!(host.wait().unwrap().code(), Some(0));
    assert_eq!(listed("t-mcall").unwrap()["state"], "stopped");
    assert_eq!(run(&["delete", "t-mcall"]).code, 0);
    drop((server, unit));
    test.end();
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_boots_the_chosen_kernel() {
    let Some(test) = Test::begin("a_machine_boots_the_chosen_kernel") else {
        return;
    };
    let unit = HostFile::unit(
        "t-kernel.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    );
    let uri = libvirtd::qemu_uri().unwrap();
    let create = ["-c", &uri, "create", "-N", "none", "-u", "t-kernel.service"];
    let refused = run(&[&create[..], &["--kernver", "0.1-none", "t-kern"]].concat());
    assert!(
        refused.code == 4 && refused.stderr.contains("no kernel 0.1-none"),
        "{refused:?}"
    );
    assert!(listed("t-kern").is_none());
    let images = std::fs::read_dir("/boot").unwrap().flatten();
    let mut releases: Vec<String> = images
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .collect();
    releases.sort();
    for release in releases {
        ok(&[&create[..], &["--kernver", &release, "t-kern"]].concat());
        ok(&["start", "t-kern"]);
        assert_eq!(says("t-kern", "uname -r"), release);
        ok(&["delete", "--force", "t-kern"]);
    }
    drop(unit);
    test.end();
}
