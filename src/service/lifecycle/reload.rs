//! Units of a running sandbox read their configuration again.

use crate::error::{Error, Result};
use crate::service::sandbox::Sandbox;

impl Sandbox<'_> {
    /// Makes units of a running sandbox read their configuration again. If none is named, those of its units that can: with a
    /// server may come a timer, which has nothing to read.
    ///
    /// # Errors
    /// Where it does not run, a named unit cannot do so, or none can.
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

/// The units of `systemctl show` that can reload; an empty line is between two.
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
