//! Contexts of sandboxes in a policy: its files `lxc_contexts`, `virtual_domain_context` and `virtual_image_context`, which libvirt
//! reads as well.

use std::fs;
use std::path::{Path, PathBuf};

use super::Context;
use crate::error::{Error, Result};

/// Kind of a sandbox, as policies distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Container of libvirt.
    Container,
    /// Virtual machine of QEMU. An emulated one runs code that it wrote; some policies have a type for that.
    Machine { emulated: bool },
}

/// Contexts of a policy for a kind of sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Types {
    /// Context of processes.
    pub process: Context,
    /// Context of files that the processes may write to.
    pub file: Context,
}

/// Keys for the processes of a container: of a sandbox tool, and of any.
const CONTAINER_PROCESS: [&str; 2] = ["sandbox_lxc_process", "process"];

impl Types {
    /// Reads the contexts from the directory `contexts` of a policy.
    pub fn read(contexts: &Path, kind: Kind) -> Result<Self> {
        match kind {
            Kind::Container => {
                let (path, text) = read(contexts, "lxc_contexts")?;
                let process = CONTAINER_PROCESS.iter().find_map(|name| value(&text, name));
                Ok(Self {
                    process: parse(&path, process, "the processes of containers")?,
                    file: parse(&path, value(&text, "file"), "the files of containers")?,
                })
            }
            Kind::Machine { emulated } => {
                let (path, text) = read(contexts, "virtual_domain_context")?;
                let mut all = lines(&text);
                let first = all.next();
                let process = match emulated {
                    true => all.next().or(first),
                    false => first,
                };
                let process = parse(&path, process, "virtual machines")?;
                let (path, text) = read(contexts, "virtual_image_context")?;
                let file = parse(&path, lines(&text).next(), "their images")?;
                Ok(Self { process, file })
            }
        }
    }
}

/// Returns the context of files that machines share and none may write to, such as boot files. libvirt sets that label, and may
/// not change any other.
pub fn shared_by_machines(contexts: &Path) -> Result<Context> {
    let (path, text) = read(contexts, "virtual_image_context")?;
    let context = lines(&text).nth(1).or_else(|| lines(&text).next());
    parse(&path, context, "images")
}

/// Reads a file of a policy; returns its path and its text.
fn read(contexts: &Path, name: &str) -> Result<(PathBuf, String)> {
    let path = contexts.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(error) => Err(Error::io("reading", &path)(error)),
    }
}

/// Parses the context `text` for `what` of the file at `path`.
fn parse(path: &Path, text: Option<&str>, what: &str) -> Result<Context> {
    let text = text
        .ok_or_else(|| Error::refused(format!("'{}' has no context for {what}", path.display())))?;
    let doing = format!("reading '{}'", path.display());
    text.parse().map_err(Error::step(doing))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Returns the value of the line `NAME = "VALUE"`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    lines(text).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn shown(types: &Types) -> (String, String) {
        (types.process.to_string(), types.file.to_string())
    }

    #[test]
    fn containers_have_the_contexts_of_the_policy() {
        let dir = policy(&[(
            "lxc_contexts",
            "process = \"system_u:system_r:container_t:s0\"\ncontent = \"system_u:object_r:virt_var_lib_t:s0\"\n\
             file = \"system_u:object_r:container_file_t:s0\"\nro_file=\"system_u:object_r:container_ro_file_t:s0\"\n",
        )]);
        let types = Types::read(dir.path(), Kind::Container).unwrap();
        let (process, file) = shown(&types);
        assert_eq!(process, "system_u:system_r:container_t:s0");
        assert_eq!(file, "system_u:object_r:container_file_t:s0");
        let dir = policy(&[(
            "lxc_contexts",
            "# old\nprocess = \"u:r:any_t:s0\"\nsandbox_lxc_process = \"u:r:own_t:s0\"\nfile = \"u:o:f_t:s0\"\n",
        )]);
        let types = Types::read(dir.path(), Kind::Container).unwrap();
        assert_eq!(types.process.kind(), "own_t");
    }

    #[test]
    fn machines_have_the_contexts_of_the_policy() {
        let dir = policy(&[
            (
                "virtual_domain_context",
                "system_u:system_r:svirt_t:s0\nsystem_u:system_r:svirt_tcg_t:s0\n",
            ),
            (
                "virtual_image_context",
                "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n",
            ),
        ]);
        let process = |emulated| {
            let types = Types::read(dir.path(), Kind::Machine { emulated }).unwrap();
            assert_eq!(types.file.kind(), "svirt_image_t");
            types.process.kind().to_owned()
        };
        assert_eq!(process(false), "svirt_t");
        assert_eq!(process(true), "svirt_tcg_t");
        fs::write(
            dir.path().join("virtual_domain_context"),
            "\nu:r:svirt_t:s0\n",
        )
        .unwrap();
        assert_eq!(process(true), "svirt_t");
        let shared = || shared_by_machines(dir.path()).unwrap();
        assert_eq!(shared().kind(), "virt_content_t");
        fs::write(dir.path().join("virtual_image_context"), "u:o:image_t:s0").unwrap();
        assert_eq!(shared().kind(), "image_t");
    }

    #[test]
    fn a_missing_context_is_named() {
        for (text, expected) in [
            (
                "file = \"u:o:f_t:s0\"\n",
                "no context for the processes of containers",
            ),
            (
                "process = \"u:r:p_t:s0\"\n",
                "no context for the files of containers",
            ),
            (
                "process = \"p_t\"\nfile = \"u:o:f_t:s0\"\n",
                "'p_t' is not an SELinux context",
            ),
        ] {
            let dir = policy(&[("lxc_contexts", text)]);
            let error = Types::read(dir.path(), Kind::Container).unwrap_err();
            let first: Option<&dyn std::error::Error> = Some(&error);
            let all = std::iter::successors(first, |error| error.source());
            let message: Vec<String> = all.map(ToString::to_string).collect();
            let message = message.join(": ");
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("lxc_contexts"), "{message}");
        }
        let message = Types::read(Path::new("/nowhere"), Kind::Container).unwrap_err();
        assert!(message.to_string().contains("/nowhere/lxc_contexts"));
    }
}
