//! Measurements of commands: duration, throughput, peak memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::memory::MIB;

/// Seconds after which a command counts as hung.
const MOST_SECONDS: &str = "180";

/// Returns a command with a time-out, which is the same for our program and for peers.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", MOST_SECONDS])
        .args(words)
        .stdin(Stdio::null());
    command
}

/// Returns the milliseconds from the start of a command to its end; it must succeed and print `marker`.
pub fn time(mut command: Command, marker: &str) -> Result<f64> {
    let begin = Instant::now();
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let taken = begin.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.contains(marker) {
        let error = String::from_utf8_lossy(&output.stderr);
        let last = error.lines().last().or(said.lines().last());
        bail!("{}: {}", output.status, last.unwrap_or("said nothing"));
    }
    Ok(taken.as_secs_f64() * 1000.0)
}

/// Direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the command's standard input.
    In,
    /// From its standard output.
    Out,
}

impl Direction {
    /// Returns a script that moves `mib` MiB between the lines `begin` and `end`.
    pub fn script(self, mib: usize) -> String {
        match self {
            Self::In => format!("echo begin; head -c {mib}M >/dev/null; echo end"),
            Self::Out => format!("echo begin; head -c {mib}M /dev/zero; echo end"),
        }
    }
}

/// Returns the MiB/s through a command, from its line `begin` to its line `end`, so without its start.
pub fn throughput(mut command: Command, way: Direction, mib: usize) -> Result<f64> {
    let mut child = command
        .stdin(if way == Direction::In {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().context("there is no stdout")?;
    let mut stdout = BufReader::with_capacity(1 << 16, stdout);
    expect(&mut stdout, "begin")?;
    let begin = Instant::now();
    // The writer ends when the command no longer reads. Its pipe stays open until it is
    // joined: a port whose host has gone blocks the guest.
    let writer = stdin.map(|mut stdin| {
        spawn(move || {
            let zeros = vec![0; 1 << 16];
            for _ in 0..mib * 16 {
                if stdin.write_all(&zeros).is_err() {
                    break;
                }
            }
            stdin
        })
    });
    if way == Direction::Out {
        let wanted = (mib as u64) << 20;
        let got = std::io::copy(&mut stdout.by_ref().take(wanted), &mut std::io::sink())?;
        if got < wanted {
            bail!("{got} bytes of {wanted} came");
        }
    }
    expect(&mut stdout, "end")?;
    let taken = begin.elapsed().as_secs_f64();
    if let Some(writer) = writer {
        // The thread cannot panic.
        let _ = writer.join();
    }
    std::io::copy(&mut stdout, &mut std::io::sink())?;
    child.wait()?;
    Ok(mib as f64 / taken)
}

fn expect(stdout: &mut impl BufRead, word: &str) -> Result<()> {
    let mut line = String::new();
    while !line.trim_end().ends_with(word) {
        line.clear();
        if stdout.read_line(&mut line)? == 0 {
            bail!("it ended before it said '{word}'");
        }
    }
    Ok(())
}

/// Returns the largest value in MiB that `probe` returns while a command runs.
pub fn peak(command: &mut Command, probe: impl Fn(&Child) -> Option<f64>) -> Result<f64> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let mut most = 0.0;
    let status = loop {
        most = f64::max(most, probe(&child).unwrap_or(0.0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        sleep(Duration::from_millis(5));
    };
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    most_of(most)
}

/// Returns a figure in MiB, or an error if nothing was measured.
pub fn most_of(bytes: f64) -> Result<f64> {
    if bytes == 0.0 {
        bail!("nothing was seen while it ran");
    }
    Ok(bytes / MIB)
}
