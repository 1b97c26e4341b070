//! Points at which a unit test has a command fail or die; nothing in the programs.
//!
//! A point stands before each step that changes something on disk or in libvirt.

/// Fails, or ends the command, if a test asked for it.
///
/// # Errors
/// The test asked for a failure here.
#[cfg(not(test))]
#[inline(always)]
pub fn point() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use injected::{Fault, Outcome, point, with};

#[cfg(test)]
mod injected {
    use std::cell::Cell;
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::thread::panicking;

    /// Kind of a fault.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// The step fails, and the command goes on.
        Error,
        /// The process dies before the step.
        Death,
    }

    /// Result of a command with a fault.
    #[derive(Debug, PartialEq, Eq)]
    pub enum Outcome<T> {
        /// The command has fewer steps.
        NotReached(T),
        /// The step failed, and the command returned this.
        Returned(T),
        /// The process died.
        Died,
    }

    /// Payload of the panic that stands for the end of the process.
    struct Dead;

    thread_local! {
        /// Fault to come, and the number of steps before it.
        static PLANNED: Cell<Option<(Fault, u32)>> = const { Cell::new(None) };
    }

    /// Fails, or ends the command, if the planned fault is here. A dead process changes nothing any more.
    pub fn point() -> io::Result<()> {
        match PLANNED.get() {
            None => return Ok(()),
            Some((fault, before @ 1..)) => PLANNED.set(Some((fault, before - 1))),
            Some((Fault::Error, 0)) => {
                PLANNED.set(None);
                return Err(io::Error::other("a planned fault"));
            }
            Some((Fault::Death, 0)) if panicking() => {
                return Err(io::Error::other("a planned death"));
            }
            Some((Fault::Death, 0)) => resume_unwind(Box::new(Dead)),
        }
        Ok(())
    }

    /// Runs a command with a fault after `before` steps.
    pub fn with<T>(fault: Fault, before: u32, command: impl FnOnce() -> T) -> Outcome<T> {
        PLANNED.set(Some((fault, before)));
        let ended = catch_unwind(AssertUnwindSafe(command));
        let left = PLANNED.take();
        match ended {
            Ok(value) if left.is_some() => Outcome::NotReached(value),
            Ok(value) => Outcome::Returned(value),
            Err(payload) if payload.is::<Dead>() => Outcome::Died,
            Err(payload) => resume_unwind(payload),
        }
    }
}
