//! Values that several keys have: names, sizes, paths, and how they are written.

pub(crate) mod escape;
pub mod name;
pub mod path;
pub mod size;
pub mod snapshot;
