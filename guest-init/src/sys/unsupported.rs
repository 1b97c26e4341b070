//! Errors that mean a missing feature of the kernel or a filesystem, as opposed to temporary failures.
//!
//! Only a missing feature is a reason to confine a sandbox less. A temporary failure (`ENOSPC`, `EMFILE`, `EAGAIN`, `EIO`…) is an error.

use std::io;

use nix::errno::Errno;

/// Returns whether an error means a missing feature: the kernel or the filesystem lacks it, or the administrator has disabled it.
#[must_use]
pub fn is_unsupported(error: &anyhow::Error) -> bool {
    let of_io = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
    let errno = match error.downcast_ref::<Errno>() {
        Some(errno) => Some(*errno),
        None => error.downcast_ref::<io::Error>().and_then(of_io),
    };
    errno.is_some_and(|errno| {
        matches!(
            errno,
            Errno::EINVAL | Errno::ENODEV | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM
        )
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn temporary_failures_are_not_unsupported() {
        let wrapped = |errno: Errno| anyhow::Result::<()>::Err(errno.into());
        let wrapped = |errno| wrapped(errno).context("one").context("two").unwrap_err();
        for errno in [Errno::EINVAL, Errno::EPERM, Errno::ENOSYS, Errno::ENODEV] {
            assert!(is_unsupported(&wrapped(errno)), "{errno}");
        }
        for errno in [
            Errno::ENOSPC,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EAGAIN,
            Errno::EIO,
            Errno::ENOMEM,
            Errno::EINTR,
            Errno::EACCES,
            Errno::ENOENT,
            Errno::EDQUOT,
        ] {
            assert!(!is_unsupported(&wrapped(errno)), "{errno}");
        }
        let of_io = io::Error::from_raw_os_error(Errno::EPERM as i32);
        assert!(is_unsupported(&anyhow::Error::from(of_io).context("one")));
        assert!(!is_unsupported(&anyhow::anyhow!("EPERM")));
    }
}
