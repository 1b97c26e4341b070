//! Standard streams: what goes in and comes out, and when.

use crate::support::Test;

cases! {
    every: streams_are_separate, every_byte_passes;
}

chosen! {
    system System: streams_are_separate, every_byte_passes;
}

fn streams_are_separate(test: &Test) {
    let done = test.run(&[], "echo out; echo err >&2");
    assert_eq!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()),
        (0, "out\n", "err\n")
    );
}

fn every_byte_passes(test: &Test) {
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut command = test.shell(&[], "cat");
    command.stdin(std::fs::File::open(test.file("in", &bytes)).unwrap());
    let output = command.output().unwrap();
    assert!(output.stdout == bytes && output.stderr.is_empty());
}
