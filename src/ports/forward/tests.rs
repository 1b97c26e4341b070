use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sched::unshare;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::sys::process::pidfd::Process;

use super::*;

/// Address of the other side, unique to it.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Memory of the other side.
const MEMORY: u64 = 256 << 20;

/// Network namespace with a loopback and an address.
struct Other {
    keeper: Child,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl Other {
    /// Makes a namespace and runs `inside` in it; `None` if the host does not allow it.
    fn new<T: Send + 'static>(inside: impl FnOnce() -> T + Send + 'static) -> Option<(Self, T)> {
        thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                eprintln!("skipped: a network namespace needs root");
                return None;
            }
            for arguments in ["link set lo up", "address add 192.0.2.1/32 dev lo"] {
                let done = Command::new("ip")
                    .args(arguments.split(' '))
                    .stderr(Stdio::null())
                    .status();
                if !done.is_ok_and(|status| status.success()) {
                    eprintln!("skipped: ip {arguments} failed");
                    return None;
                }
            }
            // Children are in the namespace of the thread that starts them.
            let keeper = Command::new("sleep").arg("100").spawn().unwrap();
            Some((Self { keeper }, inside()))
        })
        .join()
        .unwrap()
    }

    /// Serves one port; returns its address, a handle to stop it, and its outcome.
    fn serve(
        &self,
        listener: Listener,
        target: u16,
        idle: Option<Duration>,
    ) -> (SocketAddr, Arc<AtomicBool>, mpsc::Receiver<Outcome>) {
        let address = listener.address().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, pid) = (Arc::clone(&stop), self.keeper.id());
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            let ports = [Port { listener, target }];
            let keeper = Process::open(pid).unwrap();
            let place = Destination {
                reach: Reach::Network {
                    namespace: File::open(format!("/proc/{pid}/ns/net")).unwrap(),
                    addresses: &|| vec![OWN],
                },
                is_there: &|| !keeper.wait(Duration::ZERO),
                memory: MEMORY,
                cpu: &CpuQuota::new(|| None),
            };
            let asked = || asked.load(Ordering::Relaxed);
            let before = thread_namespace();
            let end = serve(&ports, &place, idle, &asked).unwrap();
            assert_eq!(thread_namespace(), before);
            sender.send(end).unwrap();
        });
        (address, stop, ended)
    }
}

fn thread_namespace() -> u64 {
    File::open("/proc/thread-self/ns/net")
        .and_then(|file| file.metadata())
        .unwrap()
        .ino()
}

fn stream() -> Listener {
    Listener::stream(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap()
}

/// Sends the peer's address, and then everything that it receives, once the peer has finished.
fn echo(listener: TcpListener) {
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            thread::spawn(move || {
                let peer = client.peer_addr().unwrap().ip();
                let mut said = Vec::new();
                client.read_to_end(&mut said).unwrap();
                writeln!(client, "{peer}").unwrap();
                client.write_all(&said).unwrap();
            });
        }
    });
}

fn ask(address: SocketAddr, question: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(question)?;
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let end = answer.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let said = answer.split_off(end);
    Ok((
        String::from_utf8(answer).unwrap(),
        said[1.min(said.len())..].to_vec(),
    ))
}

#[test]
fn a_connection_arrives_whole_and_ends_by_halves() {
    let inside = || TcpListener::bind("0.0.0.0:0").unwrap();
    let Some((other, listener)) = Other::new(inside) else {
        return;
    };
    let port = listener.local_addr().unwrap().port();
    echo(listener);
    let (address, stop, ended) = other.serve(stream(), port, None);
    // More than what pipes and sockets hold.
    let long: Vec<u8> = (0..8_000_000u32).map(|number| number as u8).collect();
    let askers: Vec<_> = (0..20)
        .map(|number: usize| {
            let question = long[..long.len() / (1 + number * number * 1000)].to_vec();
            thread::spawn(move || {
                let (peer, said) = ask(address, &question).unwrap();
                assert_eq!(peer, OWN.to_string(), "it seems local");
                assert!(said == question, "{} of {}", said.len(), question.len());
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    assert_eq!(ended.recv().unwrap(), Outcome::Stopped);
}

#[test]
fn the_loopback_is_asked_last_and_where_nobody_answers_it_is_an_error() {
    let inside = || TcpListener::bind("127.0.0.1:0").unwrap();
    let Some((mut other, listener)) = Other::new(inside) else {
        return;
    };
    let port = listener.local_addr().unwrap().port();
    echo(listener);
    let (address, _, ended) = other.serve(stream(), port, None);
    assert_eq!(ask(address, b"x").unwrap().0, "127.0.0.1");
    other.keeper.kill().unwrap();
    assert_eq!(ended.recv().unwrap(), Outcome::Gone);

    let Some((other, ())) = Other::new(|| ()) else {
        return;
    };
    let (address, _, ended) = other.serve(stream(), port, Some(Duration::from_secs(1)));
    let error = ask(address, b"x").unwrap_err().kind();
    assert!(
        matches!(
            error,
            // Depends on which call meets the reset.
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        ),
        "{error}"
    );
    assert_eq!(ended.recv().unwrap(), Outcome::Idle);
}

#[test]
fn datagrams_are_answered_to_who_sent_them() {
    for (bound, from) in [
        ("0.0.0.0:0", OWN.to_string()),
        ("[::1]:0", "::1".to_owned()),
    ] {
        let inside = move || UdpSocket::bind(bound).unwrap();
        let Some((other, server)) = Other::new(inside) else {
            return;
        };
        let port = server.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = server.recv_from(&mut buffer) {
                let answer = [client.ip().to_string().as_bytes(), b" ", &buffer[..length]].concat();
                server.send_to(&answer, client).unwrap();
            }
        });
        let (address, stop, ended) = other.serve(Listener::datagram(None, 0).unwrap(), port, None);
        let clients: Vec<_> = (0..3)
            .map(|number| {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                // The answer has to come from the address that the client sent to.
                client
                    .connect((Ipv4Addr::LOCALHOST, address.port()))
                    .unwrap();
                client.send(format!("{number}").as_bytes()).unwrap();
                client
            })
            .collect();
        for (number, client) in clients.iter().enumerate() {
            let mut buffer = [0; 4096];
            let length = client.recv(&mut buffer).unwrap();
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert_eq!(said, format!("{from} {number}"));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(ended.recv().unwrap(), Outcome::Stopped);
    }
}

/// Returns the memory of all TCP buffers of the kernel, in bytes.
fn memory_of_tcp() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: u64 = line.split(' ').next_back().unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn whoever_reads_nothing_holds_no_more_memory_than_it_has_seats_for() {
    // Accepts connections, and never reads from them.
    let inside = || {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        // The buffers of its own sockets belong to the other side.
        setsockopt(&listener, sockopt::RcvBuf, &OWN_BUFFER).unwrap();
        listener
    };
    let Some((other, listener)) = Other::new(inside) else {
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let kept = thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((client, _)) = listener.accept() {
            kept.push(client);
            if kept.len() == 1000 {
                break;
            }
        }
        kept
    });
    let before = memory_of_tcp();
    let (address, stop, ended) = other.serve(stream(), port, None);
    let chunk = vec![0; 1 << 20];
    let mut clients = Vec::new();
    for number in 0..400_u32 {
        // Many client addresses, so that only the slots limit them.
        let from = Ipv4Addr::new(127, 0, 1 + (number / 200) as u8, 1 + (number % 200) as u8);
        clients.extend(pushing(from.into(), address));
    }
    let (mut pushed, mut last) = (0_u64, u64::MAX);
    while pushed != last {
        last = pushed;
        for client in &mut clients {
            while let Ok(count @ 1..) = client.write(&chunk) {
                pushed += count as u64;
            }
        }
        thread::sleep(Duration::from_millis(300));
    }
    let held = memory_of_tcp().saturating_sub(before);
    println!(
        "{} clients have pushed {} MiB; TCP holds {} MiB",
        clients.len(),
        pushed >> 20,
        held >> 20
    );
    // The kernel doubles the requested size.
    let own = 2 * 2 * OWN_BUFFER as u64 * clients.len() as u64;
    assert!(pushed <= MEMORY / 4 + own, "{} MiB got in", pushed >> 20);
    assert!(held <= MEMORY / 4 + 2 * own, "{} MiB are held", held >> 20);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(ended.recv().unwrap(), Outcome::Stopped);
    drop((clients, other));
    drop(kept);
}

/// Buffer size of the clients' sockets and of the other side.
const OWN_BUFFER: usize = 16 << 10;

/// Opens a non-blocking connection from an address; `None` if it is refused.
fn pushing(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    setsockopt(&socket, sockopt::SndBuf, &OWN_BUFFER).unwrap();
    bind(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(from, 0)),
    )
    .unwrap();
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Some(socket.into()),
        Err(_) => None,
    }
}

#[test]
fn nothing_is_ever_connected_to_in_our_own_network() {
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    ours.set_nonblocking(true).unwrap();
    let target = ours.local_addr().unwrap().port();
    let ports = |listener| [Port { listener, target }];

    // A process in our namespace reports our addresses, which is even true.
    let place = Destination {
        reach: Reach::Network {
            namespace: File::open("/proc/thread-self/ns/net").unwrap(),
            addresses: &|| vec![Ipv4Addr::LOCALHOST.into()],
        },
        is_there: &|| true,
        memory: MEMORY,
        cpu: &CpuQuota::new(|| None),
    };
    let error = serve(&ports(stream()), &place, None, &|| false).unwrap_err();
    assert!(error.to_string().contains("network of the host"), "{error}");

    // A failing connector is no reason to try another one.
    let listener = stream();
    let address = listener.address().unwrap();
    let asker = thread::spawn(move || ask(address, b"x"));
    let place = Destination {
        reach: Reach::Connector(&|_, _| Err(io::ErrorKind::BrokenPipe.into())),
        is_there: &|| !asker.is_finished(),
        memory: MEMORY,
        cpu: &CpuQuota::new(|| None),
    };
    let served = serve(&ports(listener), &place, None, &|| false).unwrap();
    assert_eq!(served, Outcome::Gone);
    assert!(asker.join().unwrap().is_err());
    assert_eq!(ours.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}
