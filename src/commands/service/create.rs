//! `create`.

use std::path::PathBuf;

use clap_complete::ArgValueCompleter;

use super::lifecycle;
use crate::commands::complete;
use crate::commands::output;
use crate::config::network::NetworkChoice;
use crate::config::sandbox::DEFAULT_TIMEOUT;
use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::workload::{Ready, Restart};
use crate::config::{
    Bytes, Command, Confinement, Credential, Device, FileType, Hostname, KernelRequest, Mount,
    Network, Publish, Resources, SandboxName, Security, State, TreeImage, Workload,
};
use crate::error::{Error, Result};
use crate::host;
use crate::service::{Plan, Request, Sandbox, Sandboxes};

/// Make a sandbox around units of this host, or around a command
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unit that runs in the sandbox; may be given more than once
    #[arg(
        short,
        long = "unitfile",
        visible_alias = "unit",
        value_name = "UNIT",
        required_unless_present = "command",
        conflicts_with = "command",
        add = ArgValueCompleter::new(complete::units)
    )]
    unitfile: Vec<String>,
    /// Package whose configuration and state belong to the service, beside those that are found
    #[arg(short = 'P', long, value_name = "PACKAGE")]
    package: Vec<String>,
    /// What becomes of the state that the service has on the host
    #[arg(long, value_enum, default_value_t)]
    state: State,
    /// Copy the state in any case: the same as --state copy
    #[arg(short = 'C', long, conflicts_with = "state")]
    copy: bool,
    /// NIC: dhcp, source=NETWORK, bridge=BRIDGE, direct=DEVICE, mac=MAC, address=IP[/PREFIX], route=NET[/PREFIX]%GATEWAY,
    /// filter=NAME; or none
    /// [default: dhcp,source=default]
    #[arg(short = 'N', long, value_name = "NIC")]
    network: Vec<NetworkChoice>,
    /// Mount: host-bind:TARGET=SOURCE[,ro], guest-bind:TARGET=SOURCE[,ro] or ram:TARGET=SIZE
    #[arg(short, long, value_name = "MOUNT")]
    mount: Vec<Mount>,
    /// Character device of the host that a container has as well, such as /dev/ttyS0; may be given more than once. What units
    /// ask for of /dev/net/tun and /dev/fuse they have
    #[arg(long, value_name = "DEVICE")]
    device: Vec<Device>,
    /// File of the host that what runs reads at $CREDENTIALS_DIRECTORY/ID, by LoadCredential=ID in a unit; it is read at every
    /// start, and kept nowhere. May be given more than once
    #[arg(long, value_name = "ID:FILE")]
    credential: Vec<Credential>,
    /// Security label: dynamic[,label=LABEL], static,label=LABEL or inherit [default: one of its own]
    #[arg(long, value_name = "SECURITY")]
    security: Option<Security>,
    /// Type that SELinux knows the files of the sandbox by [default: what the host's policy has for it]
    #[arg(short = 'f', long = "filetype", value_name = "TYPE")]
    file_type: Option<FileType>,
    /// Port of the sandbox that the host answers on: [ADDRESS:]HOSTPORT:GUESTPORT[/udp]
    #[arg(long, value_name = "PORT")]
    publish: Vec<Publish>,
    /// Have the host's systemd start it when a published port is first asked for
    #[arg(long, requires = "publish")]
    on_demand: bool,
    /// Stop it when no published port was used for so long, until one is asked for again
    #[arg(long, value_name = "SECONDS", requires = "on_demand", value_parser = clap::value_parser!(u32).range(1..))]
    idle_stop: Option<u32>,
    /// Directory that the sandbox's tree is made in [default: /var/lib/libvirt/filesystems]
    #[arg(short, long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Host name inside [default: the name of the sandbox]
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// Seconds the units may take to become active
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Keep its tree in an image of this size beside the directory of the tree, not in that
    #[arg(short, long, value_name = "SIZE")]
    imagesize: Option<Bytes>,
    /// Format of the image
    #[arg(long, value_enum, default_value_t, requires = "imagesize")]
    format: TreeFormat,
    /// Filesystem of the image
    #[arg(long, value_enum, default_value_t, requires = "imagesize")]
    filesystem: TreeFilesystem,
    #[command(flatten)]
    resources: Resources,
    #[command(flatten)]
    kernel: KernelRequest,
    #[command(flatten)]
    confinement: Confinement,
    /// Start it, and wait until its units are active; if they do not come up, nothing is left
    #[arg(long)]
    start: bool,
    /// Print every path with what becomes of it and why, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    how: CommandArgs,
    /// Name of the sandbox
    name: SandboxName,
    /// Command that runs in the sandbox instead of units, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How the command is run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
struct CommandArgs {
    /// Account that it runs as, by name or number [default: root]
    #[arg(
        long,
        visible_alias = "username",
        value_name = "USER",
        conflicts_with = "unitfile"
    )]
    user: Option<String>,
    /// Number of the account; one that the host does not have is made in the sandbox
    #[arg(short = 'U', long, value_name = "UID", conflicts_with = "unitfile", value_parser = clap::value_parser!(u32).range(..=MOST_ID))]
    uid: Option<u32>,
    /// Number of its group [default: that of the account]
    #[arg(short = 'G', long, value_name = "GID", conflicts_with = "unitfile", value_parser = clap::value_parser!(u32).range(..=MOST_ID))]
    gid: Option<u32>,
    /// Its home [default: that of the account]
    #[arg(
        long,
        visible_alias = "homedir",
        value_name = "DIR",
        conflicts_with = "unitfile"
    )]
    home: Option<PathBuf>,
    /// Directory it starts in [default: /]
    #[arg(short = 'w', long, value_name = "DIR", conflicts_with = "unitfile")]
    workdir: Option<PathBuf>,
    /// Added to its environment; may be given more than once
    #[arg(short, long, value_name = "KEY=VALUE", conflicts_with = "unitfile", value_parser = super::execute::pair)]
    env: Vec<(String, String)>,
    /// File with a NAME=VALUE on each line, added to its environment before those of --env; read now and kept in sandbox.toml.
    /// May be given more than once
    #[arg(long, value_name = "FILE", conflicts_with = "unitfile")]
    env_file: Vec<PathBuf>,
    /// What becomes of it when it ends
    #[arg(long, value_enum, default_value_t, conflicts_with = "unitfile")]
    restart: Restart,
    /// When it is up: started, output (it has written something), port=N[/udp] (somebody listens there) or notify
    /// (sd_notify(3))
    #[arg(
        long,
        value_name = "WHEN",
        default_value_t,
        conflicts_with = "unitfile"
    )]
    ready: Ready,
}

/// As of setuid(2): the highest number that no tool takes for a negative one.
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

pub fn run(args: Args, sandboxes: &Sandboxes) -> Result<()> {
    let networks = networks(&args.network)?;
    let request = Request {
        name: args.name,
        workload: if args.command.is_empty() {
            Workload::Units(args.unitfile)
        } else {
            Workload::Command(args.how.with(args.command)?)
        },
        packages: args.package,
        base: args.path.map(absolute).transpose()?,
        state: if args.copy { State::Copy } else { args.state },
        networks,
        mounts: mounts(args.mount)?,
        devices: args.device,
        credentials: credentials(args.credential)?,
        kernel: args.kernel.absolute(&absolute(PathBuf::from("."))?),
        security: args.security,
        file_type: args.file_type,
        publish: args.publish,
        on_demand: args.on_demand,
        idle_stop: args.idle_stop,
        image: args.imagesize.map(|size| TreeImage {
            size,
            format: args.format,
            filesystem: args.filesystem,
        }),
        resources: args.resources,
        confinement: args.confinement,
        hostname: args.hostname,
        timeout: args.timeout,
    };
    if args.dry_run {
        return show(&sandboxes.plan(&request)?);
    }
    let sandboxes = &sandboxes.cancelled_by(lifecycle::interruption()?);
    let name = request.name.clone();
    let sandbox = sandboxes.create(&request)?;
    let config = sandbox.config();
    output::progress(&format!(
        "created sandbox '{name}' in '{}'",
        config
            .image_file()
            .as_ref()
            .unwrap_or(&config.path)
            .display()
    ));
    if args.start {
        return start_made(&sandbox, "create it");
    }
    if !host::runs_systemd() {
        log::info!(
            "this host does not run systemd: start the sandbox with 'virt-sandbox-service start {name}'"
        );
    }
    Ok(())
}

/// Starts a sandbox that was just made; where that fails it is removed. `again` is how to make it once more.
pub fn start_made(sandbox: &Sandbox<'_>, again: &str) -> Result<()> {
    let name = sandbox.name();
    lifecycle::start_one(sandbox, None).inspect_err(|_| match sandbox.delete(true) {
        Ok(()) => {
            log::info!("nothing is left of '{name}'; {again} without --start to look into it");
        }
        Err(error) => log::warn!("removing '{name}': {error}"),
    })
}

pub fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(Error::io("finding", &path))
}

fn mounts(mounts: Vec<Mount>) -> Result<Vec<Mount>> {
    let cwd = absolute(PathBuf::from("."))?;
    Ok(mounts
        .into_iter()
        .map(|mount| mount.absolute(&cwd))
        .collect())
}

fn credentials(credentials: Vec<Credential>) -> Result<Vec<Credential>> {
    let cwd = absolute(PathBuf::from("."))?;
    Ok(credentials
        .into_iter()
        .map(|credential| credential.absolute(&cwd))
        .collect())
}

/// The NICs that are asked for; one on the usual network where nothing is.
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
