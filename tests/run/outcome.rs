//! How a command ends, and what is said of it.

use crate::support::Test;

cases! {
    every: the_status_is_the_commands;
}

chosen! {
    session Session: the_status_is_the_commands;
}

fn the_status_is_the_commands(test: &Test) {
    for status in [0, 1, 42, 255] {
        assert_eq!(test.run(&[], &format!("exit {status}")).code, status);
    }
}
