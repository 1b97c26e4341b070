//! Power button of a virtual machine, an input device (`Documentation/input/event-codes.rst` of Linux).

use std::fs::{self, File};
use std::io::Read;
use std::mem::size_of;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{input_event, timeval};
use nix::unistd::getpid;

use crate::process;

/// `EV_KEY` of `linux/input-event-codes.h`: a key has changed.
const EV_KEY: u16 = 1;

/// `KEY_POWER` of `linux/input-event-codes.h`.
const KEY_POWER: u16 = 116;

/// Devices with a power button, a keyboard among them. They signal SIGIO when a key is pressed.
#[derive(Debug)]
pub struct PowerButton(Vec<File>);

impl PowerButton {
    /// Opens the devices of this machine.
    pub fn open() -> Result<Self> {
        let entries = fs::read_dir("/sys/class/input").into_iter().flatten();
        let devices = entries.flatten().filter(|entry| {
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key"));
            let is_event = entry.file_name().to_string_lossy().starts_with("event");
            is_event && keys.is_ok_and(|keys| has_key(&keys, KEY_POWER))
        });
        let files = devices.map(|entry| listen(&Path::new("/dev/input").join(entry.file_name())));
        Ok(Self(files.collect::<Result<_>>()?))
    }

    /// Reads the events since the last call, and returns whether one says that the button was pressed.
    pub fn was_pressed(&mut self) -> bool {
        let mut events = [0; 16 * size_of::<input_event>()];
        let mut was_pressed = false;
        for device in &mut self.0 {
            while let Ok(length @ 1..) = device.read(&mut events) {
                let mut events = events[..length].chunks_exact(size_of::<input_event>());
                was_pressed |= events.any(is_press);
            }
        }
        was_pressed
    }
}

fn listen(device: &Path) -> Result<File> {
    let doing = || format!("listening on '{}'", device.display());
    let file = File::open(device).with_context(doing)?;
    process::own_signals(&file, getpid())?;
    // open(2) ignores O_ASYNC.
    let flags = OFlag::O_NONBLOCK | OFlag::O_ASYNC;
    fcntl(&file, FcntlArg::F_SETFL(flags)).with_context(doing)?;
    Ok(file)
}

/// Returns whether an event, a `struct input_event`, says that the power button was pressed.
fn is_press(event: &[u8]) -> bool {
    let fields = event.get(size_of::<timeval>()..).unwrap_or_default();
    let [type_low, type_high, code_low, code_high, value @ ..] = fields else {
        return false;
    };
    let number = |low: &u8, high: &u8| u16::from_ne_bytes([*low, *high]);
    let value = value.first_chunk().map(|value| i32::from_ne_bytes(*value));
    (
        number(type_low, type_high),
        number(code_low, code_high),
        value,
    ) == (EV_KEY, KEY_POWER, Some(1))
}

/// Returns whether a bitmap of keys, as the kernel writes it, has `key`: words in hexadecimal digits, the highest first.
fn has_key(bitmap: &str, key: u16) -> bool {
    let bits = usize::BITS as usize;
    let word = bitmap.split_whitespace().rev().nth(usize::from(key) / bits);
    let word = word.and_then(|word| usize::from_str_radix(word, 16).ok());
    word.is_some_and(|word| word >> (usize::from(key) % bits) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_key_is_found_in_a_bitmap() {
        assert!(has_key("10000000000000 0\n", KEY_POWER));
        assert!(has_key(
            "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n",
            KEY_POWER
        ));
        assert!(!has_key("4000 0 0\n", KEY_POWER));
        assert!(!has_key("0\n", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
    }

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut event = vec![0; size_of::<timeval>()];
            event.extend(kind.to_ne_bytes());
            event.extend(code.to_ne_bytes());
            event.extend(value.to_ne_bytes());
            event
        };
        assert!(is_press(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_press(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_press(&event(EV_KEY, 30, 1)));
        assert!(!is_press(&event(0, 0, 0)));
        assert!(!is_press(&[]));
    }
}
