//! The command lines: what is typed, and what is printed. What is done is the library's.

pub mod output;
pub mod run;
pub mod service;
