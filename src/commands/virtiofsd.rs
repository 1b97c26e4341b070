//! `virt-sandbox-virtiofsd`: becomes the host's virtiofsd in a mount namespace that is read-only. Of a file, which no virtiofsd shares, it
//! shares a directory with nothing else; `virt-sandbox-virtiofsd-file` does that alone, and the file can be written to.
//!
//! libvirt starts them as the `<binary>` of a share, so what holds for that holds whoever starts the domain, and ends with it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::driver::transport::find_virtiofsd;
use crate::error::{Error, Result};
pub use crate::sys::mount::read_only::Access;
use crate::sys::mount::read_only::{self, ALONE};
use crate::sys::process::command;

/// Becomes virtiofsd; returns only where that fails, so that none runs that could do more than `access`.
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

/// Enters the namespace; gives what is to be run there.
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
        // Without one it is asked what it can do.
        Some(_) | None => {
            read_only::enter().map_err(Error::step("making the mounts of virtiofsd read-only"))?;
            Ok((program, arguments))
        }
    }
}

/// Option before the shared directory. In a list of options, `OPTION` comes before it, and each comma of the path is doubled.
const DIRECTORY: &str = "--shared-dir";
const OPTION: &[u8] = b"source=";

/// Returns the path that libvirt asks virtiofsd to share.
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

/// The path in a list of options that begins with it, and the options behind it.
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

/// The same arguments, for the directory in which a file is by itself.
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
