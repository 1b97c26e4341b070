//! Units made from init scripts.
//!
//! The header is defined by the LSB ("Comment Conventions for Init Scripts") and by old Red Hat
//! scripts (`# pidfile:`). The unit is the one that systemd-sysv-generator(8) would write, without the ordering
//! relative to other scripts, which does not matter for a single service.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Header of an init script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LsbHeader {
    /// Names of the service.
    pub provides: Vec<String>,
    /// Required dependencies: names of scripts, and facilities such as `$network`.
    pub required_start: Vec<String>,
    /// Optional dependencies, used if they are installed.
    pub should_start: Vec<String>,
    /// Description in one line.
    pub short_description: Option<String>,
    /// File that the service writes its process ID to.
    pub pid_file: Option<PathBuf>,
    /// True if the usage message mentions `reload`.
    pub can_reload: bool,
}

impl LsbHeader {
    /// Parses the header of a script; a script without a header yields an empty one.
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

    /// Returns the text of the unit file for `script`.
    pub fn unit_text(&self, script: &Path) -> String {
        let script = script.display();
        let mut text = format!("[Unit]\nSourcePath={script}\n");
        if let Some(description) = &self.short_description {
            let _ = writeln!(text, "Description=LSB: {}", description.replace('%', "%%"));
        }
        // `$network` is the only facility for which the generator writes more than an ordering.
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
