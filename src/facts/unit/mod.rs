//! The systemd units of a host, read from its files alone.
//!
//! | module | what it owns |
//! |---|---|
//! | [`name`] | unit names, and the escaping used in them |
//! | [`syntax`] | the text of a unit file as ordered settings; words of a value; `%i` and its kin |
//! | [`load`] | one unit put together from all its files: the search path, drop-ins, init scripts |
//! | [`facts`] | the needs that a unit declares, with a module for each kind of fact |
//! | [`special`] | the units that belong to systemd itself |
//! | [`closure`](mod@closure) | the units that belong together |
//!
//! The reader asks no running systemd and writes nothing. Other modules decide which of these facts a sandbox
//! uses, and add the facts of the package manager.

pub mod closure;
pub mod facts;
#[cfg(test)]
mod fixture;
pub mod load;
pub mod name;
pub mod special;
pub mod syntax;

pub use closure::{Closure, closure};
pub use facts::UnitFacts;
pub use load::dirs::UnitDirs;
pub use load::{LoadError, Unit, UnitSource};
pub use name::{UnitKind, UnitName};
pub use syntax::specifier::Specifiers;
