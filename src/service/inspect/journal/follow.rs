//! Following of a journal that another kernel writes.
//!
//! The kernel writes pages one by one, the first of a file first. A `journalctl --follow` that reads in between sees
//! a new entry without its content, and reads again only after the next entry. A new journalctl
//! does not know which entries were shown.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::service::sandbox::Sandbox;
use crate::sys::process::command::Captured;
use crate::sys::root::Root;
use crate::sys::text::printable::printable;

/// Interval between two polls.
const TURN: Duration = Duration::from_millis(500);

/// Maximum length of a line that is kept in memory, in bytes.
const LONGEST: u64 = 1 << 20;

const CURSOR: &[u8] = b"-- cursor: ";

/// Returns true if a journal must be polled to be followed.
///
/// # Errors
/// The connection of the sandbox is not supported here.
pub fn is_polled(sandbox: &Sandbox<'_>) -> Result<bool> {
    Ok(sandbox.config().image.is_none() && sandbox.driver()?.has_own_kernel())
}

/// Passes each line that journalctl prints with `arguments` to `show`, then those of new entries, until `wait` returns that
/// nobody reads any more.
///
/// # Errors
/// There is no journal or no journalctl, it rejects the arguments, or `show` fails.
pub fn follow(
    sandbox: &Sandbox<'_>,
    arguments: &[String],
    mut show: impl FnMut(&[u8]) -> Result<()>,
    mut wait: impl FnMut(Duration) -> bool,
) -> Result<()> {
    let config = sandbox.config();
    let checked = super::start(sandbox, &[arguments, &["--lines=0".to_owned()]].concat())?;
    let checked = checked.wait_with_output();
    let checked = Captured::from(checked.map_err(Error::step("running journalctl"))?);
    if !checked.success {
        let reason = printable(&checked.stderr);
        return Err(Error::refused(format!("journalctl: {reason}")));
    }
    let directory = Root::new(&config.path)?.open_plain(&super::inside(config.uuid))?;
    let show_all = |turn: &[String], show: &mut dyn FnMut(&[u8]) -> Result<()>| {
        show_all(super::read(sandbox, turn)?, show)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let begin = format!("--since=@{}", now.unwrap_or_default().as_secs());
    let mut turn = first(arguments);
    let mut read = None;
    loop {
        // An entry written meanwhile causes another poll.
        let state = Some(state(&directory)?);
        if read != state {
            let cursor = show_all(&turn, &mut show)?;
            if let Some(cursor) = cursor {
                turn = later(arguments, format!("--after-cursor={cursor}"));
            } else if read.is_none() {
                turn = later(arguments, begin.clone());
            }
            read = state;
        }
        if !wait(TURN) {
            return Ok(());
        }
    }
}

/// Adds the default of `--follow`: the last ten lines, unless a start or a number is given.
fn first(arguments: &[String]) -> Vec<String> {
    let mut words = quiet(arguments);
    if !arguments.iter().any(|word| is_beginning(word)) {
        words.push("--lines=10".to_owned());
    }
    words
}

/// Arguments for entries after a cursor.
fn later(arguments: &[String], beginning: String) -> Vec<String> {
    let mut words = quiet(arguments);
    words.retain(|word| !is_beginning(word));
    words.push(beginning);
    words
}

fn quiet(arguments: &[String]) -> Vec<String> {
    let more = ["--quiet", "--show-cursor"].map(str::to_owned);
    [arguments, &more].concat()
}

fn is_beginning(word: &str) -> bool {
    word.starts_with("--since=") || word.starts_with("--lines=")
}

/// Returns the files of the journal with size and time of the last write.
fn state(directory: &File) -> Result<BTreeMap<OsString, (u64, SystemTime)>> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let doing = || Error::io("reading", &path);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&path).map_err(doing())? {
        let entry = entry.map_err(doing())?;
        // The file may have been rotated away.
        if let Ok((length, written)) = entry
            .metadata()
            .and_then(|file| Ok((file.len(), file.modified()?)))
        {
            files.insert(entry.file_name(), (length, written));
        }
    }
    Ok(files)
}

/// Iterates over the lines of journalctl's output, with their line feeds. A line longer than [`LONGEST`] is split: a sandbox
/// may never end a line.
fn lines(said: impl Read) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    let mut said = BufReader::new(said);
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        match said.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error)),
        }
    })
}

/// Shows present entries and returns the last cursor. For journalctl, no entries is a failure.
fn show_all(mut child: Child, show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<String>> {
    let mut cursor = None;
    for line in child.stdout.take().into_iter().flat_map(lines) {
        let line = line.map_err(Error::step("reading the journal"))?;
        match line.strip_prefix(CURSOR) {
            Some(at) => cursor = Some(String::from_utf8_lossy(at.trim_ascii_end()).into_owned()),
            None => show(&line)?,
        }
    }
    child.wait().map_err(Error::step("reading the journal"))?;
    Ok(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_comes_in_parts() {
        let text = b"one\n\ntwo".to_vec();
        let read = |said: &[u8]| lines(said).map(io::Result::unwrap).collect::<Vec<_>>();
        assert_eq!(read(&text), [&b"one\n"[..], b"\n", b"two"]);
        let mut endless = lines(io::repeat(b'x'));
        let part = endless.next().unwrap().unwrap();
        assert_eq!(part.len() as u64, LONGEST);
    }

    #[test]
    fn a_turn_begins_where_the_one_before_it_has_ended() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (asked, once, then) in [
            (
                "--unit=a",
                "--unit=a --quiet --show-cursor --lines=10",
                "--unit=a --quiet --show-cursor -",
            ),
            (
                "--lines=0",
                "--lines=0 --quiet --show-cursor",
                "--quiet --show-cursor -",
            ),
            (
                "--since=-1h",
                "--since=-1h --quiet --show-cursor",
                "--quiet --show-cursor -",
            ),
        ] {
            assert_eq!(first(&words(asked)), words(once));
            assert_eq!(later(&words(asked), "-".to_owned()), words(then));
        }
    }
}
