//! Messages of PID 1: on the console of the domain, and in a file of the staging root that the host can
//! read when the sandbox did not come up.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

/// The file in the staging root. It stays open when the staging root is gone.
const PATH: &str = "/guest.log";

struct Console {
    file: OnceLock<File>,
    /// What was said so far, for a caller that is told later.
    said: Mutex<Vec<String>>,
}

static CONSOLE: Console = Console {
    file: OnceLock::new(),
    said: Mutex::new(Vec::new()),
};

impl Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format!("guest-init: {}\n", record.args());
        // A machine may have no console, for which eprint! would end it.
        let _ = std::io::stderr().write_all(line.as_bytes());
        if let Some(mut file) = self.file.get() {
            let _ = file.write_all(line.as_bytes());
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Keeps what PID 1 says in the staging root, too.
pub fn keep_in_stage() {
    if let Ok(file) = File::create(PATH) {
        let _ = CONSOLE.file.set(file);
    }
}

/// Takes what was said so far.
pub fn take() -> Vec<String> {
    let mut said = CONSOLE.said.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut said)
}

/// Shows warnings and errors, and every step with `debug`.
pub fn init(debug: bool) {
    let level = if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Warn
    };
    if log::set_logger(&CONSOLE).is_ok() || log::max_level() < level {
        log::set_max_level(level);
    }
}
