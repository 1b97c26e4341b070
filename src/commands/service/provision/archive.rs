//! `export` and `import`.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};

use crate::commands::output;
use crate::commands::service::Name;
use crate::commands::service::batch::cancel_on_signals;
use crate::commands::service::provision::create;
use crate::config::network::NetworkChoice;
use crate::config::{SandboxName, Trust};
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::service::provision::import::Request;
use crate::sys::archive::{Compression, decompressed};
use crate::sys::file::new_file::NewFile;
use crate::sys::process::interruptible::Interruptible;

/// Write a sandbox with all its files to an archive
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The archive is a tar file, compressed if FILE ends with .gz, .tgz, .zst or .tzst. It holds the keys and passwords of the \
                  service. A running sandbox is frozen meanwhile, if libvirt can do so."
)]
pub struct ExportArgs {
    /// File to write, which must not exist; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    name: Name,
}

/// Create a sandbox from an archive
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The unit and the packages of the service come from this host: other versions than those of the archive \
                  are reported, missing ones refused. The content of the archive runs as root inside: \
                  take archives only from sources that you would take packages from.\n\n\
                  An archive that claims more of this host than its programs is refused, with a list of the claims and \
                  the --trust that allows them. Its idmap, seccomp, capabilities, security label and kernel are never taken over. \
                  Without --trust=units, an upgrade of the sandbox brings only files that every user of this host may read."
)]
pub struct ImportArgs {
    /// Parent directory of its tree [default: /var/lib/libvirt/filesystems]
    #[arg(short, long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// NIC instead of the archive's, as for 'create'; may be given more than once
    #[arg(short = 'N', long, value_name = "NIC")]
    network: Vec<NetworkChoice>,
    /// Allow the claims of the archive on this host: all that are listed, or only these kinds
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        value_delimiter = ',',
        num_args = 0..,
        require_equals = true,
        default_missing_value = "all"
    )]
    trust: Vec<Trust>,
    /// Allow the directories and devices of this host that the archive claims: --trust=mounts,devices
    #[arg(long)]
    trust_mounts: bool,
    /// Start it and wait until its units are active; if that fails, remove it again
    #[arg(long)]
    start: bool,
    /// Archive to read, perhaps compressed with gzip or zstd; - is standard input
    file: PathBuf,
    /// Name of the sandbox [default: as in the archive]
    name: Option<SandboxName>,
}

pub fn export(args: &ExportArgs, sandboxes: &Sandboxes) -> Result<()> {
    let name = &args.name.name;
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    let cancelled = || sandboxes.is_cancelled();
    let export = |to: &mut dyn io::Write| sandboxes.get(name)?.lock()?.export(to);
    if args.output == Path::new("-") {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(Error::refused(
                "standard output is a terminal, and an archive is binary; name a file with -o, or redirect the output",
            ));
        }
        // Bypass the line buffer of standard output.
        let mut to = Interruptible::new(File::from(duplicate(&stdout)?), &cancelled);
        return export(&mut to);
    }
    sandboxes.store.load(name)?;
    let path = &args.output;
    let failed = |error: io::Error| {
        if error.kind() == ErrorKind::AlreadyExists {
            return Error::exists(format!(
                "'{}' is there already; remove it, or choose another name",
                path.display()
            ));
        }
        Error::io("writing", path)(error)
    };
    let new = NewFile::new(path).map_err(failed)?;
    Compression::of_name(path).write(new.file(), export)?;
    new.commit().map_err(failed)
}

pub fn import(args: ImportArgs, sandboxes: &Sandboxes) -> Result<()> {
    let request = Request {
        name: args.name,
        base: args.path.map(create::absolute).transpose()?,
        networks: (!args.network.is_empty())
            .then(|| create::networks(&args.network))
            .transpose()?,
        trust: (args.trust.into_iter())
            .chain(
                args.trust_mounts
                    .then_some([Trust::Mounts, Trust::Devices])
                    .into_iter()
                    .flatten(),
            )
            .collect(),
    };
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    let cancelled = || sandboxes.is_cancelled();
    let opening = Error::io("reading", &args.file);
    let file = if args.file == Path::new("-") {
        File::from(duplicate(&io::stdin())?)
    } else {
        File::open(&args.file).map_err(&opening)?
    };
    let buffered = BufReader::with_capacity(1 << 16, Interruptible::new(file, &cancelled));
    let archive = decompressed(buffered).map_err(&opening)?;
    let sandbox = sandboxes.import(archive, &request)?;
    let (name, config) = (sandbox.name(), sandbox.config());
    output::progress(&format!(
        "imported sandbox '{name}' in '{}'",
        config.path.display()
    ));
    if args.start {
        create::start_made(&sandbox, "import it")?;
    }
    Ok(())
}

fn duplicate(stream: &impl std::os::fd::AsFd) -> Result<std::os::fd::OwnedFd> {
    let duplicated = stream.as_fd().try_clone_to_owned();
    duplicated.map_err(Error::step("opening the standard streams"))
}
