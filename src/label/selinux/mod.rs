//! SELinux: contexts of containers and machines from the host's policy, categories that no two sandboxes share, and labels of
//! files.
//!
//! Everything is in files: the kernel's in `/sys/fs/selinux`, the policy's in `/etc/selinux`, labels in extended attributes. So
//! no library is linked, and a host without SELinux needs none.

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

/// Filesystem of SELinux, mounted if it is on (`selinuxfs`).
const KERNEL: &str = "/sys/fs/selinux";

/// Boolean of policies that allows machines to run code they wrote, as QEMU does without KVM.
const WRITES_CODE: &str = "virt_use_execmem";

/// Installed policy module with the types of containers, for policies that have none.
const MODULE: &str = "/usr/share/virt-sandbox/selinux/virt-sandbox.cil";

/// Returns whether SELinux is on.
#[must_use]
pub fn is_on() -> bool {
    enforcement().is_some()
}

/// Returns whether SELinux is enforcing; `None` if it is off.
fn enforcement() -> Option<bool> {
    let text = fs::read_to_string(Path::new(KERNEL).join("enforce")).ok()?;
    Some(text.trim() == "1")
}

/// Returns the directory of the policy in use: `/etc/selinux/SELINUXTYPE`.
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

/// Reads the contexts of a kind of sandbox from the policy in use.
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

/// Returns whether a policy without a type for emulated machines lets them run at all; `None` if it has no such boolean.
fn may_write_code() -> Option<bool> {
    let path = Path::new(KERNEL).join("booleans").join(WRITES_CODE);
    // The current value, and the value after the next commit.
    let text = fs::read_to_string(path).ok()?;
    Some(text.starts_with('1'))
}

/// Returns whether the loaded policy knows a context (`security_check_context(3)`).
fn is_known(context: &Context) -> bool {
    let asked = File::options()
        .read(true)
        .write(true)
        .open(Path::new(KERNEL).join("context"))
        .and_then(|mut file| file.write_all(format!("{context}\0").as_bytes()));
    !matches!(asked, Err(error) if error.kind() == ErrorKind::InvalidInput)
}

/// Contexts of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Context of processes.
    pub process: Context,
    /// Context of files.
    pub file: Context,
}

impl Labels {
    /// Combines the contexts of the policy with the level of a sandbox.
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

    /// Returns the problem that the loaded policy does not know one of the contexts, and how to mend it; `None` if it knows both.
    #[must_use]
    pub fn unknown(&self) -> Option<String> {
        let contexts = [&self.process, &self.file];
        let unknown = contexts.into_iter().find(|context| !is_known(context))?;
        Some(format!(
            "the SELinux policy of this host does not know the context '{unknown}'; one without types of containers gets them with \
             'semodule -i {MODULE}'"
        ))
    }

    /// Returns whether the policy knows the contexts; warns if it does not and SELinux is permissive.
    ///
    /// # Errors
    /// The policy does not know them, and SELinux is enforcing.
    pub fn are_usable(&self) -> Result<bool> {
        let Some(problem) = self.unknown() else {
            return Ok(true);
        };
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

/// Returns the registry of categories of the sandboxes with a directory in one of these.
#[must_use]
pub fn registry(directories: &[&Path]) -> Registry {
    Registry {
        directories: directories.iter().map(|path| (*path).to_owned()).collect(),
        lock: "/run/virt-sandbox-categories.lock".into(),
    }
}

/// Returns the level of a sandbox: the lowest sensitivity of `base`, and two categories of its own.
pub fn own_level(base: &Context, registry: &Registry, dir: &Path, uuid: Uuid) -> Result<String> {
    let categories = registry.claim(dir, uuid)?;
    Ok(format!("{}:{categories}", base.sensitivity()))
}

/// Labels a directory and everything in it. The directory itself comes last, as a sign that the rest is done.
pub fn label(top: &Path, context: &Context) -> Result<()> {
    attribute::set_recursively(top, &context.to_string())
}

/// Labels a directory and everything in it, unless the directory has the label.
pub fn label_if_changed(top: &Path, context: &Context) -> Result<()> {
    match attribute::get(top).as_deref() == Some(context.to_string().as_str()) {
        true => Ok(()),
        false => label(top, context),
    }
}

/// Labels everything in a directory like the directory itself, if SELinux is on.
pub fn label_as_top(top: &Path) -> Result<()> {
    match attribute::get(top) {
        Some(context) if is_on() => attribute::set_recursively(top, &context),
        Some(_) | None => Ok(()),
    }
}

/// Labels a directory with boot files of virtual machines, and everything in it, if SELinux is on. A failure is a warning: libvirt
/// may label the files.
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

/// Adds a rule to the policy for the label of a directory and everything in it, so that restorecon(8) restores it. A failure is
/// a warning: the sandbox works without.
pub fn remember(top: &Path, context: &Context) {
    match policy(Path::new("/etc")) {
        Ok(policy) => rules::ensure(&policy, top, context),
        Err(error) => log::warn!("{error}"),
    }
}

/// Removes the rule for the label of a directory from the policy.
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
