//! Processes: programs of the host, with limits or confined, and processes of a running container.

pub mod command;
pub mod confined;
pub mod cpu_quota;
pub mod deadline;
pub mod enter;
pub mod first_process;
pub mod interruptible;
pub mod notify;
pub mod pidfd;
