//! The command line of the guest's kernel.

/// placeholder
pub fn command_line(_debug: bool, _tsc_khz: Option<u32>) -> String {
    String::new()
}
