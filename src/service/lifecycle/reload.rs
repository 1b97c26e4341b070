//! Reload of units in a running sandbox.

use crate::error::{Error, Result};
use crate::service::sandbox::Sandbox;

impl Sandbox<'_> {
    /// Reloads units of a running sandbox; by default those of its units that can reload, since a
    /// server may come with a timer, which cannot.
    ///
    /// # Errors
    /// The sandbox does not run, a named unit cannot reload, or none can.
    pub fn reload(&self, units: &[String]) -> Result<()> {
        let (name, config) = (self.name(), self.config());
        let guest = self.enter()?;
        let able;
        let units = if units.is_empty() {
            let mut command = vec!["systemctl", "show", "--property=Id,CanReload", "--"];
            command.extend(config.units().iter().map(String::as_str));
            able = able_to_reload(&guest.capture(&command)?.stdout);
            if able.is_empty() {
                return Err(Error::refused(format!(
                    "none of the units of '{name}' can reload: {}; restart it with 'virt-sandbox-service restart {name}'",
                    config.units().join(" ")
                )));
            }
            &able
        } else {
            units
        };
        let mut command = vec!["systemctl", "reload", "--"];
        command.extend(units.iter().map(String::as_str));
        let done = guest.capture(&command)?;
        if done.success {
            return Ok(());
        }
        Err(Error::refused(format!(
            "reloading {} in '{name}': {}",
            units.join(" "),
            done.stderr
        )))
    }
}

/// Returns the units that can reload, from the output of `systemctl show`.
fn able_to_reload(text: &str) -> Vec<String> {
    text.split("\n\n")
        .filter(|unit| unit.lines().any(|line| line == "CanReload=yes"))
        .filter_map(|unit| unit.lines().find_map(|line| line.strip_prefix("Id=")))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_cannot_reload_are_left_out() {
        let text = "Id=a.service\nCanReload=yes\n\nId=a.timer\nCanReload=no\n\nId=b.service\nCanReload=yes\n";
        assert_eq!(able_to_reload(text), ["a.service", "b.service"]);
        assert!(able_to_reload("").is_empty());
    }
}
