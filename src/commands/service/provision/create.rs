//! `create`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ArgGroup;
use clap_complete::ArgValueCompleter;

use crate::commands::complete;
use crate::commands::output;
use crate::commands::service::batch::cancel_on_signals;
use crate::commands::service::guest::execute;
use crate::commands::service::lifecycle;
use crate::config::network::NetworkChoice;
use crate::config::sandbox::DEFAULT_TIMEOUT;
use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::workload::{Ready, Restart};
use crate::config::{
    Bytes, Command, Confinement, Credential, Device, FileType, Hostname, KernelRequest, Mount,
    Network, Publish, Resources, SandboxConfig, SandboxName, Security, State, TreeImage, Workload,
};
use crate::error::{Error, Result};
use crate::host;
use crate::service::{Plan, Sandbox, Sandboxes};

/// Create a sandbox for units of this host, or for a command
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("workload").args(["unitfile", "command"]).required(true)))]
#[command(
    override_usage = "virt-sandbox-service create [OPTIONS] --unitfile <UNIT>... <NAME>\n       \
                            virt-sandbox-service create [OPTIONS] <NAME> -- <COMMAND>..."
)]
pub struct Args {
    /// Unit to run in the sandbox; may be given more than once. A template gets the name of the sandbox as its instance
    #[arg(
        short,
        long = "unitfile",
        visible_alias = "unit",
        value_name = "UNIT",
        add = ArgValueCompleter::new(complete::units)
    )]
    unitfile: Vec<String>,
    /// Package whose configuration and state belong to the service, in addition to the detected ones
    #[arg(short = 'P', long, value_name = "PACKAGE")]
    package: Vec<String>,
    /// Treatment of the service's state on the host
    #[arg(long, value_enum, default_value_t)]
    state: State,
    /// Copy the state even if the service runs: the same as --state copy
    #[arg(short = 'C', long, conflicts_with = "state")]
    copy: bool,
    /// NIC: dhcp, source=NETWORK, bridge=BRIDGE, direct=DEVICE, mac=MAC, address=IP[/PREFIX], route=NET[/PREFIX]%GATEWAY,
    /// filter=NAME; or none
    /// [default: dhcp,source=default]
    #[arg(short = 'N', long, value_name = "NIC")]
    network: Vec<NetworkChoice>,
    /// Mount; the place inside comes first: host-bind:TARGET=SOURCE[,ro], guest-bind:TARGET=SOURCE[,ro] or ram:TARGET=SIZE
    #[arg(short, long, value_name = "MOUNT")]
    mount: Vec<Mount>,
    /// Character device of the host to give to a container, such as /dev/ttyS0; may be given more than once. /dev/net/tun
    /// and /dev/fuse are given automatically if units need them
    #[arg(long, value_name = "DEVICE")]
    device: Vec<Device>,
    /// File of the host to pass as a credential: a unit reads it with LoadCredential=ID, a command at $CREDENTIALS_DIRECTORY/ID. It is read at every
    /// start and stored nowhere. May be given more than once
    #[arg(long, value_name = "ID:FILE")]
    credential: Vec<Credential>,
    /// Security label: dynamic[,label=LABEL], static,label=LABEL or inherit [default: a label of its own]
    #[arg(short, long, value_name = "SECURITY")]
    security: Option<Security>,
    /// SELinux type of the sandbox's files [default: the type in the host's policy]
    #[arg(short = 'f', long = "filetype", value_name = "TYPE")]
    file_type: Option<FileType>,
    /// Publish a port on the host: [ADDRESS:]HOSTPORT:GUESTPORT[/udp]
    #[arg(long, value_name = "PORT")]
    publish: Vec<Publish>,
    /// Start it at the first connection to a published port, by the host's systemd
    #[arg(long, requires = "publish")]
    on_demand: bool,
    /// Stop it after this time without a connection to a published port
    #[arg(long, value_name = "SECONDS", requires = "on_demand", value_parser = clap::value_parser!(u32).range(1..))]
    idle_stop: Option<u32>,
    /// Parent directory of its tree [default: /var/lib/libvirt/filesystems]
    #[arg(short, long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Host name inside [default: the name of the sandbox]
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// Maximum time until the units are active, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Keep its tree in an image of this size, such as 10G, instead of a directory; a number alone counts MiB
    #[arg(short, long, visible_alias = "image", value_name = "SIZE")]
    imagesize: Option<ImageSize>,
    /// Format of the image
    #[arg(long, value_enum, default_value_t, requires = "imagesize")]
    format: TreeFormat,
    /// Filesystem of the image
    #[arg(long, value_enum, default_value_t, requires = "imagesize")]
    filesystem: TreeFilesystem,
    /// Start it and wait until its units are active; if that fails, remove it again
    #[arg(long)]
    start: bool,
    /// Print the treatment of every path with the reason, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    resources: Resources,
    #[command(flatten)]
    kernel: KernelRequest,
    #[command(flatten)]
    confinement: Confinement,
    #[command(flatten)]
    how: CommandArgs,
    /// Name of the sandbox
    #[arg(value_parser = parse_name)]
    name: SandboxName,
    /// Command to run in the sandbox instead of units, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Size of an image, as given: libvirt-sandbox took a number alone as millions of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImageSize {
    Bytes(Bytes),
    Bare(u32),
}

impl FromStr for ImageSize {
    type Err = <Bytes as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(mebi) if mebi <= MOST_BARE => Ok(Self::Bare(mebi)),
            Ok(_) | Err(_) => text.parse().map(Self::Bytes),
        }
    }
}

/// Highest number alone that counts MiB; more is bytes.
const MOST_BARE: u32 = 1 << 20;

impl ImageSize {
    /// Returns the size, and says what a number alone was taken as.
    fn bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Bare(mebi) => {
                log::info!("the image has {mebi} MiB; say --imagesize {mebi}M");
                Bytes::mebi(mebi)
            }
        }
    }
}

/// Returns the unit, with the name of the sandbox as its instance if it is a template.
fn instance(unit: &str, name: &SandboxName) -> String {
    match unit.split_once('@') {
        Some((prefix, rest)) if rest.is_empty() || rest.starts_with('.') => {
            format!("{prefix}@{name}{rest}")
        }
        Some(_) | None => unit.to_owned(),
    }
}

/// Parses the name. One `--mount` of libvirt-sandbox took several mounts, of which all but the first look like a name here.
fn parse_name(text: &str) -> Result<SandboxName> {
    match text.parse::<Mount>() {
        Ok(_) => Err(Error::refused(format!(
            "'{text}' is a mount; write --mount before each"
        ))),
        Err(_) => (text.parse())
            .map_err(|error: <SandboxName as FromStr>::Err| Error::refused(error.to_string())),
    }
}

/// Options of a command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
struct CommandArgs {
    /// Account of the command, by name or number [default: root]
    #[arg(
        long,
        visible_alias = "username",
        value_name = "USER",
        conflicts_with = "unitfile"
    )]
    user: Option<String>,
    /// Uid of the account; a missing account is created in the sandbox
    #[arg(short = 'U', long, value_name = "UID", conflicts_with = "unitfile", value_parser = clap::value_parser!(u32).range(..=MOST_ID))]
    uid: Option<u32>,
    /// Gid of its group [default: that of the account]
    #[arg(short = 'G', long, value_name = "GID", conflicts_with = "unitfile", value_parser = clap::value_parser!(u32).range(..=MOST_ID))]
    gid: Option<u32>,
    /// Home directory [default: that of the account]
    #[arg(
        long,
        visible_alias = "homedir",
        value_name = "DIR",
        conflicts_with = "unitfile"
    )]
    home: Option<PathBuf>,
    /// Working directory [default: /]
    #[arg(short = 'w', long, value_name = "DIR", conflicts_with = "unitfile")]
    workdir: Option<PathBuf>,
    /// Set a variable of the command; may be given more than once
    #[arg(short, long, value_name = "KEY=VALUE", conflicts_with = "unitfile", value_parser = execute::pair)]
    env: Vec<(String, String)>,
    /// Set variables from a file with NAME=VALUE on each line; --env overrides them. The file is read now and its values are stored in sandbox.toml.
    /// May be given more than once
    #[arg(long, value_name = "FILE", conflicts_with = "unitfile")]
    env_file: Vec<PathBuf>,
    /// Reaction to the end of the command
    #[arg(long, value_enum, default_value_t, conflicts_with = "unitfile")]
    restart: Restart,
    /// When the command counts as ready: started, output (after its first output), port=N[/udp] (when a socket listens there) or notify
    /// (sd_notify(3))
    #[arg(
        long,
        value_name = "WHEN",
        default_value_t,
        conflicts_with = "unitfile"
    )]
    ready: Ready,
}

/// Highest uid: setuid(2) allows more, but some tools would read a higher one as negative.
const MOST_ID: i64 = i32::MAX as i64;

impl CommandArgs {
    fn with(self, argv: Vec<String>) -> Result<Command> {
        let environment = crate::commands::environment(&self.env_file)?;
        Ok(Command {
            argv,
            user: self.user,
            uid: self.uid,
            gid: self.gid,
            home: self.home,
            directory: self.workdir,
            restart: self.restart,
            ready: self.ready,
            environment: environment.into_iter().chain(self.env).collect(),
        })
    }
}

impl Args {
    /// Returns the settings as a configuration; relative paths are below the working directory.
    fn draft(self, sandboxes: &Sandboxes) -> Result<SandboxConfig> {
        let workload = if self.command.is_empty() {
            let instances = self.unitfile.iter().map(|unit| instance(unit, &self.name));
            Workload::Units(instances.collect())
        } else {
            Workload::Command(self.how.with(self.command)?)
        };
        let base = self.path.map(absolute).transpose()?;
        let cwd = &absolute(PathBuf::from("."))?;
        let draft = sandboxes.draft(self.name, workload, base.as_deref());
        Ok(SandboxConfig {
            packages: self.package,
            hostname: self
                .hostname
                .map_or(draft.hostname, |hostname| hostname.to_string()),
            timeout: self.timeout,
            networks: networks(&self.network)?,
            mounts: self.mount.into_iter().map(|m| m.absolute(cwd)).collect(),
            devices: self.device,
            credentials: self
                .credential
                .into_iter()
                .map(|c| c.absolute(cwd))
                .collect(),
            security: self.security,
            file_type: self.file_type,
            publish: self.publish,
            on_demand: self.on_demand,
            idle_stop: self.idle_stop,
            idmap: self.confinement.idmap,
            seccomp: self.confinement.seccomp,
            capabilities: self.confinement.capabilities,
            kernel: self.kernel.absolute(cwd),
            image: self.imagesize.map(|size| TreeImage {
                size: size.bytes(),
                format: self.format,
                filesystem: self.filesystem,
            }),
            resources: self.resources,
            ..draft
        })
    }
}

pub fn run(args: Args, sandboxes: &Sandboxes) -> Result<()> {
    let (start, dry_run) = (args.start, args.dry_run);
    let state = if args.copy { State::Copy } else { args.state };
    let draft = args.draft(sandboxes)?;
    if dry_run {
        return show(&sandboxes.plan(draft, state)?);
    }
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    let sandbox = sandboxes.create(draft, state)?;
    let (name, config) = (sandbox.name(), sandbox.config());
    output::progress(&format!(
        "created sandbox '{name}' in '{}'",
        config
            .image_file()
            .as_ref()
            .unwrap_or(&config.path)
            .display()
    ));
    if start {
        return start_made(&sandbox, "create it");
    }
    if !host::runs_systemd() {
        log::info!(
            "this host does not run systemd: start the sandbox with 'virt-sandbox-service start {name}'"
        );
    }
    Ok(())
}

/// Starts a new sandbox and removes it on failure. `again` is the command that creates it, for the message.
pub fn start_made(sandbox: &Sandbox<'_>, again: &str) -> Result<()> {
    let name = sandbox.name();
    lifecycle::start_one(sandbox, None).inspect_err(|_| match sandbox.delete(true) {
        Ok(()) => {
            log::info!(
                "the sandbox '{name}' was removed again; {again} without --start to examine it"
            );
        }
        Err(error) => log::warn!("removing '{name}': {error}"),
    })
}

pub fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(Error::io("finding", &path))
}

/// Returns the requested NICs, or by default one on the default network.
pub fn networks(choices: &[NetworkChoice]) -> Result<Vec<Network>> {
    let usual = || vec![Network::dhcp(crate::config::network::DEFAULT_SOURCE)];
    Ok(NetworkChoice::nics(choices)?.unwrap_or_else(usual))
}

fn show(plan: &Plan) -> Result<()> {
    let mut text = format!(
        "sandbox  {}\nruns     {}\ntree     {}\n",
        plan.config.name,
        plan.config.workload,
        plan.config.path.display()
    );
    for (package, reason) in &plan.packages {
        text.push_str(&format!("package  {package}  [{reason}]\n"));
    }
    for network in &plan.config.networks {
        text.push_str(&format!("nic      {network}\n"));
    }
    for device in &plan.config.devices {
        text.push_str(&format!("device   {device}\n"));
    }
    for publish in &plan.config.publish {
        text.push_str(&format!("port     {publish}\n"));
    }
    for line in plan.tree.lines() {
        text.push_str(&line);
        text.push('\n');
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_counts_mebibytes() {
        let size = |text: &str| text.parse::<ImageSize>().unwrap().bytes();
        assert_eq!(size("300"), Bytes::mebi(300));
        assert_eq!(size("300M"), Bytes::mebi(300));
        assert_eq!(size("314572800"), Bytes::mebi(300));
        assert_eq!(size("300B").get(), 300);
        assert!("300MB".parse::<ImageSize>().is_err());
    }

    #[test]
    fn a_template_gets_the_name_as_its_instance() {
        let name = "web1".parse().unwrap();
        for (unit, expected) in [
            ("foo@.service", "foo@web1.service"),
            ("foo@", "foo@web1"),
            ("foo@a.service", "foo@a.service"),
            ("foo.service", "foo.service"),
        ] {
            assert_eq!(instance(unit, &name), expected);
        }
    }

    #[test]
    fn a_mount_in_place_of_the_name_is_explained() {
        let error = parse_name("ram:/x=1M").unwrap_err().to_string();
        assert!(error.contains("--mount before each"), "{error}");
        assert_eq!(parse_name("web1").unwrap().as_str(), "web1");
    }

    #[test]
    fn no_network_excludes_nics() {
        let choices = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(networks(&[]).unwrap(), [Network::dhcp("default")]);
        assert_eq!(networks(&choices(&["none"])).unwrap(), []);
        assert_eq!(
            networks(&choices(&["dhcp", "source=lab"])).unwrap().len(),
            2
        );
        assert!(networks(&choices(&["none", "dhcp"])).is_err());
    }
}
