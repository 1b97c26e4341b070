use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use guest_init::channel::agent_request::AgentRequest;
use guest_init::channel::wire::{Exit, Frame, Hello, StreamId};

use guest_init::config::{Payload, Platform};

use super::channel::AgentPort;
use super::guest::FILES;
use super::limits::most_cpus;
use super::*;
use crate::config::Resources;
use crate::driver::guest::{ANSWER, Guest};
use crate::driver::{DEFAULT_SHARES, Driver, Qemu, SYSTEMD};
use crate::hypervisor::Limit;
use crate::sys::process::deadline::{MAX_STDERR, MAX_STDOUT};

#[test]
fn limits_of_a_running_machine_have_a_usual_value() {
    let mut resources = Resources::default();
    let limit = |resources: &Resources, key: &str| Driver::Qemu(Qemu::System).limit(resources, key);
    assert_eq!(limit(&resources, "memory"), Some(Limit::Balloon(1 << 20)));
    assert_eq!(limit(&resources, "cpus"), Some(Limit::VirtualCpus(1)));
    assert_eq!(limit(&resources, "cpu-pinning"), None);
    assert_eq!(
        limit(&resources, "cpu-shares"),
        Some(Limit::CpuShares(DEFAULT_SHARES))
    );
    resources.cpus = Some(4000);
    assert_eq!(most_cpus(&resources), 4000);
}

#[test]
fn a_machine_boots_from_its_own_copies_with_its_config() {
    let dir = tempfile::tempdir().unwrap();
    let boot = kernel::Boot::below(dir.path());
    fs::write(&boot.kernel, "the kernel").unwrap();
    fs::write(&boot.initrd, "the common part.").unwrap();
    let copies = dir.path().join("copies");
    let made = copy_boot_files(&boot, &copies, None, &example()).unwrap();
    for path in [&made.kernel, &made.initrd] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o400, "{}", path.display());
    }
    assert_eq!(fs::read(&made.kernel).unwrap(), b"the kernel");
    let bytes = fs::read(made.initrd).unwrap();
    let rest = bytes.strip_prefix(b"the common part.").unwrap();
    assert!(rest.starts_with(b"070701"));
    assert!(rest.windows(10).any(|name| name == b"guest.json"));
    kernel::Boot::remove(&copies).unwrap();
    kernel::Boot::remove(&copies).unwrap();
    assert!(!copies.exists() && boot.kernel.exists());
}

fn example() -> GuestConfig {
    let payload = Payload::Init {
        command: vec![SYSTEMD.to_owned()],
        environment: vec![],
    };
    GuestConfig::new("vm1", "vm1", Platform::Machine, payload)
}

/// Plays the guest of an agent port that begins with the rest of an answer to somebody else.
fn guest(listener: UnixListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut inbox = Vec::new();
    let mut read = |stream: &mut UnixStream| loop {
        if let Some(frame) = Frame::take(&mut inbox).unwrap() {
            return frame;
        }
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the host is gone");
        inbox.extend_from_slice(&buffer[..count]);
    };
    let Frame::Attach(number) = read(&mut stream) else {
        panic!("it does not attach");
    };
    let mut bytes = b"\x04\x10\x00 the rest of what another one was told".to_vec();
    let version = guest_init::channel::agent_request::VERSION;
    for number in [number ^ 1, number] {
        Frame::Hello(Hello { version, number }).write(&mut bytes);
    }
    stream.write_all(&bytes).unwrap();
    let Frame::Config(ask) = read(&mut stream) else {
        panic!("it does not ask");
    };
    assert!(matches!(
        serde_json::from_slice(&ask).unwrap(),
        AgentRequest::Read { .. }
    ));
    let mut bytes = Vec::new();
    Frame::Data(StreamId::Stdout, b"out".to_vec()).write(&mut bytes);
    Frame::Data(StreamId::Stderr, b"err".to_vec()).write(&mut bytes);
    Frame::Exit(Exit::Status { code: 3 }).write(&mut bytes);
    stream.write_all(&bytes).unwrap();
    // Until the host has read it all.
    while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
}

#[test]
fn an_agent_port_has_one_user_and_begins_with_its_hello() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("0")).unwrap();
    let guest = std::thread::spawn(|| guest(listener));
    let mut port = AgentPort::take(dir.path()).unwrap().unwrap();
    assert!(port.attach(Duration::from_secs(30)).unwrap());
    let done = port
        .capture(
            &AgentRequest::Read { paths: vec![] },
            Instant::now() + ANSWER,
        )
        .unwrap()
        .unwrap();
    let expected = (false, "out", "err");
    assert_eq!(
        (done.success, done.stdout.as_str(), done.stderr.as_str()),
        expected
    );
    // The next one has no socket here, but the first is not given to two.
    assert!(AgentPort::take(dir.path()).is_err());
    drop(port);
    guest.join().unwrap();
}

#[test]
fn a_guest_that_never_says_hello_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("0")).unwrap();
    let guest = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // All that it can say but what it is asked for.
        while stream.write_all(&[11; 4096]).is_ok() {}
    });
    let mut port = AgentPort::take(dir.path()).unwrap().unwrap();
    assert!(!port.attach(Duration::from_millis(300)).unwrap());
    drop(port);
    guest.join().unwrap();
}

/// Returns the guest's end of an agent port that a program has attached to.
fn attached(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().unwrap();
    let mut said = [0; guest_init::channel::wire::HEADER + 8];
    stream.read_exact(&mut said).unwrap();
    let number = u64::from_le_bytes(*said.last_chunk().unwrap());
    let version = guest_init::channel::agent_request::VERSION;
    let mut bytes = Vec::new();
    Frame::Hello(Hello { version, number }).write(&mut bytes);
    stream.write_all(&bytes).unwrap();
    stream
}

#[test]
fn a_guest_that_says_nothing_but_hello_is_left_soon() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("0")).unwrap();
    let guest = std::thread::spawn(move || {
        let mut stream = attached(&listener);
        stream.set_read_timeout(Some(3 * FILES)).unwrap();
        // Until the host is gone.
        loop {
            match stream.read(&mut [0; 4096]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    });
    let machine = Machine::at(dir.path().to_owned());
    assert_eq!(machine.addresses(), Vec::<std::net::IpAddr>::new());
    drop(machine);
    assert!(guest.join().unwrap(), "it was waited for");
}

#[test]
fn a_guest_that_never_comes_to_an_end_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("0")).unwrap();
    let guest = std::thread::spawn(move || {
        let mut stream = attached(&listener);
        let mut bytes = Vec::new();
        Frame::Data(StreamId::Stdout, vec![b'x'; 30000]).write(&mut bytes);
        while stream.write_all(&bytes).is_ok() {}
    });
    let mut port = AgentPort::take(dir.path()).unwrap().unwrap();
    assert!(port.attach(Duration::from_secs(30)).unwrap());
    let ask = AgentRequest::Read { paths: vec![] };
    let limit = Instant::now() + Duration::from_millis(500);
    assert!(port.capture(&ask, limit).unwrap().is_none());
    drop(port);
    guest.join().unwrap();
}

#[test]
fn output_of_a_guest_is_kept_up_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("0")).unwrap();
    let guest = std::thread::spawn(move || {
        let mut stream = attached(&listener);
        let mut bytes = Vec::new();
        for (channel, most) in [
            (StreamId::Stdout, MAX_STDOUT),
            (StreamId::Stderr, MAX_STDERR),
        ] {
            for _ in 0..=most / 30_000 {
                Frame::Data(channel, vec![b'x'; 30_000]).write(&mut bytes);
            }
        }
        Frame::Exit(Exit::Status { code: 0 }).write(&mut bytes);
        let mut heard = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || while heard.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
            stream.write_all(&bytes).unwrap();
        });
    });
    let mut port = AgentPort::take(dir.path()).unwrap().unwrap();
    assert!(port.attach(Duration::from_secs(30)).unwrap());
    let ask = AgentRequest::Read { paths: vec![] };
    let done = port
        .capture(&ask, Instant::now() + ANSWER)
        .unwrap()
        .unwrap();
    assert_eq!(
        (done.stdout.len(), done.stderr.len()),
        (MAX_STDOUT, MAX_STDERR)
    );
    drop(port);
    guest.join().unwrap();
}
