//! The configuration of a sandbox, changed after it was made.

mod edit;
mod limits;
