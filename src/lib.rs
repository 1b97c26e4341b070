//! Run what is installed on a Linux host inside strong sandboxes.
//!
//! A sandbox is a libvirt domain that runs the host's own `/usr`; only its configuration and its
//! state are its own. The modules, in the order data flows through them:

pub mod service;
