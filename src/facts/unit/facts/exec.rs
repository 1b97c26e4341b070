//! Command lines of `Exec…=`: systemd.service(5), "Command lines".
//!
//! Variables (`$FOO`) stay as written: their values come from files and from systemd itself.

use crate::facts::unit::syntax::words::{Unbalanced, split_marked};

/// Phase in which a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExecPhase {
    /// `ExecCondition=`: its status decides whether the service starts at all.
    Condition,
    /// `ExecStartPre=`.
    StartPre,
    /// `ExecStart=`: the service itself.
    Start,
    /// `ExecStartPost=`.
    StartPost,
    /// `ExecReload=`.
    Reload,
    /// `ExecStop=`, of sockets `ExecStopPre=`.
    Stop,
    /// `ExecStopPost=`.
    StopPost,
}

impl ExecPhase {
    /// All keys with their phases, in the order in which they run.
    pub const KEYS: [(&'static str, Self); 8] = [
        ("ExecCondition", Self::Condition),
        ("ExecStartPre", Self::StartPre),
        ("ExecStart", Self::Start),
        ("ExecStartPost", Self::StartPost),
        ("ExecReload", Self::Reload),
        ("ExecStop", Self::Stop),
        ("ExecStopPre", Self::Stop),
        ("ExecStopPost", Self::StopPost),
    ];
}

/// Privileges of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExecPrivileges {
    /// The privileges of the unit.
    #[default]
    Unit,
    /// `+`: all privileges, without the unit's filesystem sandboxing.
    Full,
    /// `!`: `User=` and capabilities are not applied.
    NoUser,
    /// `!!`: as `!` where there are no ambient capabilities.
    NoUserFallback,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecCommand {
    /// Phase in which it runs.
    pub phase: ExecPhase,
    /// Program: an absolute path, or a name to look up in the search path.
    pub program: String,
    /// `@`: `argv[0]`, if it differs from the program.
    pub argv0: Option<String>,
    /// Arguments without `argv[0]`.
    pub args: Vec<String>,
    /// `-`: a failure is ignored.
    pub ignore_failure: bool,
    /// `:`: variables are not expanded.
    pub keep_variables: bool,
    /// `|`: run by the user's shell (systemd 258).
    pub in_shell: bool,
    /// `+`, `!` and `!!`.
    pub privileges: ExecPrivileges,
}

impl ExecCommand {
    /// Parses the commands of one value; a lone `;` separates them and `\;` is an argument.
    ///
    /// `expand` expands the specifiers of a word.
    ///
    /// # Errors
    /// [`Unbalanced`] if a quote is not closed.
    pub fn parse(
        phase: ExecPhase,
        value: &str,
        mut expand: impl FnMut(&str) -> String,
    ) -> Result<Vec<Self>, Unbalanced> {
        let words = split_marked(value)?;
        let commands = words.split(|word| word.bare && word.text == ";");
        Ok(commands
            .filter_map(|words| {
                Self::one(phase, words.iter().map(|w| w.text.as_str()), &mut expand)
            })
            .collect())
    }

    fn one<'a>(
        phase: ExecPhase,
        mut words: impl Iterator<Item = &'a str>,
        expand: &mut impl FnMut(&str) -> String,
    ) -> Option<Self> {
        let mut command = Self {
            phase,
            program: String::new(),
            argv0: None,
            args: Vec::new(),
            ignore_failure: false,
            keep_variables: false,
            in_shell: false,
            privileges: ExecPrivileges::Unit,
        };
        let mut program = words.next()?;
        let mut named = false;
        while let Some(prefix) = program.chars().next() {
            match prefix {
                '-' => command.ignore_failure = true,
                ':' => command.keep_variables = true,
                '@' => named = true,
                '|' => command.in_shell = true,
                '+' => command.privileges = ExecPrivileges::Full,
                '!' if command.privileges == ExecPrivileges::NoUser => {
                    command.privileges = ExecPrivileges::NoUserFallback;
                }
                '!' => command.privileges = ExecPrivileges::NoUser,
                _ => break,
            }
            program = &program[1..];
        }
        command.program = expand(program);
        if named {
            command.argv0 = Some(expand(words.next()?));
        }
        // `\;` was read as an unknown escape, which keeps its backslash.
        command.args = words
            .map(|word| {
                if word == "\\;" {
                    ";".to_owned()
                } else {
                    expand(word)
                }
            })
            .collect();
        (!command.program.is_empty()).then_some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Vec<ExecCommand> {
        ExecCommand::parse(ExecPhase::Start, value, |word| word.replace("%i", "x y")).unwrap()
    }

    #[test]
    fn command_prefixes_are_parsed() {
        let cases = [
            ("/bin/a b", ("/bin/a", None, false, ExecPrivileges::Unit)),
            ("-/bin/a b", ("/bin/a", None, true, ExecPrivileges::Unit)),
            (
                "-@/bin/a name b",
                ("/bin/a", Some("name"), true, ExecPrivileges::Unit),
            ),
            ("+-/bin/a b", ("/bin/a", None, true, ExecPrivileges::Full)),
            ("!a b", ("a", None, false, ExecPrivileges::NoUser)),
            ("!!:a b", ("a", None, false, ExecPrivileges::NoUserFallback)),
        ];
        for (value, (program, argv0, ignore_failure, privileges)) in cases {
            let command = &parse(value)[0];
            assert_eq!(command.program, program);
            assert_eq!(command.argv0.as_deref(), argv0);
            assert_eq!(
                (command.ignore_failure, command.privileges),
                (ignore_failure, privileges)
            );
            assert_eq!(command.args, ["b"]);
        }
        assert!(parse("!!:a")[0].keep_variables);
    }

    #[test]
    fn one_value_may_hold_commands() {
        let commands = parse(r#"/bin/a "x y" ; -/bin/b \; ";" --i=%i $V ;"#);
        assert_eq!(commands.len(), 2);
        assert_eq!(commands[0].args, ["x y"]);
        assert_eq!(commands[1].args, [";", ";", "--i=x y", "$V"]);
        assert!(parse("-").is_empty() && parse("").is_empty() && parse("@a").is_empty());
        assert!(ExecCommand::parse(ExecPhase::Stop, "/bin/sh -c 'x", str::to_owned).is_err());
    }
}
