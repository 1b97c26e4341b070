//! SELinux: what the host's policy has containers and machines run as, categories that no two sandboxes share, and labels of
//! their files.
//!
//! All of it is in files: the kernel's in `/sys/fs/selinux`, the policy's in `/etc/selinux`, labels in extended attributes. So
//! nothing is linked for it, and a host without SELinux needs nothing.

mod categories;
mod context;
mod contexts;
mod rules;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

pub use self::categories::{Categories, Registry};
pub use self::context::{Context, ParseContextError};
pub use self::contexts::{Kind, Types};
use crate::config::FileType;
use crate::error::{Error, Result};
use crate::sys::root::label as attribute;

/// Where the kernel has SELinux, if it is on.
const KERNEL: &str = "/sys/fs/selinux";

/// The switch of policies for machines that write code they run, as QEMU does without KVM.
const WRITES_CODE: &str = "virt_use_execmem";

/// The module for policies without types of containers, as it is installed.
const MODULE: &str = "/usr/share/virt-sandbox/selinux/virt-sandbox.cil";

/// Whether the kernel has SELinux on.
#[must_use]
pub fn is_on() -> bool {
    enforcement().is_some()
}

/// Whether it denies; `None` where it is off.
fn enforcement() -> Option<bool> {
    let text = fs::read_to_string(Path::new(KERNEL).join("enforce")).ok()?;
    Some(text.trim() == "1")
}

/// The directory of the policy that is in use: `/etc/selinux/SELINUXTYPE`.
fn policy(etc: &Path) -> Result<PathBuf> {
    let path = etc.join("selinux/config");
    let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
    let name = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SELINUXTYPE="))
        .next_back();
    match name.map(str::trim) {
        Some(name) if !name.is_empty() && !name.contains('/') => Ok(etc.join("selinux").join(name)),
        Some(_) | None => Err(Error::unsupported(format!(
            "'{}' names no policy: there is no line SELINUXTYPE=NAME",
            path.display()
        ))),
    }
}

/// What the policy in use has sandboxes of a kind run as, and their files.
///
/// # Errors
/// Where its contexts are missing or make no sense.
pub fn types(kind: Kind) -> Result<Types> {
    let directory = policy(Path::new("/etc"))?.join("contexts");
    let types = Types::read(&directory, kind)?;
    let is_emulated = kind == Kind::Machine { emulated: true };
    if is_emulated && may_write_code() == Some(false) && enforcement() == Some(true) {
        let others = Types::read(&directory, Kind::Machine { emulated: false })?;
        if types == others {
            log::warn!(
                "SELinux does not let an emulated machine write the code that it runs: it will not start before \
                 'setsebool -P {WRITES_CODE} on'"
            );
        }
    }
    Ok(types)
}

/// Whether a policy without a type of its own for emulated machines lets them run at all; `None` where it has no such switch.
fn may_write_code() -> Option<bool> {
    let path = Path::new(KERNEL).join("booleans").join(WRITES_CODE);
    // Its value, and what it is to be after the next commit.
    let text = fs::read_to_string(path).ok()?;
    Some(text.starts_with('1'))
}

/// Whether the policy that the kernel has knows a context (`security_check_context(3)`).
fn is_known(context: &Context) -> bool {
    let asked = File::options()
        .read(true)
        .write(true)
        .open(Path::new(KERNEL).join("context"))
        .and_then(|mut file| file.write_all(format!("{context}\0").as_bytes()));
    !matches!(asked, Err(error) if error.kind() == ErrorKind::InvalidInput)
}

/// What a sandbox is labelled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Its processes.
    pub process: Context,
    /// Its files.
    pub file: Context,
}

impl Labels {
    /// Those of a sandbox with a level, from what the policy has.
    #[must_use]
    pub fn new(types: &Types, level: &str, file_type: Option<&FileType>) -> Self {
        let file = match file_type {
            Some(wanted) => types.file.with_type(wanted),
            None => types.file.clone(),
        };
        Self {
            process: types.process.with_level(level),
            file: file.with_level(level),
        }
    }

    /// `false` where the policy does not know them and nothing is denied anyway, which is said.
    ///
    /// # Errors
    /// Where it does not know them and denies.
    pub fn are_usable(&self) -> Result<bool> {
        let Some(unknown) = [&self.process, &self.file]
            .into_iter()
            .find(|context| !is_known(context))
        else {
            return Ok(true);
        };
        let problem = format!(
            "the SELinux policy of this host does not know the context '{unknown}'; one without types of containers gets them with \
             'semodule -i {MODULE}'"
        );
        match enforcement() {
            Some(true) => Err(Error::refused(problem)),
            Some(false) | None => {
                log::warn!(
                    "{problem}; SELinux is permissive: the sandbox runs without a label of its own"
                );
                Ok(false)
            }
        }
    }
}

/// Who has which categories, of the sandboxes with a directory in one of these.
#[must_use]
pub fn registry(directories: &[&Path]) -> Registry {
    Registry {
        directories: directories.iter().map(|path| (*path).to_owned()).collect(),
        lock: "/run/virt-sandbox-categories.lock".into(),
    }
}

/// The level of a sandbox's own: the lowest of what `base` has, and its categories.
///
/// # Errors
/// As [`Registry::claim`].
pub fn own_level(base: &Context, registry: &Registry, dir: &Path, uuid: Uuid) -> Result<String> {
    let categories = registry.claim(dir, uuid)?;
    Ok(format!("{}:{categories}", base.sensitivity()))
}

/// Labels a directory with all in it. The top comes last: it says that the rest is done.
///
/// # Errors
/// Where it cannot be read or written.
pub fn label(top: &Path, context: &Context) -> Result<()> {
    attribute::set_recursively(top, &context.to_string())
}

/// Labels a directory with all in it, unless the top has the label.
///
/// # Errors
/// As [`label`].
pub fn label_if_changed(top: &Path, context: &Context) -> Result<()> {
    match attribute::get(top).as_deref() == Some(context.to_string().as_str()) {
        true => Ok(()),
        false => label(top, context),
    }
}

/// Labels all in a directory as the directory itself is, where SELinux is on.
///
/// # Errors
/// As [`label`].
pub fn label_as_top(top: &Path) -> Result<()> {
    match attribute::get(top) {
        Some(context) if is_on() => attribute::set_recursively(top, &context),
        Some(_) | None => Ok(()),
    }
}

/// Labels a directory that has what virtual machines boot from, with all in it, where SELinux is on. That fails without harm where
/// libvirt may label it, and is said.
pub fn share_with_machines(top: &Path) {
    if !is_on() {
        return;
    }
    let labelled = policy(Path::new("/etc"))
        .and_then(|policy| contexts::shared_by_machines(&policy.join("contexts")))
        .and_then(|context| label(top, &context));
    if let Err(error) = labelled {
        log::warn!(
            "labelling '{}' for virtual machines: {error}",
            top.display()
        );
    }
}

/// Has the policy remember the label of a directory with all in it, so that restorecon(8) restores it. That fails without harm to
/// the sandbox, and is said.
pub fn remember(top: &Path, context: &Context) {
    match policy(Path::new("/etc")) {
        Ok(policy) => rules::ensure(&policy, top, context),
        Err(error) => log::warn!("{error}"),
    }
}

/// Has the policy forget the label of a directory, if it has one for it.
pub fn forget(top: &Path) {
    if let Ok(policy) = policy(Path::new("/etc")) {
        rules::remove(&policy, top);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_in_use_is_found() {
        let etc = tempfile::tempdir().unwrap();
        let etc = etc.path();
        assert!(policy(etc).is_err());
        fs::create_dir(etc.join("selinux")).unwrap();
        let write = |text: &str| fs::write(etc.join("selinux/config"), text).unwrap();
        write("# SELINUXTYPE= is\nSELINUX=permissive\nSELINUXTYPE=default\n");
        assert_eq!(policy(etc).unwrap(), etc.join("selinux/default"));
        for wrong in [
            "SELINUX=enforcing\n",
            "SELINUXTYPE=\n",
            "SELINUXTYPE=../x\n",
        ] {
            write(wrong);
            assert!(policy(etc).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sandbox_has_its_level_on_processes_and_files() {
        let types = Types {
            process: "system_u:system_r:container_t:s0".parse().unwrap(),
            file: "system_u:object_r:container_file_t:s0".parse().unwrap(),
        };
        let labels = Labels::new(&types, "s0:c1,c2", None);
        assert_eq!(
            labels.process.to_string(),
            "system_u:system_r:container_t:s0:c1,c2"
        );
        assert_eq!(
            labels.file.to_string(),
            "system_u:object_r:container_file_t:s0:c1,c2"
        );
        let own: FileType = "web_t".parse().unwrap();
        let labels = Labels::new(&types, "s0:c1,c2", Some(&own));
        assert_eq!(labels.file.to_string(), "system_u:object_r:web_t:s0:c1,c2");
    }
}
