//! The command lines: what is typed, and what is printed. What is done is the library's.

mod complete;
pub mod output;
pub mod run;
pub mod service;
