//! Hidden commands, which the program itself runs.

use std::path::PathBuf;

use crate::commands::service::Name;
use crate::commands::service::batch::cancel_on_signals;
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::sys::image::holder::{self, HolderFiles};
use crate::sys::process::confined;

/// Forward the published ports of a sandbox until it ends; `start` runs it
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    name: Name,
    /// Descriptors of open sockets
    sockets: Vec<std::os::fd::RawFd>,
}

/// Keep the image of a sandbox open as a block device
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// Image
    image: PathBuf,
    /// Format of the image
    format: String,
    /// Directory for files of this process
    directory: PathBuf,
}

pub fn hold(args: &HoldArgs) -> Result<()> {
    let files = HolderFiles {
        directory: &args.directory,
    };
    holder::hold(&args.image, &args.format, files).map_err(Error::io("holding", &args.image))
}

/// Run a confined reader of files that a sandbox has written
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// Descriptor of the mount to read
    mount: i32,
    /// Uid and gid of the reader
    reader: u32,
    /// Reader with its arguments
    #[arg(last = true, required = true)]
    words: Vec<String>,
}

pub fn read_confined(args: &ReadArgs) -> Result<()> {
    let error = confined::exec_reader(args.mount, args.reader, &args.words);
    Err(Error::step("confining what reads")(error))
}

pub fn forward(args: &ForwardArgs, sandboxes: &Sandboxes) -> Result<()> {
    let sandboxes = sandboxes.cancelled_by(cancel_on_signals()?);
    sandboxes.get(&args.name.name)?.serve_ports(&args.sockets)
}
