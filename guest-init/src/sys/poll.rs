//! Waiting for a state that sends no event.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Calls `look` every `interval` until it returns a value; `None` after `limit`. It is called at least once.
pub fn find<T>(
    limit: Duration,
    interval: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if begin.elapsed() >= limit {
            return None;
        }
        sleep(interval);
    }
}

/// Waits until `is_so`, checked every `interval`; `false` after `limit`.
pub fn until(limit: Duration, interval: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    find(limit, interval, || is_so().then_some(())).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_repeated_until_the_time_is_up() {
        let soon = Duration::from_millis(1);
        let mut looks = 0;
        let third = find(Duration::from_secs(60), soon, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(third, Some(3));
        assert!(!until(soon, soon, || false));
        assert!(until(Duration::ZERO, soon, || true));
    }
}
