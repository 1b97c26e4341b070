//! The systemd units of a host, read from its files alone.
//!
//! | module | what it owns |
//! |---|---|
//! | [`name`], [`escape`] | unit names and the escaping used in them |
//! | [`syntax`] | the text of a unit file as ordered settings |
//! | [`words`] | splitting a value into words |
//! | [`dirs`], [`beside`] | the search path: fragments, aliases, masks; drop-ins, `.wants` |
//! | [`load`] | one unit put together from all its files |
//! | [`sysv`] | init scripts as units |
//! | [`specifier`] | `%i` and its kin |
//! | [`facts`] | what a unit says it needs |
//! | [`exec`], [`condition`], [`listen`], [`directory`], [`capability`], [`mention`] | the kinds of facts |
//! | [`special`] | which units are systemd's own |
//! | [`closure`](mod@closure) | the units that belong together |
//!
//! No systemd is asked and nothing is written. What the sandbox makes of the facts is decided
//! elsewhere, as is what a package manager knows about the same files.

pub mod beside;
pub mod capability;
pub mod closure;
pub mod condition;
pub mod directory;
pub mod dirs;
pub mod escape;
pub mod exec;
pub mod facts;
#[cfg(test)]
mod fixture;
pub mod listen;
pub mod load;
pub mod mention;
pub mod name;
mod nearest;
mod root;
pub mod special;
pub mod specifier;
pub mod syntax;
pub mod sysv;
pub mod words;

pub use closure::{Closure, closure};
pub use dirs::UnitDirs;
pub use facts::UnitFacts;
pub use load::{LoadError, Unit, UnitSource};
pub use name::{UnitKind, UnitName};
pub use specifier::Specifiers;
