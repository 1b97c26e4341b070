//! Log of PID 1: on the console of the domain, and in a file of the staging root that the host reads if the sandbox fails to start.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

/// Log file in the staging root. It stays open after the staging root is released.
const PATH: &str = "/guest.log";

struct Console {
    file: OnceLock<File>,
    /// Lines so far, for a caller that gets them later.
    lines: Mutex<Vec<String>>,
}

static CONSOLE: Console = Console {
    file: OnceLock::new(),
    lines: Mutex::new(Vec::new()),
};

impl Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format!("guest-init: {}\n", record.args());
        // A machine may have no console, and eprint! panics without one.
        let _ = std::io::stderr().write_all(line.as_bytes());
        if let Some(mut file) = self.file.get() {
            let _ = file.write_all(line.as_bytes());
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Writes the log to the staging root as well.
pub fn keep_in_stage() {
    if let Ok(file) = File::create(PATH) {
        let _ = CONSOLE.file.set(file);
    }
}

/// Takes the lines so far.
pub fn take() -> Vec<String> {
    let mut lines = CONSOLE.lines.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut lines)
}

/// Turns on warnings and errors, and with `debug` every step of the boot.
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
