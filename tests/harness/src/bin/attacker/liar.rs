//! Hostile agent of a machine: replaces guest-init's agent and sends false answers to the host.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, read, write};
use test_harness::prey::{LIAR, LIE};

use super::*;

const CONFIG: u8 = 1;
const MILESTONE: u8 = 2;
const LOG: u8 = 3;
const DATA: u8 = 4;
const EXIT: u8 = 9;
const ATTACH: u8 = 10;
const HELLO: u8 = 11;
const PASSAGE: u8 = 12;

/// Bytes of one or more frames.
type Frames = Vec<u8>;

/// A false agent: its greeting, its answer to requests, and whether it repeats the answer without end.
struct Lie {
    hello: fn(u64) -> Frames,
    answer: fn() -> Frames,
    is_endless: bool,
}

/// Returns the lie with this name; an unknown one sends nothing.
fn lie(name: &str) -> Lie {
    let once = |answer| Lie {
        hello: |number| hello(1, number),
        answer,
        is_endless: false,
    };
    let always = |answer| Lie {
        is_endless: true,
        ..once(answer)
    };
    let nothing = || vec![];
    match name {
        "another version" => Lie {
            hello: |number| hello(2, number),
            ..once(nothing)
        },
        "noise" => Lie {
            hello: |_| noise(),
            ..always(nothing)
        },
        "noise for an answer" => always(noise),
        "no answer" => once(nothing),
        "a frame longer than any" => once(|| vec![DATA, 255, 255, 255, 255]),
        "the longest frame" => always(|| [&[DATA, 0, 0, 0, 1][..], &[0; 4096]].concat()),
        "what nobody has asked for" => Lie {
            hello: |number| {
                let mut said = [hello(1, number), unasked()].concat();
                said.extend(hello(1, number));
                said.extend(unasked());
                said
            },
            ..once(unasked)
        },
        "an end without an answer" => once(|| exit(0)),
        "an answer without an end" => always(|| data(&[b'x'; 30_000])),
        "orders to a terminal" => once(|| {
            let orders = "\u{1b}]0;owned\u{7}\u{1b}[2J".repeat(2000);
            let texts = serde_json::json!([orders, orders, orders, orders, orders]).to_string();
            let failed = serde_json::json!({"type": "failed", "reason": orders}).to_string();
            let log = frame(LOG, orders.as_bytes());
            [
                log.clone(),
                log,
                data(texts.as_bytes()),
                frame(EXIT, failed.as_bytes()),
            ]
            .concat()
        }),
        "orders in an answer" => once(|| {
            let orders = "eth0\u{1b}]0;owned\u{7}\u{1b}[2J: \u{1b}[2J 1";
            let texts = serde_json::json!([orders, orders, orders, orders, orders]).to_string();
            [data(texts.as_bytes()), exit(0)].concat()
        }),
        "absurd numbers" => once(|| {
            let many = "9".repeat(400);
            let nic = format!("eth0: {0} {0} 0 0 0 0 0 0 {0} 0\n", u64::MAX).repeat(3);
            let texts = serde_json::json!([nic, "inf inf", u64::MAX.to_string(), many, "-1"]);
            [data(texts.to_string().as_bytes()), exit(0)].concat()
        }),
        "brackets" => once(|| [data("[".repeat(30_000).as_bytes()), exit(0)].concat()),
        "many ends" => once(|| exit(255).repeat(1000)),
        _ => Lie {
            hello: |_| vec![],
            answer: nothing,
            is_endless: false,
        },
    }
}

fn frame(kind: u8, payload: &[u8]) -> Frames {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&[kind][..], &length.to_le_bytes(), payload].concat()
}

fn hello(version: u32, number: u64) -> Frames {
    let magic = &b"virt-sandbox way"[..];
    frame(
        HELLO,
        &[magic, &version.to_le_bytes(), &number.to_le_bytes()].concat(),
    )
}

fn data(bytes: &[u8]) -> Frames {
    frame(DATA, &[&[1], bytes].concat())
}

fn exit(code: u8) -> Frames {
    frame(
        EXIT,
        format!(r#"{{"type":"status","code":{code}}}"#).as_bytes(),
    )
}

fn noise() -> Frames {
    (0..4096_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Returns frames that only the host may send, or that answer nothing.
fn unasked() -> Frames {
    let open = [&[7, 0, 0, 0][..], &[0, 22, 0]].concat();
    let bytes = [&[9, 0, 0, 0][..], &[2], b"bytes"].concat();
    [
        frame(ATTACH, &[7; 8]),
        frame(CONFIG, br#"{"type":"execute","command":["true"]}"#),
        frame(PASSAGE, &open),
        frame(PASSAGE, &bytes),
        frame(5, &[0]),
        frame(6, &[1, 255, 255, 255, 255]),
        frame(7, &[9, 1]),
        frame(8, &[255; 4]),
        frame(
            MILESTONE,
            br#"{"name":"started","millis":18446744073709551615}"#,
        ),
        exit(0),
    ]
    .concat()
}

/// Kills the agent, opens all its channels to the host, and answers on each.
pub fn liar() {
    // Wait until the agent has answered the command that started this program.
    std::thread::sleep(Duration::from_secs(2));
    let ports = ports();
    let answering: Vec<i32> = holders(&ports);
    for pid in answering {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let open = |path: &PathBuf| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        loop {
            if let Ok(file) = options.open(path) {
                return file;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let files: Vec<File> = ports.iter().map(open).collect();
    let _ = fs::write(LIAR, files.len().to_string());
    let threads = files
        .into_iter()
        .map(|file| std::thread::spawn(move || answer(&file)));
    for thread in threads.collect::<Vec<_>>() {
        let _ = thread.join();
    }
}

fn ports() -> Vec<PathBuf> {
    let entries = fs::read_dir("/sys/class/virtio-ports")
        .into_iter()
        .flatten()
        .flatten();
    let ports = entries.filter(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        name.starts_with("org.virt-sandbox.way.")
    });
    ports
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}

/// Returns the processes that have one of these ports open.
fn holders(ports: &[PathBuf]) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holds = |process: &fs::DirEntry| {
        let mut open = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        open.any(|file| fs::read_link(file.path()).is_ok_and(|path| ports.contains(&path)))
    };
    let found = processes.filter(holds);
    found
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .collect()
}

/// Answers on one channel without end.
fn answer(file: &File) {
    let mut heard = Vec::new();
    loop {
        if !hears(file, &mut heard) {
            std::thread::sleep(Duration::from_millis(20));
        }
        while let Some((kind, payload)) = take(&mut heard) {
            let lie = lie(fs::read_to_string(LIE).unwrap_or_default().trim());
            let (said, is_over) = match (kind, <[u8; 8]>::try_from(payload)) {
                (ATTACH, Ok(number)) => (
                    (lie.hello)(u64::from_le_bytes(number)),
                    (lie.answer)().is_empty(),
                ),
                (CONFIG, _) => ((lie.answer)(), true),
                _ => continue,
            };
            says(file, &said, lie.is_endless && is_over, &mut heard);
        }
    }
}

fn hears(file: &File, heard: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match read(file, &mut buffer) {
        Ok(count @ 1..) => {
            heard.extend_from_slice(&buffer[..count]);
            true
        }
        Ok(_) | Err(_) => false,
    }
}

/// Removes and returns the first frame of the input.
fn take(heard: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let header = heard.first_chunk::<5>()?;
    let (kind, length) = (
        header[0],
        u32::from_le_bytes([header[1], header[2], header[3], header[4]]),
    );
    let end = 5 + length as usize;
    let payload = heard.get(5..end)?.to_vec();
    heard.drain(..end);
    Some((kind, payload))
}

/// Sends bytes, repeatedly if `is_endless`, until the host disconnects or another client attaches.
fn says(file: &File, said: &[u8], is_endless: bool, heard: &mut Vec<u8>) {
    let mut left = said;
    while !left.is_empty() {
        match write(file, left) {
            Ok(count) => left = &left[count..],
            Err(Errno::EAGAIN) => {
                let mut polled = [PollFd::new(
                    file.as_fd(),
                    PollFlags::POLLIN | PollFlags::POLLOUT,
                )];
                let _ = poll(&mut polled, PollTimeout::from(100_u8));
                let events = polled[0].revents().unwrap_or(PollFlags::empty());
                if events.contains(PollFlags::POLLHUP) || hears(file, heard) {
                    return;
                }
            }
            Err(_) => return,
        }
        if left.is_empty() && is_endless {
            left = said;
        }
    }
}
