//! Changes of a sandbox's configuration.

mod edit;
mod limits;
