//! The unit of a command.

use std::path::Path;

use serde::Serialize;

use guest_init::config::File;

use crate::config::workload::{COMMAND_UNIT, Ready, Restart};
use crate::config::{Command, SandboxConfig, environment as variables};
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::service::lifecycle::POWER_OFF;
use crate::service::unit::{Unit, UnitName};

/// The unit that ends the sandbox after its command.
pub const END: &str = "virt-sandbox-end.service";

/// Where units that are made for a sandbox are.
pub const DIRECTORY: &str = "/run/systemd/system";

/// Seconds between the end of a command and that of its sandbox, in which whoever waits for it sees how it ended.
const GRACE: u32 = 2;

/// Where the variables of a command are, inside. systemd tells every user what a unit says, but not what is in this.
const ENVIRONMENT: &str = "/run/virt-sandbox/command.env";

/// Returns the file of the variables of a command.
pub fn environment(command: &Command) -> File {
    File {
        path: ENVIRONMENT.into(),
        mode: 0o600,
        content: variables::file(command.environment.iter()),
    }
}

/// The text of the unit of the command of a sandbox.
///
/// # Errors
/// Where the template is wrong.
pub fn text(command: &Command, config: &SandboxConfig, overrides: &Path) -> Result<String> {
    let ids = config.credentials.iter().map(|it| it.id.as_str());
    let given = Given {
        environment_file: Some(ENVIRONMENT),
        credentials: ids.collect(),
        seconds: config.timeout,
    };
    render(command, &given, overrides)
}

/// What the unit of a command says beside the command.
#[derive(Default)]
struct Given<'a> {
    /// The file of its variables; without it the unit says them itself.
    environment_file: Option<&'a str>,
    /// Names of its credentials.
    credentials: Vec<&'a str>,
    /// Seconds it may take to be up.
    seconds: u32,
}

fn render(command: &Command, given: &Given<'_>, overrides: &Path) -> Result<String> {
    #[derive(Serialize)]
    struct View<'a> {
        description: String,
        ends: Option<&'a str>,
        r#type: &'a str,
        user: &'a str,
        group: Option<u32>,
        directory: Option<&'a str>,
        environment: Vec<String>,
        environment_file: Option<&'a str>,
        credentials: &'a [&'a str],
        command: &'a [String],
        probe: Option<String>,
        restart: &'a str,
        seconds: u32,
    }
    let home = command.home.as_deref().and_then(Path::to_str);
    let environment = match given.environment_file {
        Some(_) => None,
        None => Some(command.environment.iter()),
    };
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
            .chain((environment.into_iter().flatten()).map(|(key, value)| format!("{key}={value}")))
            .collect(),
        environment_file: given.environment_file,
        credentials: &given.credentials,
        command: &command.argv,
        probe: probe(command.ready),
        restart: command.restart.as_str(),
        seconds: given.seconds,
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

/// The text of the unit that ends the sandbox.
///
/// # Errors
/// Where the template is wrong.
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

/// The unit of a command, as what belongs to it is found by.
///
/// # Errors
/// Where the template is wrong.
pub fn of(command: &Command) -> Result<Unit> {
    // How it is waited for says nothing of what belongs to it.
    let command = Command {
        ready: Ready::Started,
        ..command.clone()
    };
    let name = UnitName::exact(COMMAND_UNIT).map_err(|error| Error::refused(error.to_string()))?;
    let path = Path::new(DIRECTORY).join(COMMAND_UNIT);
    let content = render(&command, &Given::default(), Path::new("/nonexistent"))?;
    Ok(Unit::of_text(name, &path, &content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::unit::Specifiers;

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            ..Command::default()
        }
    }

    /// The unit as it is looked at for what belongs to it.
    fn text(command: &Command) -> Result<String> {
        let given = Given {
            seconds: 90,
            ..Given::default()
        };
        render(command, &given, Path::new("/nonexistent"))
    }

    #[test]
    fn variables_are_in_a_file_of_roots_and_credentials_are_named() {
        let command = Command {
            environment: [("A".to_owned(), "hunter2 \"$".to_owned())].into(),
            ..command(&["/x"])
        };
        let config = SandboxConfig {
            credentials: vec!["db:/etc/db".parse().unwrap()],
            ..SandboxConfig::example()
        };
        let text = super::text(&command, &config, Path::new("/nonexistent")).unwrap();
        assert!(
            !text.contains("hunter2") && !text.contains("/etc/db"),
            "{text}"
        );
        assert!(text.contains("\nEnvironmentFile=/run/virt-sandbox/command.env\n"));
        assert!(text.contains("\nLoadCredential=db:db\n"));
        let file = environment(&command);
        assert_eq!(file.content, "A=\"hunter2 \\\"\\$\"\n");
        assert_eq!(file.mode, 0o600);
        assert!(!format!("{file:?}").contains("hunter2"));
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
        let text = text(&command).unwrap();
        insta::assert_snapshot!(text);
        // What systemd reads is what was said.
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
            text(&command).unwrap()
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
            let text = text(&command).unwrap();
            assert!(
                text.contains(&format!("WorkingDirectory={directory}/\n")),
                "{text}"
            );
            let facts = of(&command).unwrap().facts(&Specifiers::default());
            assert_eq!(facts.environment, [("A".to_owned(), "b".to_owned())]);
        }
    }

    proptest::proptest! {
        // Whatever is said, systemd reads just that, and no line or setting more; or it is refused before.
        #[test]
        fn nothing_that_is_said_becomes_a_setting(
            words in proptest::collection::vec(hostile(), 1..4),
            key in "[A-Z_]{1,8}",
            value in hostile(),
            directory in hostile(),
        ) {
            let usual = text(&command(&["/x"])).unwrap();
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
                let text = text(&command).unwrap();
                proptest::prop_assert_eq!(text.lines().count(), usual.lines().count() + 2, "{}", text);
                let facts = of(&command).unwrap().facts(&Specifiers::default());
                proptest::prop_assert_eq!(facts.commands.len(), 1);
                proptest::prop_assert_eq!(&facts.commands[0].args, &words);
                proptest::prop_assert_eq!(facts.environment, [(key, value)]);
            }
        }
    }

    /// What could end a line, a word, a section or a document, among other characters.
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
