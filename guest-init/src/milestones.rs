//! When the moments of the boot were reached.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::wire::Milestone;

/// The moments that were reached, to be told to the host once it listens.
#[derive(Debug)]
pub struct Milestones {
    clock: Clock,
    /// In their order.
    pub reached: Vec<Milestone>,
}

#[derive(Debug, Clone, Copy)]
enum Clock {
    /// Since the first process of a container began.
    Process(Instant),
    /// Since the kernel of a virtual machine began.
    Kernel,
}

impl Milestones {
    /// Those of a container whose first process begins now.
    #[must_use]
    pub fn of_container() -> Self {
        Self {
            clock: Clock::Process(Instant::now()),
            reached: Vec::new(),
        }
    }

    /// Those of a virtual machine.
    #[must_use]
    pub fn of_machine() -> Self {
        Self {
            clock: Clock::Kernel,
            reached: Vec::new(),
        }
    }

    /// One is reached now.
    pub fn reach(&mut self, name: &str) -> Milestone {
        let since = match self.clock {
            Clock::Process(begin) => begin.elapsed(),
            Clock::Kernel => {
                clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into)
            }
        };
        let milestone = Milestone {
            name: name.to_owned(),
            millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        };
        self.reached.push(milestone.clone());
        milestone
    }
}
