//! `virt-sandbox`.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory, Parser};

use crate::commands::{complete, output};
use crate::config::network::NetworkChoice;
use crate::config::{
    Confinement, Credential, Disk, Hostname, Include, KernelRequest, Mount, Publish, Resources,
    SandboxName, Security,
};
use crate::domain::qemu::Emulation;
use crate::driver::emulation;
use crate::error::{Error, Result};
use crate::hypervisor::libvirt;
use crate::run::{
    self, Account, Connection, Environment, OWN_FAILURE, Outcome, Places, Request, Who,
};
use crate::sys::text::printable::{printable_line, printable_message};

pub(super) const PROGRAM: &str = "virt-sandbox";

/// Run one command in a throw-away sandbox
///
/// The command sees the host's root read-only; options give it more, such as a network. It has the
/// caller's streams, and its exit status becomes that of virt-sandbox.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, disable_version_flag = true, max_term_width = 80, help_expected = true)]
#[command(
    after_help = "Exit status: that of the command; 128+N if signal N ended it; 127 if there is no such command, 126 if it \
                        cannot be run, 124 if it took longer than --timeout, 125 for a failure of virt-sandbox itself."
)]
pub struct Cli {
    /// libvirt connection: lxc:///, qemu:///system, qemu:///session or qemu:///embed[?root=DIR]
    /// [default: $LIBVIRT_DEFAULT_URI, else the first that works here]
    #[arg(short, long, value_name = "URI", help_heading = "Sandbox")]
    connect: Option<String>,
    /// Name of the domain [default: generated]
    #[arg(short, long, value_name = "NAME", help_heading = "Sandbox")]
    name: Option<SandboxName>,
    /// Host name inside [default: the name of the domain]
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    hostname: Option<Hostname>,
    /// Security label: dynamic[,label=LABEL], static,label=LABEL or inherit
    #[arg(short, long, value_name = "LABEL", help_heading = "Sandbox")]
    security: Option<Security>,
    /// Maximum run time of the command, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Sandbox")]
    timeout: Option<Duration>,
    /// Maximum time until the command runs, in seconds [default: 60, with software emulation 180]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Sandbox")]
    start_timeout: Option<Duration>,

    /// Directory of the host to use as the root, instead of the host's own
    #[arg(short, long, value_name = "DIR", help_heading = "Files")]
    root: Option<PathBuf>,
    /// Make the root writable; changes are discarded at the end
    #[arg(long, help_heading = "Files")]
    volatile: bool,
    /// Mount; the place inside comes first: host-bind:TARGET=[SOURCE][,ro],
    /// host-image:TARGET=IMAGE[,format=FMT][,partition=N][,backing=yes][,ro], guest-bind:TARGET=SOURCE[,ro] or ram:TARGET=SIZE;
    /// in order. For backing=yes see --disk
    #[arg(short, long, value_name = "MOUNT", help_heading = "Files")]
    mount: Vec<Mount>,
    /// Copy a file or directory of the host into a writable mount: GUEST[=HOST]
    #[arg(short, long, value_name = "INCLUDE", help_heading = "Files")]
    include: Vec<Include>,
    /// Read includes from a file, one on each line
    #[arg(short = 'I', long, value_name = "FILE", help_heading = "Files")]
    includefile: Vec<PathBuf>,
    /// Disk at /dev/disk/by-tag/TAG: file:TAG=IMAGE[,format=FORMAT][,backing=yes][,ro] or block:TAG=DEVICE[,ro].
    /// An image that refers to other files (backing file, data file, extents) is refused, because it could name any file of the
    /// host; backing=yes opens them with your rights: use it only for an image that you trust with all your files. libvirt changes the owner of
    /// backing files of a virtual machine to the user of its QEMU, and does not change it back
    #[arg(long, value_name = "DISK", help_heading = "Files")]
    disk: Vec<Disk>,

    /// NIC: dhcp, source=NETWORK or bridge=BRIDGE or direct=DEVICE or user, mac=MAC, address=IP[/PREFIX],
    /// route=NET[/PREFIX]%GATEWAY, filter=NAME; or none. With `user` the hypervisor makes the connections of a virtual machine, which
    /// can reach the loopback of the host too, at 10.0.2.2 [default: none]
    #[arg(short = 'N', long, value_name = "NIC", help_heading = "Network")]
    network: Vec<NetworkChoice>,
    /// Publish a port on the host: [ADDRESS:]HOST:GUEST[/udp]
    #[arg(long, value_name = "PORT", help_heading = "Network")]
    publish: Vec<Publish>,

    /// Run the command as root, with the capabilities of the sandbox
    #[arg(short, long, conflicts_with = "switchto", help_heading = "Command")]
    privileged: bool,
    /// Run the command as this user of the host, by name or number
    #[arg(
        short = 'S',
        long,
        visible_alias = "user",
        value_name = "USER",
        help_heading = "Command"
    )]
    switchto: Option<String>,
    /// Set a variable of the command; without a value, pass the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = OsStringValueParser::new().try_map(pair), help_heading = "Command")]
    env: Vec<(OsString, OsString)>,
    /// Set variables from a file with NAME=VALUE on each line; --env overrides them; may be given more than once
    #[arg(long, value_name = "FILE", help_heading = "Command")]
    env_file: Vec<PathBuf>,
    /// Pass a file as a credential, readable at $CREDENTIALS_DIRECTORY/ID; may be given more than once
    #[arg(long, value_name = "ID:FILE", help_heading = "Command")]
    credential: Vec<Credential>,
    /// Working directory of the command [default: the caller's, or / if that does not exist inside]
    #[arg(short, long, value_name = "DIR", help_heading = "Command")]
    workdir: Option<PathBuf>,
    /// Give the command a terminal [default: if standard input and output are terminals]
    #[arg(short, long, overrides_with = "no_tty", help_heading = "Command")]
    tty: bool,
    /// Do not give the command a terminal
    #[arg(short = 'T', long, overrides_with = "tty", help_heading = "Command")]
    no_tty: bool,
    /// Character that ends the sandbox when typed with Ctrl at a terminal; or none
    #[arg(long, value_name = "CHARACTER", default_value = "]", value_parser = escape, help_heading = "Command")]
    escape: Escape,
    /// Start a root shell on a second console, for 'virsh console --devname console1'
    #[arg(short = 'l', long, help_heading = "Command")]
    shell: bool,

    /// Run a virtual machine with kvm or with qemu (software) [default: $VIRT_SANDBOX_VIRT_TYPE, else kvm if the host has it]
    #[arg(long, value_name = "TYPE", help_heading = "Virtual machine")]
    virt_type: Option<Emulation>,
    #[command(flatten)]
    kernel: KernelRequest,
    #[command(flatten)]
    resources: Resources,
    #[command(flatten)]
    confinement: Confinement,

    /// Print the libvirt domain and start nothing
    #[arg(long, help_heading = "Information")]
    print_xml: bool,
    /// Print the libvirt domain and the steps of the guest, and start nothing
    #[arg(long, conflicts_with = "print_xml", help_heading = "Information")]
    dry_run: bool,
    /// Print the duration of each stage of the start
    #[arg(long, help_heading = "Information")]
    timing: bool,
    /// Print more messages
    #[arg(short, long, help_heading = "Information")]
    verbose: bool,
    /// Show the steps of the guest too [also with $LIBVIRT_SANDBOX_INIT_DEBUG; $LIBVIRT_SANDBOX_STRACE traces the command]
    #[arg(short, long, help_heading = "Information")]
    debug: bool,
    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version, help_heading = "Information")]
    version: Option<bool>,

    /// Command with its arguments, looked up in the PATH of the sandbox
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Key that ends a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Escape(Option<u8>);

fn escape(text: &str) -> Result<Escape> {
    match text.as_bytes() {
        b"none" => Ok(Escape(None)),
        // Code that a terminal sends for a key with Ctrl (ascii(7)).
        [character @ b'@'..=b'_'] => Ok(Escape(Some(character & 0x1f))),
        [character @ b'a'..=b'z'] => Ok(Escape(Some(character & 0x1f))),
        _ => Err(Error::refused(format!(
            "'{text}' is not a letter, one of @[\\]^_, or none"
        ))),
    }
}

fn seconds(text: &str) -> Result<Duration> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| *seconds > 0.0 && *seconds <= 31_536_000.0)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| Error::refused(format!("'{text}' is not a number of seconds, up to a year")))
}

fn pair(text: OsString) -> Result<(OsString, OsString)> {
    let bytes = text.as_bytes();
    let (key, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], OsString::from_vec(bytes[at + 1..].to_vec())),
        None => {
            let value = std::env::var_os(&text);
            let value = value.ok_or_else(|| {
                Error::refused(format!(
                    "'{}' is not KEY=VALUE, nor in the environment",
                    text.to_string_lossy()
                ))
            })?;
            (bytes, value)
        }
    };
    if key.is_empty() {
        return Err(Error::refused(format!(
            "'{}' has no name before '='",
            text.to_string_lossy()
        )));
    }
    Ok((OsStr::from_bytes(key).to_owned(), value))
}

/// Parses the command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    super::restrict_umask();
    complete::answer(Cli::command);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A failure to print cannot be reported.
            let _ = error.print();
            return match error.use_stderr() {
                true => ExitCode::from(OWN_FAILURE),
                false => ExitCode::SUCCESS,
            };
        }
    };
    let is_verbose = std::env::var_os("LIBVIRT_SANDBOX_DEBUG").is_some();
    let is_verbose = cli.verbose || cli.debug || is_verbose;
    output::log_to_stderr(PROGRAM, is_verbose);
    if !is_verbose {
        libvirt::silence();
    }
    match execute(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = output::fail(PROGRAM, &error);
            ExitCode::from(OWN_FAILURE)
        }
    }
}

fn execute(cli: Cli) -> Result<u8> {
    let is_root = nix::unistd::geteuid().is_root();
    let home = Account::find(&Who::Caller)?.home;
    let places = Places::of_user(is_root, &home)?;
    let around = Environment::of_process(is_root);
    let connection = Connection::choose(cli.connect.as_deref(), &around)?;
    let is_free = around.is_free(cli.connect.as_deref());
    let substitute = || is_free.then(|| connection.substitute()).flatten();
    let (print_xml, dry_run, timing) = (cli.print_xml, cli.dry_run, cli.timing);
    let request = request(cli)?;
    if print_xml || dry_run {
        let connection = substitute().unwrap_or(connection.clone());
        return show(&request, &connection, &places, dry_run).map(|()| 0);
    }
    let run = |connection: &Connection| run::run(&request, connection, &places);
    // libvirt is asked for its drivers only where the usual one fails: a question takes as long as a connection.
    let outcome = match run(&connection) {
        Ok(outcome) => outcome,
        Err(error) => match substitute() {
            Some(machines) => run(&machines)?,
            None => return Err(error),
        },
    };
    if timing {
        print_timing(&outcome);
    }
    if let Some(message) = &outcome.message {
        eprintln!("{PROGRAM}: {}", printable_message(message));
    }
    Ok(outcome.code)
}

fn request(cli: Cli) -> Result<Request> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let who = match (cli.privileged, cli.switchto) {
        (true, _) => Who::Privileged,
        (false, Some(user)) => Who::User(user),
        (false, None) => Who::Caller,
    };
    let mut includes = cli.include;
    for file in &cli.includefile {
        let text = std::fs::read_to_string(file).map_err(Error::io("reading", file))?;
        includes.extend(Include::parse_list(&text, file)?);
    }
    Ok(Request {
        name: cli.name,
        root: cli.root.map(|root| cwd.join(root)),
        volatile: cli.volatile,
        who,
        environment: (super::environment(&cli.env_file)?.into_iter())
            .map(|(key, value)| (key.into(), value.into()))
            .chain(cli.env)
            .collect(),
        credentials: (cli.credential.into_iter())
            .map(|credential| credential.absolute(&cwd))
            .collect(),
        directory: cli.workdir.map(|directory| cwd.join(directory)),
        hostname: cli.hostname,
        mounts: cli
            .mount
            .into_iter()
            .map(|mount| mount.absolute(&cwd))
            .collect(),
        includes: includes
            .into_iter()
            .map(|include| include.absolute(&cwd))
            .collect(),
        disks: cli
            .disk
            .into_iter()
            .map(|disk| disk.absolute(&cwd))
            .collect(),
        networks: NetworkChoice::nics(&cli.network)?.unwrap_or_default(),
        publish: cli.publish,
        security: cli.security,
        resources: cli.resources,
        confinement: cli.confinement,
        shell: cli.shell,
        emulation: match cli.virt_type {
            Some(emulation) => Some(emulation),
            None => emulation::emulation_of_environment()?,
        },
        terminal: cli.tty || (is_terminal && !cli.no_tty),
        hands_over: true,
        escape: cli.escape.0,
        timeout: cli.timeout,
        start_timeout: cli.start_timeout,
        kernel: cli.kernel.absolute(&cwd),
        debug: cli.debug || std::env::var_os("LIBVIRT_SANDBOX_INIT_DEBUG").is_some(),
        command: traced(cli.command, std::env::var_os("LIBVIRT_SANDBOX_STRACE")),
    })
}

/// Returns the command, traced if `$LIBVIRT_SANDBOX_STRACE` is set to 1 or to an expression of strace(1). Each process
/// gets a file in the `/tmp` of the sandbox, which must be writable.
fn traced(command: Vec<OsString>, filter: Option<OsString>) -> Vec<OsString> {
    let Some(filter) = filter else {
        return command;
    };
    let words = ["strace", "-ff", "-s", "1000", "-o", "/tmp/sandbox.log"];
    let mut traced: Vec<OsString> = words.map(OsString::from).into();
    if filter != "1" {
        traced.extend(["-e".into(), filter]);
    }
    traced.push("--".into());
    traced.extend(command);
    traced
}

fn show(request: &Request, connection: &Connection, places: &Places, whole: bool) -> Result<()> {
    let plan = run::preview(request, connection, places)?;
    output::print(&plan.boot.xml)?;
    if whole {
        output::print("\n")?;
        output::print_json(&plan.boot.guest)?;
    }
    Ok(())
}

fn print_timing(outcome: &Outcome) {
    for (name, total, own) in outcome.stages.iter() {
        eprintln!(
            "{PROGRAM}: {:<10} {:>9.1} ms  +{:.1} ms",
            // The names of stages come from the sandbox.
            printable_line(name),
            total.as_secs_f64() * 1000.0,
            own.as_secs_f64() * 1000.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert_eq!(output::too_wide(&Cli::command()), Vec::<String>::new());
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        for line in [
            &["virt-sandbox", "/bin/ls", "-l"][..],
            &["virt-sandbox", "--", "/bin/ls", "-l"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.command, ["/bin/ls", "-l"]);
            assert!(!cli.shell);
        }
        assert!(Cli::try_parse_from(["virt-sandbox"]).is_err());
        assert!(Cli::try_parse_from(["virt-sandbox", "-p", "-S", "x", "--", "y"]).is_err());
    }

    #[test]
    fn escapes_are_keys_with_ctrl() {
        for (text, byte) in [
            ("]", Some(0x1d)),
            ("a", Some(1)),
            ("A", Some(1)),
            ("none", None),
        ] {
            assert_eq!(escape(text).unwrap(), Escape(byte));
        }
        assert!(escape("1").is_err() && escape("").is_err());
    }

    #[test]
    fn a_command_can_be_traced() {
        let command = || vec![OsString::from("ls")];
        assert_eq!(traced(command(), None), command());
        let line = |filter: &str| traced(command(), Some(filter.into())).join(OsStr::new(" "));
        assert_eq!(line("1"), "strace -ff -s 1000 -o /tmp/sandbox.log -- ls");
        assert!(
            line("trace=open")
                .into_string()
                .unwrap()
                .contains(" -e trace=open -- ")
        );
    }

    #[test]
    fn variables_are_split_at_the_first_sign() {
        let of = |text: &str| pair(text.into());
        assert_eq!(of("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(of("A=").unwrap(), ("A".into(), "".into()));
        assert!(of("=x").is_err() && of("NO_SUCH_VARIABLE").is_err());
    }
}
