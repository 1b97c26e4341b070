//! The persistent sandbox of a service: what it is made from and how it is kept.
//!
//! | module | what it owns |
//! |---|---|
//! | [`unit`] | the units of the host: finding, reading and understanding them |

pub mod unit;
