//! `guest-init try-ids FIRST COUNT PATH…`: tests whether a sandbox can have ids of its own on this host.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::IDS_UNSUPPORTED;
use crate::config::IdMap;
use crate::namespaces::make_user_namespace;
use crate::sys::mount_api::Detached;
use crate::sys::unsupported::is_unsupported;

/// Makes a user namespace with these ids and maps the mounts at the paths to it. A failure is reported on standard error; the exit
/// status is [`IDS_UNSUPPORTED`] if another attempt would fail as well.
pub fn main(arguments: &[String]) -> ExitCode {
    match try_ids(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            match is_unsupported(&error) {
                true => ExitCode::from(IDS_UNSUPPORTED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn try_ids(arguments: &[String]) -> Result<()> {
    let [first, count, paths @ ..] = arguments else {
        bail!("try-ids needs the first id and how many there are");
    };
    let ids = IdMap {
        first: first.parse().context("reading the first id")?,
        count: count.parse().context("reading how many ids there are")?,
    };
    let namespace = make_user_namespace(ids)?;
    for path in paths {
        let copy = Detached::copy(Path::new(path)).with_context(|| format!("opening '{path}'"))?;
        copy.map_ids(&namespace).with_context(|| {
            format!("the filesystem of '{path}' cannot show owners in a user namespace")
        })?;
    }
    Ok(())
}
