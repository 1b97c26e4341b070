//! CPU time of this process, held to a quota by the threads themselves.
//!
//! For work on behalf of a sandbox that cannot be done in the sandbox's group: libvirt kills whatever it finds in the group of a
//! domain that ends, and a thread alone cannot join a group of another process (`cgroups(7)`, "thread mode").

use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Time a quota counts for, as the kernel's default (`cpu.cfs_period_us`): so much may be used at once after a rest.
const PERIOD: Duration = Duration::from_millis(100);

/// Time until the limit is asked for again.
const REFRESH: Duration = Duration::from_secs(1);

/// Limit of the CPU time of this process, for the threads that share it.
pub struct CpuQuota {
    percent: Box<dyn Fn() -> Option<u32> + Send + Sync>,
    account: Mutex<Account>,
}

impl Debug for CpuQuota {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.account.fmt(formatter)
    }
}

impl CpuQuota {
    /// Counts from now on. `percent` gives the limit in percent of one CPU, `None` for no limit; it is asked every second.
    pub fn new(percent: impl Fn() -> Option<u32> + Send + Sync + 'static) -> Self {
        let now = Instant::now();
        let account = Mutex::new(Account {
            percent: percent(),
            refreshed: now,
            measured: now,
            used: process_time(),
            credit: 0.0,
        });
        Self {
            percent: Box::new(percent),
            account,
        }
    }

    /// Sleeps for a part of the accounting period if more was used than the limit allows; returns false if the calling thread may go on.
    pub fn pause(&self) -> bool {
        let due = {
            let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if now.saturating_duration_since(account.refreshed) >= REFRESH {
                account.percent = (self.percent)();
                account.refreshed = now;
            }
            account.charge(now, process_time())
        };
        sleep(due.min(PERIOD));
        !due.is_zero()
    }
}

#[derive(Debug)]
struct Account {
    percent: Option<u32>,
    refreshed: Instant,
    measured: Instant,
    used: Duration,
    /// Seconds of CPU time that are left; negative if more was used.
    credit: f64,
}

impl Account {
    /// Returns how long whoever uses CPU time has to pause.
    fn charge(&mut self, now: Instant, used: Duration) -> Duration {
        let elapsed = now.saturating_duration_since(self.measured).as_secs_f64();
        let spent = used.saturating_sub(self.used).as_secs_f64();
        (self.measured, self.used) = (now, used);
        let Some(percent) = self.percent else {
            self.credit = 0.0;
            return Duration::ZERO;
        };
        let share = f64::from(percent) / 100.0;
        let credit = self.credit + elapsed * share - spent;
        self.credit = credit.min(PERIOD.as_secs_f64() * share);
        Duration::try_from_secs_f64(-self.credit / share).unwrap_or_default()
    }
}

/// Returns the CPU time that all threads of this process have used.
fn process_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// An account whose clocks are moved by hand.
    struct Clocks {
        account: Account,
        now: Instant,
        used: Duration,
    }

    impl Clocks {
        fn new(percent: Option<u32>) -> Self {
            let (now, used) = (Instant::now(), Duration::ZERO);
            let account = Account {
                percent,
                refreshed: now,
                measured: now,
                used,
                credit: 0.0,
            };
            Self { account, now, used }
        }

        fn pass(&mut self, elapsed: Duration, spent: Duration) -> Duration {
            self.now += elapsed;
            self.used += spent;
            self.account.charge(self.now, self.used)
        }
    }

    #[test]
    fn a_quota_is_kept_over_time() {
        let mut clocks = Clocks::new(Some(20));
        let begin = clocks.now;
        for _ in 0..1000 {
            let pause = clocks.pass(MILLISECOND * 10, MILLISECOND * 10);
            clocks.pass(pause + MILLISECOND, Duration::ZERO);
        }
        let share = clocks.used.as_secs_f64() / (clocks.now - begin).as_secs_f64();
        assert!((0.18..=0.205).contains(&share), "{share}");
    }

    #[test]
    fn rest_saves_no_more_than_one_period() {
        let mut clocks = Clocks::new(Some(50));
        assert!(clocks.pass(PERIOD * 100, Duration::ZERO).is_zero());
        assert!(clocks.pass(Duration::ZERO, PERIOD / 2).is_zero());
        let pause = clocks.pass(Duration::ZERO, MILLISECOND * 10);
        assert!(pause.abs_diff(MILLISECOND * 20) < MILLISECOND, "{pause:?}");
    }

    #[test]
    fn without_a_quota_nothing_pauses_and_nothing_is_owed() {
        let mut clocks = Clocks::new(None);
        assert!(clocks.pass(Duration::ZERO, PERIOD * 100).is_zero());
        clocks.account.percent = Some(1);
        assert!(clocks.pass(PERIOD, Duration::ZERO).is_zero());
    }
}
