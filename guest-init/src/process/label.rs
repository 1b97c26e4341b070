//! Label of a process in a security module.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::sys::first_process::ProcDir;

/// Label that differs from that of this process, in the form that `attr/exec` takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// Reads the label of a process; `None` without a security module, or if the label is the same as ours.
    pub fn of_process(process: &ProcDir) -> Result<Option<Self>> {
        let read = |path: &Path| {
            match fs::read_to_string(path) {
                Ok(text) => Ok(text),
                // No security module: EINVAL from a kernel with support, ENOENT from one without.
                Err(error)
                    if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) =>
                {
                    Ok(String::new())
                }
                Err(error) => Err(error).with_context(|| format!("reading '{}'", path.display())),
            }
        };
        let theirs = read(&process.path("attr/current"))?;
        let ours = || read(Path::new("/proc/self/attr/current"));
        Ok(Self::parse(&theirs).filter(|_| ours().is_ok_and(|ours| ours != theirs)))
    }

    /// Parses `attr/current`: `NAME (MODE)` of AppArmor, `unconfined`, or a context of SELinux.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\0', '\n']);
        match text
            .strip_suffix(')')
            .and_then(|text| text.rsplit_once(" ("))
        {
            // aa_change_onexec(3)
            Some((profile, _)) => Some(Self(format!("exec {profile}"))),
            None if text.contains(':') => Some(Self(text.to_owned())),
            None => None,
        }
    }

    /// Sets the label that this process and its children get at the next execve(2).
    pub fn set_for_exec(&self) -> Result<()> {
        let path = "/proc/thread-self/attr/exec";
        // Without O_CREAT: a policy may deny creating the file.
        let mut file = File::options()
            .write(true)
            .open(path)
            .with_context(|| format!("opening '{path}'"))?;
        file.write_all(self.0.as_bytes())
            .with_context(|| format!("writing '{}' to '{path}'", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_parsed() {
        for (text, expected) in [
            ("libvirt-1 (enforce)\n", Some("exec libvirt-1")),
            ("a b (c) (complain)\n", Some("exec a b (c)")),
            ("unconfined\n", None),
            ("", None),
            (
                "u:r:container_t:s0:c1,c2\0",
                Some("u:r:container_t:s0:c1,c2"),
            ),
        ] {
            let expected = expected.map(|text| Label(text.to_owned()));
            assert_eq!(Label::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn our_own_label_is_none() {
        let own = ProcDir::open(std::process::id()).unwrap();
        assert_eq!(Label::of_process(&own).unwrap(), None);
    }
}
