//! Parallel queries of sandboxes: one that does not answer delays no other.

use std::thread;

/// Number of sandboxes that are queried at a time.
const AT_ONCE: usize = 32;

/// Queries each on its own thread; the results are in the order of the queries.
pub(in crate::service) fn ask_all<T: Send, R: Send>(
    asked: Vec<T>,
    ask: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let mut slots: Vec<(Option<T>, Option<R>)> =
        asked.into_iter().map(|one| (Some(one), None)).collect();
    for some in slots.chunks_mut(AT_ONCE) {
        thread::scope(|scope| {
            for (asked, answer) in some {
                scope.spawn(|| *answer = asked.take().map(&ask));
            }
        });
    }
    slots.into_iter().filter_map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_are_asked_at_once_and_answer_in_order() {
        // Each waits for all others.
        let all_there = Barrier::new(AT_ONCE);
        let asked: Vec<usize> = (0..2 * AT_ONCE).collect();
        let answers = ask_all(asked.clone(), |number| {
            all_there.wait();
            number
        });
        assert_eq!(answers, asked);
    }
}
