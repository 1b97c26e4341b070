//! `virt-sandbox-virtiofsd`: becomes the host's virtiofsd in a read-only mount namespace. virtiofsd cannot share a file, so for one the program
//! shares a directory with only that file. `virt-sandbox-virtiofsd-file` does the same with a writable file.
//!
//! libvirt starts the programs as the `<binary>` of a share, so the restriction holds however the domain is started.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::driver::transport::find_virtiofsd;
use crate::error::{Error, Result};
pub use crate::sys::mount::read_only::Access;
use crate::sys::mount::read_only::{self, ALONE};
use crate::sys::process::command;

/// Becomes virtiofsd; returns only on failure, so that no virtiofsd runs with more than `access`.
#[must_use]
pub fn main(access: Access) -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    let error = match prepare(access, arguments) {
        Ok((program, arguments)) => {
            Error::io("starting", &program)(command::exec(&program, arguments))
        }
        Err(error) => error,
    };
    eprintln!("virtiofsd of virt-sandbox: {}", error.chain());
    ExitCode::FAILURE
}

/// Enters the namespace; returns the program to run there and its arguments.
fn prepare(access: Access, arguments: Vec<OsString>) -> Result<(PathBuf, Vec<OsString>)> {
    let program = find_virtiofsd().map_err(|missing| Error::unsupported(missing.to_string()))?;
    match shared(&arguments) {
        Some(file) if !file.is_dir() => {
            read_only::enter_with(&file, access).map_err(Error::step(format!(
                "sharing '{}' by itself",
                file.display()
            )))?;
            Ok((program, share_alone(arguments)))
        }
        // Without a directory, libvirt queries the capabilities of virtiofsd.
        Some(_) | None => {
            read_only::enter().map_err(Error::step("making the mounts of virtiofsd read-only"))?;
            Ok((program, arguments))
        }
    }
}

/// Option before the shared directory. In a list of options the path follows `OPTION`, with each comma doubled.
const DIRECTORY: &str = "--shared-dir";
const OPTION: &[u8] = b"source=";

/// Returns the path that libvirt tells virtiofsd to share.
fn shared(arguments: &[OsString]) -> Option<PathBuf> {
    let mut before = OsStr::new("");
    for argument in arguments {
        match before.to_str() {
            Some(DIRECTORY) => return Some(argument.into()),
            Some("-o") => {
                if let Some((path, _)) = source(argument) {
                    return Some(path);
                }
            }
            Some(_) | None => {}
        }
        before = argument;
    }
    None
}

/// Returns the path at the beginning of a list of options, and the remaining options.
fn source(options: &OsStr) -> Option<(PathBuf, &[u8])> {
    let mut rest = options.as_bytes().strip_prefix(OPTION)?;
    let mut path = Vec::new();
    loop {
        rest = match rest {
            [b',', b',', behind @ ..] => {
                path.push(b',');
                behind
            }
            [] | [b',', ..] => return Some((OsString::from_vec(path).into(), rest)),
            [byte, behind @ ..] => {
                path.push(*byte);
                behind
            }
        };
    }
}

/// Returns the arguments with the directory that contains only the file.
fn share_alone(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut before = OsString::new();
    let arguments = arguments.into_iter().map(|argument| {
        let said = std::mem::replace(&mut before, argument.clone());
        match (said.to_str(), source(&argument)) {
            (Some(DIRECTORY), _) => ALONE.into(),
            (Some("-o"), Some((_, rest))) => {
                OsString::from_vec([OPTION, ALONE.as_bytes(), rest].concat())
            }
            _ => argument,
        }
    });
    arguments.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_shared_by_itself_however_libvirt_asks_for_it() {
        for (given, path, then) in [
            (
                &["--fd=3", "-o", "source=/etc/a,,b.conf,sandbox=chroot"][..],
                Some("/etc/a,b.conf"),
                &["--fd=3", "-o", "source=/tmp,sandbox=chroot"][..],
            ),
            (&["-o", "source=/a"], Some("/a"), &["-o", "source=/tmp"]),
            (
                &["--fd=3", "--shared-dir", "/etc/a", "--sandbox", "chroot"],
                Some("/etc/a"),
                &["--fd=3", "--shared-dir", "/tmp", "--sandbox", "chroot"],
            ),
            (
                &["--shared-dir", "-o", "-o", "xattr"],
                Some("-o"),
                &["--shared-dir", "/tmp", "-o", "xattr"],
            ),
            (&["--print-capabilities"], None, &["--print-capabilities"]),
            (&["source=/a"], None, &["source=/a"]),
        ] {
            let given: Vec<OsString> = given.iter().map(Into::into).collect();
            assert_eq!(shared(&given), path.map(PathBuf::from), "{given:?}");
            assert_eq!(share_alone(given), then);
        }
    }
}
