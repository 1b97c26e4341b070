use super::*;
use proptest::prelude::*;

fn frames() -> Vec<Frame> {
    vec![
        Frame::Config(b"{}".to_vec()),
        Frame::Milestone(Milestone {
            name: "booted".into(),
            millis: 1200,
        }),
        Frame::Log(b"x".to_vec()),
        Frame::Data(StreamId::Stdin, vec![]),
        Frame::Data(StreamId::Stderr, vec![0, 255, 10]),
        Frame::End(StreamId::Stdout),
        Frame::Room(StreamId::Stdout, 70_000),
        Frame::Signal(SignalFrame {
            number: 15,
            group: true,
        }),
        Frame::Resize(24, 300),
        Frame::Exit(Exit::Status { code: 3 }),
        Frame::Attach(7),
        Frame::Tunnel(9, TunnelFrame::Open(Kind::Datagrams, 53)),
        Frame::Tunnel(u32::MAX, TunnelFrame::Data(vec![1, 2])),
        Frame::Tunnel(0, TunnelFrame::Room(70_000)),
        Frame::Tunnel(1, TunnelFrame::Reset),
        Frame::Hello(Hello {
            version: 3,
            number: u64::MAX,
        }),
        Frame::Exit(Exit::NotRun {
            missing: true,
            reason: "no".into(),
        }),
    ]
}

#[test]
fn frames_are_read_back_from_chunks_of_any_size() {
    let mut bytes = Vec::new();
    for frame in frames() {
        frame.write(&mut bytes);
    }
    for step in [1, 2, 7, bytes.len()] {
        let mut buffer = Vec::new();
        let mut read = Vec::new();
        for chunk in bytes.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                read.push(frame);
            }
        }
        assert_eq!(read, frames());
        assert!(buffer.is_empty());
    }
}

#[test]
fn a_hello_is_found_after_data_for_a_previous_client() {
    let hello = |number| Frame::Hello(Hello { version: 1, number });
    let mut bytes = b"\x04\xff\xff the middle of something".to_vec();
    hello(7).write(&mut bytes);
    hello(8).write(&mut bytes);
    Frame::Attach(1).write(&mut bytes);
    let mut buffer = Vec::new();
    let mut found = None;
    for byte in &bytes {
        buffer.push(*byte);
        if found.is_none() {
            found = Frame::take_hello(&mut buffer, 8);
        }
    }
    assert_eq!(found.map(|hello| hello.number), Some(8));
    assert_eq!(Frame::take(&mut buffer), Ok(Some(Frame::Attach(1))));
}

#[test]
fn exit_statuses_are_those_of_a_shell() {
    for (exit, code) in [
        (Exit::Status { code: 7 }, 7),
        (Exit::Signal { number: 9 }, 137),
        (
            Exit::Failed {
                reason: String::new(),
            },
            125,
        ),
    ] {
        assert_eq!(exit.code(), code);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        while let Ok(Some(_)) = Frame::take(&mut bytes) {}
    }

    // Frames of a malicious sandbox: of every kind, with the right or a wrong length.
    #[test]
    fn malformed_frames_do_not_loop(
        parts in proptest::collection::vec((0..14_u8, proptest::collection::vec(any::<u8>(), 0..40), any::<Option<u32>>()), 0..8)
    ) {
        let mut bytes = Vec::new();
        for (kind, payload, length) in parts {
            let length = length.unwrap_or(payload.len() as u32);
            bytes.push(kind);
            bytes.extend(length.to_le_bytes());
            bytes.extend(payload);
        }
        let mut left = bytes.len();
        let mut hello = bytes.clone();
        while let Ok(Some(_)) = Frame::take(&mut bytes) {
            // Each frame shortens the buffer, so the loop ends.
            prop_assert!(bytes.len() < left);
            left = bytes.len();
        }
        prop_assert_eq!(Frame::take_hello(&mut hello, 7), None);
        prop_assert!(hello.len() <= HEADER + MAGIC.len() + 12);
    }
}
