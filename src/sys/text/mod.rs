//! Text for people.

pub mod printable;
pub mod timestamp;
