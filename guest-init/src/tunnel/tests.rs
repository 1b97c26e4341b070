use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::stream::Stream;
use super::*;
use crate::channel::wire::Kind;
use crate::channel::wire::WINDOW;

/// Starts both sides of a tunnel; returns what makes the host open connections.
fn start_tunnel() -> (Sender<Connection>, UnixStream) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (host, guest) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap();
    thread::spawn(move || {
        let mut link = Link::new(guest);
        let answers = |port| Targets::new(vec![], port, true);
        let mut tunnel = Tunnel::of_guest(&mut link, &answers);
        while tunnel.poll_once(None).unwrap() == Progress::Made {}
    });
    let (jobs, waiting) = channel();
    let (wake, mut woken) = UnixStream::pair().unwrap();
    woken.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let mut link = Link::new(host);
        let mut tunnel = Tunnel::of_host(&mut link);
        loop {
            let _ = woken.read(&mut [0; 64]);
            waiting.try_iter().for_each(|job| tunnel.open(job));
            if tunnel.poll_once(Some(woken.as_fd())).unwrap() != Progress::Made {
                return;
            }
        }
    });
    (jobs, wake)
}

fn connect(
    (jobs, wake): &mut (Sender<Connection>, UnixStream),
    kind: Kind,
    port: u16,
) -> (OwnedFd, Arc<AtomicBool>) {
    let spoken = match kind {
        Kind::Stream => SockType::Stream,
        Kind::Datagrams => SockType::SeqPacket,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, socket) = socketpair(AddressFamily::Unix, spoken, None, flags).unwrap();
    let is_reset = Arc::<AtomicBool>::default();
    let job = Connection {
        kind,
        port,
        socket,
        is_reset: Arc::clone(&is_reset),
    };
    jobs.send(job).unwrap();
    wake.write_all(&[0]).unwrap();
    (ours, is_reset)
}

#[test]
fn streams_arrive_whole_and_do_not_hold_each_other_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || {
                let mut client = client.unwrap();
                let mut said = Vec::new();
                client.read_to_end(&mut said).unwrap();
                client.write_all(&said).unwrap();
            });
        }
    });
    let mut host = start_tunnel();
    // One that is neither read nor closed.
    let (stuck, _) = connect(&mut host, Kind::Stream, port);
    let mut stuck = UnixStream::from(stuck);
    stuck.set_nonblocking(true).unwrap();
    while stuck.write(&[1; 65536]).is_ok() {}
    let askers: Vec<_> = (0..20_usize)
        .map(|number| {
            let (socket, is_reset) = connect(&mut host, Kind::Stream, port);
            thread::spawn(move || {
                let question: Vec<u8> = (0..3_000_000 / (1 + number * number))
                    .map(|index| (index / 7 + number) as u8)
                    .collect();
                let mut socket = UnixStream::from(socket);
                socket.write_all(&question).unwrap();
                socket.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                socket.read_to_end(&mut answer).unwrap();
                assert!(answer == question, "{} {}", answer.len(), question.len());
                assert!(!is_reset.load(Ordering::Acquire));
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
}

#[test]
fn a_failed_connection_is_reset_on_both_sides() {
    // Nobody listens.
    let mut host = start_tunnel();
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let (socket, is_reset) = connect(&mut host, Kind::Stream, port);
    let mut answer = Vec::new();
    let _ = UnixStream::from(socket).read_to_end(&mut answer);
    assert!(is_reset.load(Ordering::Acquire));
    // The server sees that its client was reset.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (socket, is_reset) = connect(&mut host, Kind::Stream, port);
    let (mut server, _) = listener.accept().unwrap();
    is_reset.store(true, Ordering::Release);
    drop(socket);
    let error = server.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn datagrams_keep_their_bounds_and_reach_either_loopback() {
    for bound in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(bound).unwrap();
        let port = server.local_addr().unwrap().port();
        let mut host = start_tunnel();
        let (socket, _) = connect(&mut host, Kind::Datagrams, port);
        for text in [b"first".to_vec(), b"x".to_vec(), vec![7; 9000]] {
            send(socket.as_raw_fd(), &text, MsgFlags::empty()).unwrap();
            let mut buffer = [0; 10_000];
            let (count, client) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..count] == text, "{count}");
            server.send_to(&buffer[..count], client).unwrap();
            let count = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            assert!(buffer[..count] == text, "{count}");
        }
    }
}

#[test]
fn the_host_opens_no_connection_for_a_guest() {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (host, guest) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut bad = Link::new(guest);
    bad.send(&Frame::Tunnel(1, TunnelFrame::Open(Kind::Stream, port)));
    bad.send(&Frame::Tunnel(1, TunnelFrame::Data(vec![0; 64])));
    bad.flush().unwrap();
    drop(bad);
    let mut link = Link::new(host);
    let mut tunnel = Tunnel::of_host(&mut link);
    while tunnel.poll_once(None).unwrap() == Progress::Made {}
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn data_after_the_end_resets_a_stream() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, socket) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap();
    let mut stream = Stream::new(socket, None, Arc::default());
    // More than the kernel buffers for a socket that is not read.
    assert_eq!(
        stream.accept(vec![0; WINDOW as usize]).state,
        EndState::Open
    );
    assert_eq!(stream.finish(), Reply::OPEN);
    assert_eq!(stream.accept(vec![1]), Reply::RESET);
    drop(ours);
}

#[test]
fn own_addresses_come_before_the_loopback() {
    let own = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let mut targets = Targets::new(vec![own], 80, true);
    assert_eq!(targets.next().map(|target| target.ip()), Some(own));
    let mut barred = targets.clone();
    targets.failed(&io::ErrorKind::ConnectionRefused.into());
    assert!(targets.next().unwrap().ip().is_loopback());
    barred.failed(&io::ErrorKind::HostUnreachable.into());
    assert_eq!(barred.next(), None);
}
