//! Unit of a command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use guest_init::config::File;

use crate::config::workload::environment;
use crate::config::workload::{COMMAND_UNIT, Ready, Restart};
use crate::config::{Command, Credential};
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::facts::unit::{Unit, UnitName};
use crate::service::init_units::POWER_OFF;

/// Unit that ends the sandbox after its command.
pub const END: &str = "virt-sandbox-end.service";

/// Directory of generated units.
pub const DIRECTORY: &str = "/run/systemd/system";

/// Seconds between the end of a command and that of its sandbox, in which waiting processes can read its status.
const GRACE: u32 = 2;

/// File with the variables of a command, inside. systemd shows the content of a unit to every user, but not that of this file.
const ENVIRONMENT: &str = "/run/virt-sandbox/command.env";

/// Returns the unit of a command as a sandbox is given it, which has no secrets in it, and the files that have them.
///
/// # Errors
/// The template is invalid.
pub fn files(
    command: &Command,
    credentials: &[Credential],
    seconds: u32,
    overrides: &Path,
) -> Result<Vec<File>> {
    let told = Command {
        environment: BTreeMap::new(),
        ..command.clone()
    };
    let loaded = credentials
        .iter()
        .map(|Credential { id, .. }| format!("LoadCredential={id}:{id}\n"));
    let unit = Path::new(DIRECTORY).join(COMMAND_UNIT);
    let file = |path: PathBuf, mode, content| File {
        path,
        mode,
        content,
    };
    Ok(vec![
        file(unit.clone(), 0o644, text(&told, seconds, overrides)?),
        // Not in the template, which an admin may have replaced.
        file(
            unit.with_extension("service.d").join("secrets.conf"),
            0o644,
            format!(
                "[Service]\nEnvironmentFile={ENVIRONMENT}\n{}",
                loaded.collect::<String>()
            ),
        ),
        file(
            ENVIRONMENT.into(),
            0o600,
            environment::to_file(command.environment.iter()),
        ),
    ])
}

/// The text of the unit of a command that may take so many seconds to be up.
///
/// # Errors
/// The template is invalid.
pub fn text(command: &Command, seconds: u32, overrides: &Path) -> Result<String> {
    #[derive(Serialize)]
    struct View<'a> {
        description: String,
        ends: Option<&'a str>,
        r#type: &'a str,
        user: &'a str,
        group: Option<u32>,
        directory: Option<&'a str>,
        environment: Vec<String>,
        command: &'a [String],
        probe: Option<String>,
        restart: &'a str,
        seconds: u32,
    }
    let home = command.home.as_deref().and_then(Path::to_str);
    let variables = command.environment.iter();
    let view = View {
        description: command.to_string(),
        ends: (command.restart != Restart::Always).then_some(END),
        r#type: match command.ready {
            Ready::Notify => "notify",
            Ready::Started | Ready::Output | Ready::Port { .. } => "exec",
        },
        // Named also where it is root: systemd sets HOME and the like for a named account alone.
        user: command.user.as_deref().unwrap_or("root"),
        group: command.gid,
        directory: command.directory.as_deref().and_then(Path::to_str),
        environment: home
            .map(|home| format!("HOME={home}"))
            .into_iter()
            .chain(variables.map(|(key, value)| format!("{key}={value}")))
            .collect(),
        command: &command.argv,
        probe: probe(command.ready),
        restart: command.restart.as_str(),
        seconds,
    };
    Template::CommandUnit.render(&view, Some(overrides))
}

/// A script that ends once the command is up, or with an error if the command has ended before.
fn probe(ready: Ready) -> Option<String> {
    let is_so = match ready {
        Ready::Started | Ready::Notify => return None,
        Ready::Output => "journalctl --quiet --no-pager --output=cat --lines=1 _SYSTEMD_INVOCATION_ID=$INVOCATION_ID \
                          _TRANSPORT=stdout | grep -q ''"
            .to_owned(),
        // proc_net(5): the local address, the other one, and the state, which is 0A for a socket that listens and 07
        // for one of UDP that is not connected.
        Ready::Port { port, udp } => {
            let (table, state) = if udp { ("udp", "07") } else { ("tcp", "0A") };
            format!(
                "cat /proc/net/{table} /proc/net/{table}6 2>/dev/null | grep -q ':{port:04X} [0-9A-F]*:0000 {state} '"
            )
        }
    };
    Some(format!(
        "until {is_so}; do kill -0 $MAINPID 2>/dev/null || exit 1; sleep 0.1; done"
    ))
}

/// Renders the unit that ends the sandbox.
///
/// # Errors
/// The template is invalid.
pub fn end(overrides: &Path) -> Result<String> {
    #[derive(Serialize)]
    struct View {
        script: String,
    }
    let script = format!(
        "sleep {GRACE}; case $(systemctl is-active {COMMAND_UNIT}) in active|activating|reloading) ;; *) {};; esac",
        POWER_OFF.join(" ")
    );
    Template::EndUnit.render(&View { script }, Some(overrides))
}

/// Makes the unit of a command for discovery.
///
/// # Errors
/// The template is invalid.
pub fn of(command: &Command) -> Result<Unit> {
    // The readiness condition does not matter for discovery.
    let command = Command {
        ready: Ready::Started,
        ..command.clone()
    };
    let name = UnitName::exact(COMMAND_UNIT).map_err(|error| Error::refused(error.to_string()))?;
    let path = Path::new(DIRECTORY).join(COMMAND_UNIT);
    let content = text(&command, 0, Path::new("/nonexistent"))?;
    Ok(Unit::from_text(name, &path, &content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::unit::Specifiers;

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            ..Command::default()
        }
    }

    #[test]
    fn a_unit_has_no_secrets_in_it() {
        let command = Command {
            environment: [("A".to_owned(), "hunter2 \"$".to_owned())].into(),
            ..command(&["/x"])
        };
        let credentials = ["db:/etc/db".parse().unwrap()];
        let files = files(&command, &credentials, 90, Path::new("/nonexistent")).unwrap();
        let [unit, added, variables] = files.as_slice() else {
            panic!("{files:?}");
        };
        assert!(!unit.content.contains("hunter2"), "{unit:?}");
        assert_eq!(
            added.path,
            Path::new("/run/systemd/system/virt-sandbox-command.service.d/secrets.conf")
        );
        assert_eq!(
            added.content,
            "[Service]\nEnvironmentFile=/run/virt-sandbox/command.env\nLoadCredential=db:db\n"
        );
        assert_eq!(variables.content, "A=\"hunter2 \\\"\\$\"\n");
        assert_eq!(variables.mode, 0o600);
        assert!(!format!("{files:?}").contains("hunter2"));
    }

    #[test]
    fn a_unit_says_what_was_asked_for() {
        let nasty = "a b%n$X\"\\'\n;";
        let command = Command {
            user: Some("www".into()),
            gid: Some(5),
            home: Some("/srv/h%i".into()),
            directory: Some("/srv/a b".into()),
            restart: Restart::OnFailure,
            ready: "port=8080".parse().unwrap(),
            environment: [("A".to_owned(), "x $y %z \"q\"".to_owned())].into(),
            ..command(&["/opt/a b/x", nasty, "", "-x"])
        };
        let text = super::text(&command, 90, Path::new("/nonexistent")).unwrap();
        insta::assert_snapshot!(text);
        // systemd reads exactly the given values.
        let facts = of(&command).unwrap().facts(&Specifiers::default());
        let read = &facts.commands[0];
        assert_eq!(read.program, "/opt/a b/x");
        assert_eq!(read.args, [nasty, "", "-x"]);
        assert_eq!(
            facts.environment,
            [
                ("HOME".to_owned(), "/srv/h%i".to_owned()),
                ("A".to_owned(), "x $y %z \"q\"".to_owned())
            ]
        );
        assert_eq!(facts.user.as_deref(), Some("www"));
        assert_eq!(facts.working_directory.unwrap().path, Path::new("/srv/a b"));
    }

    #[test]
    fn readiness_is_a_type_or_a_probe() {
        let text = |ready: &str| {
            let command = Command {
                ready: ready.parse().unwrap(),
                ..command(&["/bin/x"])
            };
            super::text(&command, 90, Path::new("/nonexistent")).unwrap()
        };
        assert!(!text("started").contains("ExecStartPost"));
        assert!(text("notify").contains("Type=notify\n"));
        assert!(
            text("port=53/udp")
                .contains("/proc/net/udp6 2>/dev/null | grep -q ':0035 [0-9A-F]*:0000 07 '")
        );
        assert!(text("output").contains("$$INVOCATION_ID"));
    }

    #[test]
    fn the_end_of_a_directory_takes_no_line_along() {
        for directory in ["/\\", "/a\\\\\\", "/b "] {
            let command = Command {
                directory: Some(directory.into()),
                environment: [("A".to_owned(), "b".to_owned())].into(),
                ..command(&["/x"])
            };
            let text = text(&command, 90, Path::new("/nonexistent")).unwrap();
            assert!(
                text.contains(&format!("WorkingDirectory={directory}/\n")),
                "{text}"
            );
            let facts = of(&command).unwrap().facts(&Specifiers::default());
            assert_eq!(facts.environment, [("A".to_owned(), "b".to_owned())]);
        }
    }

    proptest::proptest! {
        // systemd reads exactly the given values without extra lines or settings, or they are refused before.
        #[test]
        fn nothing_that_is_said_becomes_a_setting(
            words in proptest::collection::vec(hostile(), 1..4),
            key in "[A-Z_]{1,8}",
            value in hostile(),
            directory in hostile(),
        ) {
            let usual = text(&command(&["/x"]), 90, Path::new("/nonexistent")).unwrap();
            let argv = std::iter::once("/x".to_owned()).chain(words.clone());
            let command = Command {
                argv: argv.collect(),
                directory: Some(format!("/{directory}").into()),
                environment: [(key.clone(), value.clone())].into(),
                ..Command::default()
            };
            if command.check().is_ok() {
                let file = toml::to_string(&command).unwrap();
                proptest::prop_assert_eq!(toml::from_str::<Command>(&file).unwrap(), command.clone());
                let text = text(&command, 90, Path::new("/nonexistent")).unwrap();
                proptest::prop_assert_eq!(text.lines().count(), usual.lines().count() + 2, "{}", text);
                let facts = of(&command).unwrap().facts(&Specifiers::default());
                proptest::prop_assert_eq!(facts.commands.len(), 1);
                proptest::prop_assert_eq!(&facts.commands[0].args, &words);
                proptest::prop_assert_eq!(facts.environment, [(key, value)]);
            }
        }
    }

    /// Texts with characters that could end a line, a word, a section or a document.
    fn hostile() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::strategy::Strategy;
        let parts = proptest::prop_oneof![
            proptest::char::any().prop_map(String::from),
            proptest::sample::select(vec![
                "\n",
                "\r",
                "\0",
                "\u{1b}[2J",
                "\u{85}",
                "\u{2028}",
                "\\",
                "\"",
                "'",
                "%n",
                "%",
                "$X",
                "${X}",
                "]]>",
                ";",
                " ; ",
                "\t",
                "#",
                "\\x41",
                "\n[Service]\nExecStart=/y\n",
                " ",
            ])
            .prop_map(str::to_owned),
        ];
        proptest::collection::vec(parts, 0..12).prop_map(|parts| parts.concat())
    }
}
