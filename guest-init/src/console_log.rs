//! Messages of PID 1, on standard error: the console of the domain.

use log::{LevelFilter, Log, Metadata, Record};

struct Console;

impl Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprintln!("guest-init: {}", record.args());
    }

    fn flush(&self) {}
}

/// Shows warnings, and every step with `debug`.
pub fn init(debug: bool) {
    let level = if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Warn
    };
    if log::set_logger(&Console).is_ok() {
        log::set_max_level(level);
    }
}
