//! Delays of a DHCP client between two messages.

use std::time::Duration;

/// Wait for a confirmation. A server confirms at once, without checking that the address is free, or never answers if it does not know
/// the client. But a bridge with STP forwards nothing for four seconds, so the request is repeated beyond that. The first request is
/// often lost, too: it is sent before the other end of the link is up.
const CONFIRMATION_WAIT: Duration = Duration::from_millis(500);
const FIRST_CONFIRMATION_WAIT: Duration = Duration::from_millis(50);
/// Requests for the confirmation of an address.
pub const CONFIRMATIONS: u32 = 12;
/// Searches before the delay grows, for the same reason.
const STEADY_TRIES: u32 = 6;
/// Longest delay between two searches for an address.
const MAX_WAIT: Duration = Duration::from_secs(64);
/// Shortest delay between two attempts to renew a lease (RFC 2131, 4.4.5).
const MIN_RENEWAL_WAIT: Duration = Duration::from_secs(60);

/// Returns the wait after a request for confirmation with `sent` requests before it; `None` if there were enough.
pub fn confirmation_wait(sent: u32) -> Option<Duration> {
    match sent {
        0..=1 => Some(FIRST_CONFIRMATION_WAIT),
        2..CONFIRMATIONS => Some(CONFIRMATION_WAIT),
        CONFIRMATIONS.. => None,
    }
}

/// Returns the wait after a request for renewal: half of the time that is left.
pub fn renewal_wait(left: Duration) -> Duration {
    (left / 2).max(MIN_RENEWAL_WAIT).min(left)
}

/// SplitMix64: transaction ids and jitter have to differ, not to be secret.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }

    /// Returns the wait after a DISCOVER with `sent` before it.
    pub fn search_wait(&mut self, sent: u32) -> Duration {
        self.backoff((sent + 1).saturating_sub(STEADY_TRIES))
    }

    /// Returns 1 s, 2 s, 4 s… with a quarter of jitter, so that sandboxes started together do not stay in step. RFC 2131 begins with 4 s,
    /// for slower networks.
    pub fn backoff(&mut self, tries: u32) -> Duration {
        let base = Duration::from_secs(1_u64 << tries.min(6)).min(MAX_WAIT);
        let thousandths = 875 + self.next() % 250;
        base * thousandths / 1000
    }
}
