//! Init scripts as units.
//!
//! The header is that of the LSB ("Comment Conventions for Init Scripts") and of old Red Hat
//! scripts (`# pidfile:`). The unit is what systemd-sysv-generator(8) would write, without the order
//! towards other scripts, which does not matter to a single service.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What an init script says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LsbHeader {
    /// The names it goes by.
    pub provides: Vec<String>,
    /// What must be up before it: names of scripts, and facilities such as `$network`.
    pub required_start: Vec<String>,
    /// What should be up before it, if it is there.
    pub should_start: Vec<String>,
    /// One line about it.
    pub short_description: Option<String>,
    /// Where it writes its process ID.
    pub pid_file: Option<PathBuf>,
    /// Whether its usage names `reload`.
    pub can_reload: bool,
}

impl LsbHeader {
    /// Reads the header out of the text of a script; a script without one gives an empty one.
    pub fn parse(script: &str) -> Self {
        let mut header = Self::default();
        let mut in_lsb = false;
        for line in script.lines() {
            let lower = line.to_ascii_lowercase();
            header.can_reload |= lower.contains("usage") && lower.contains("|reload");
            let Some(comment) = line.strip_prefix('#').map(str::trim) else {
                continue;
            };
            match comment {
                "## BEGIN INIT INFO" => in_lsb = true,
                "## END INIT INFO" => in_lsb = false,
                _ => header.comment(comment, in_lsb),
            }
        }
        header
    }

    fn comment(&mut self, comment: &str, in_lsb: bool) {
        let Some((key, value)) = comment.split_once(':') else {
            return;
        };
        let value = value.trim();
        let words = || value.split_whitespace().map(str::to_owned);
        match (key.to_ascii_lowercase().as_str(), in_lsb) {
            ("provides", true) => self.provides.extend(words()),
            ("required-start", true) => self.required_start.extend(words()),
            ("should-start", true) => self.should_start.extend(words()),
            ("short-description", true) if !value.is_empty() => {
                self.short_description = Some(value.to_owned())
            }
            ("pidfile", false) if value.starts_with('/') => self.pid_file = Some(value.into()),
            _ => {}
        }
    }

    /// The unit file that stands for `script`.
    pub fn unit_text(&self, script: &Path) -> String {
        let script = script.display();
        let mut text = format!("[Unit]\nSourcePath={script}\n");
        if let Some(description) = &self.short_description {
            let _ = writeln!(text, "Description=LSB: {}", description.replace('%', "%%"));
        }
        // The only facility for which the generator writes more than an order.
        if self
            .required_start
            .iter()
            .chain(&self.should_start)
            .any(|name| name == "$network")
        {
            text.push_str("Wants=network-online.target\nAfter=network-online.target\n");
        }
        let _ = write!(
            text,
            "[Service]\nType=forking\nRestart=no\nKillMode=process\nGuessMainPID=no\n"
        );
        match &self.pid_file {
            Some(path) => writeln!(text, "RemainAfterExit=no\nPIDFile={}", path.display()),
            None => writeln!(text, "RemainAfterExit=yes"),
        }
        .unwrap_or_default();
        let _ = write!(
            text,
            "SuccessExitStatus=5 6\nExecStart={script} start\nExecStop={script} stop\n"
        );
        if self.can_reload {
            let _ = writeln!(text, "ExecReload={script} reload");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_becomes_a_unit() {
        let header = LsbHeader::parse(
            "#!/bin/sh\n# pidfile: /run/x.pid\n### BEGIN INIT INFO\n# Provides:  x x-alias\n\
             # Required-Start: $network $remote_fs\n# Should-Start: y\n# Short-Description: 100% x\n\
             ### END INIT INFO\n# Required-Start: not-this\ncase $1 in\n*) echo \"Usage: {start|stop|reload}\"\nesac\n",
        );
        assert_eq!(header.provides, ["x", "x-alias"]);
        assert_eq!(header.required_start, ["$network", "$remote_fs"]);
        assert_eq!(header.should_start, ["y"]);
        let text = header.unit_text(Path::new("/etc/init.d/x"));
        for line in [
            "Description=LSB: 100%% x",
            "PIDFile=/run/x.pid",
            "ExecStart=/etc/init.d/x start",
            "ExecReload=/etc/init.d/x reload",
            "Wants=network-online.target",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_script_without_header_still_starts() {
        let text = LsbHeader::parse("#!/bin/sh\n").unit_text(Path::new("/etc/init.d/x"));
        assert!(text.contains("RemainAfterExit=yes\n") && !text.contains("Reload"));
    }
}
