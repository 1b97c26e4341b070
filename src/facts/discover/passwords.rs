//! Services that ask their users for the passwords of accounts, by way of PAM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Service;
use super::text::{read_program, read_text};
use crate::sys::path::below;
use crate::sys::root::Root;

/// Directories with the rules of services (pam.conf(5)).
const RULES: [&str; 2] = ["/etc/pam.d", "/usr/lib/pam.d"];

/// Function of libpam by which a program asks for a password (pam_authenticate(3)).
const ASKS: &[u8] = b"pam_authenticate";

/// Maximum number of programs that are searched.
const MOST_PROGRAMS: usize = 300;

impl Service {
    /// Returns the rules by which a program of the service asks for passwords of accounts, if one does.
    #[must_use]
    pub fn password_rules(&self, root: &Path) -> Option<PathBuf> {
        let host = Root::of_host(root).ok()?;
        let files = RULES.iter().flat_map(|dir| {
            let entries = fs::read_dir(below(root, Path::new(dir)))
                .into_iter()
                .flatten();
            entries
                .flatten()
                .map(move |entry| Path::new(dir).join(entry.file_name()))
        });
        let mut rules = files.filter(|file| self.ships(file));
        let rules = rules.find(|file| {
            read_text(&host, file).is_some_and(|(text, _)| are_for_passwords(&text))
        })?;
        let of_units = self.members().flat_map(|unit| &unit.commands);
        let of_units = of_units.map(|command| PathBuf::from(&command.program));
        let mut programs = self
            .paths
            .keys()
            .filter(|path| path.starts_with("/usr") && is_program(root, path))
            .cloned()
            .chain(of_units)
            .take(MOST_PROGRAMS);
        let asks = |program: PathBuf| {
            read_program(&host, &program)
                .is_some_and(|content| content.windows(ASKS.len()).any(|window| window == ASKS))
        };
        programs.any(asks).then_some(rules)
    }
}

fn is_program(root: &Path, path: &Path) -> bool {
    fs::symlink_metadata(below(root, path))
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Returns true if rules check passwords with pam_unix(8), by themselves or in rules that they include.
fn are_for_passwords(rules: &str) -> bool {
    rules.lines().map(str::trim).any(|line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("@include"), Some(file)) => file.ends_with("-auth") || file == "login",
            (Some("auth" | "-auth"), Some("include" | "substack")) => true,
            (Some("auth" | "-auth"), Some(_)) => line.contains("pam_unix"),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_passwords_are_recognised() {
        for (rules, expected) in [
            ("@include common-auth\n@include common-account\n", true),
            ("#%PAM-1.0\nauth       substack     password-auth\n", true),
            ("auth required pam_unix.so nullok\n", true),
            ("auth required pam_env.so\n@include common-account\n", false),
            (
                "# @include common-auth\nsession include system-auth\n",
                false,
            ),
        ] {
            assert_eq!(are_for_passwords(rules), expected, "{rules}");
        }
    }
}
