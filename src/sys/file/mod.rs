//! Single files and directories: written whole, locked, renamed, removed, and read with a limit.

pub mod atomic;
pub mod bounded_read;
pub mod entries;
pub mod lock;
pub mod new_file;
pub mod private;
pub mod remove;
pub mod rename;
