//! Leaf wrappers of the operating system: paths resolved under a root, the exact copy of files,
//! locks, atomic writes, and the way into a running container.
//!
//! Nothing here knows what a sandbox is, and nothing here prints.

pub mod archive;
pub mod atomic;
pub mod blank;
pub mod calendar;
pub mod claim;
pub mod command;
pub mod confined;
pub mod copy;
pub mod deadline;
pub mod enter;
pub mod export;
pub mod first;
pub mod forward;
pub mod fresh;
pub mod hold;
pub mod label;
pub mod listen;
pub mod lock;
pub mod loopdev;
pub mod mounted;
pub mod notify;
pub mod patient;
pub mod pidfd;
pub mod printable;
pub mod private;
pub mod read_only;
pub mod reference;
pub mod remove;
pub mod rename;
pub mod root;
pub mod siblings;
pub mod tail;
pub mod view;

crate::error::from_leaf!(
    archive::ArchiveError,
    atomic::WriteError,
    copy::CopyError,
    lock::LockError,
    root::RootError,
);
