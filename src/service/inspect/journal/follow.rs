//! Following a journal that another kernel writes.
//!
//! Its pages come to the files here one by one, the first of a file first. A `journalctl --follow` that looks in between sees
//! that there is one entry more and not yet which, and looks again only when there is yet another one. One that begins anew
//! does not know what there was.

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

/// How long an entry may take to be shown.
const TURN: Duration = Duration::from_millis(500);

/// Most bytes of a line that are kept at a time.
const LONGEST: u64 = 1 << 20;

const CURSOR: &[u8] = b"-- cursor: ";

/// Returns whether a journal has to be polled to be followed.
///
/// # Errors
/// Where the sandbox cannot be kept here.
pub fn is_polled(sandbox: &Sandbox<'_>) -> Result<bool> {
    Ok(sandbox.config().image.is_none() && sandbox.driver()?.has_own_kernel())
}

/// Hands `show` each line that journalctl prints with `arguments`, and those of entries that are added, until `wait` says that
/// nobody reads them any more.
///
/// # Errors
/// Where there is no journal or no journalctl, where it does not take the arguments, and what `show` says.
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
        // What is written while it is read makes another turn.
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

/// As with `--follow`: the last ten, unless it is said from when or how many.
fn first(arguments: &[String]) -> Vec<String> {
    let mut words = quiet(arguments);
    if !arguments.iter().any(|word| is_beginning(word)) {
        words.push("--lines=10".to_owned());
    }
    words
}

/// What was added since.
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

/// The files of the journal, with how long they are and when they were written last.
fn state(directory: &File) -> Result<BTreeMap<OsString, (u64, SystemTime)>> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let doing = || Error::io("reading", &path);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&path).map_err(doing())? {
        let entry = entry.map_err(doing())?;
        // It may have been rotated away.
        if let Ok((length, written)) = entry
            .metadata()
            .and_then(|file| Ok((file.len(), file.modified()?)))
        {
            files.insert(entry.file_name(), (length, written));
        }
    }
    Ok(files)
}

/// Returns the lines of what journalctl says, with their ends. A line that is longer than [`LONGEST`] is several: whoever writes
/// it may never end it.
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

/// Hands over what there is now, and gives where it ended. Nothing to show is a failure for journalctl.
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
