//! Programs and libraries that a running sandbox has in memory, and the host has replaced since.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::config::SandboxName;
use crate::error::Result;
use crate::facts::package;
use crate::guest::kernel::Kernel;
use crate::service::sandbox::Sandbox;

/// Time that a sandbox may take to tell what it has mapped.
const LIMIT: Duration = Duration::from_secs(60);

/// Programs, libraries and kernel of a running sandbox that are not the host's any more. Only a restart replaces them.
///
/// Files that are read and not mapped, such as modules of Python, are not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outdated {
    /// Packages of the files, as far as the host's database knows them.
    pub packages: Vec<String>,
    /// Files that were replaced or removed.
    pub files: BTreeSet<PathBuf>,
    /// Kernel of the machine, if the host has another one for it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// State of a sandbox after changes of the host's packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Name.
    pub name: SandboxName,
    /// Whether it runs. One that does not has nothing in memory.
    pub running: bool,
    /// Whether a restart is needed to have it use the host's programs.
    pub outdated: bool,
    #[serde(flatten)]
    pub found: Outdated,
}

impl Outdated {
    /// Returns whether nothing is outdated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.kernel.is_none()
    }

    /// Returns a description for users: the packages, or the files where no package is known, and the kernel.
    #[must_use]
    pub fn described(&self) -> String {
        let mut words = self.packages.clone();
        if words.is_empty() {
            words = self
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
        }
        words.extend(
            self.kernel
                .as_ref()
                .map(|kernel| format!("kernel {kernel}")),
        );
        words.join(", ")
    }
}

impl Sandbox<'_> {
    /// Returns whether the sandbox runs programs, libraries or a kernel that the host has replaced.
    ///
    /// # Errors
    /// libvirt or the sandbox does not answer.
    pub fn freshness(&self) -> Result<Freshness> {
        let running = self.is_running()?;
        let found = match running {
            true => self.outdated()?,
            false => Outdated::default(),
        };
        Ok(Freshness {
            name: self.name().clone(),
            running,
            outdated: !found.is_empty(),
            found,
        })
    }

    /// Returns what the running sandbox has of before an upgrade of the host.
    pub(in crate::service) fn outdated(&self) -> Result<Outdated> {
        let guest = self.enter()?;
        let files = guest.replaced_files(LIMIT)?;
        let kernel = match self.driver()?.has_own_kernel() {
            true => {
                let running = guest.capture(&["uname", "-r"])?.stdout.trim().to_owned();
                let now = Kernel::find(&self.host().root, &self.config().kernel)?.release;
                (running != now).then_some(running)
            }
            false => None,
        };
        Ok(Outdated {
            packages: packages(&self.host().root, &files)?,
            files,
            kernel,
        })
    }
}

/// Returns the packages of the host at `root` that ship these files, sorted.
fn packages(root: &Path, files: &BTreeSet<PathBuf>) -> Result<Vec<String>> {
    if files.is_empty() {
        return Ok(vec![]);
    }
    let Some(database) = package::open(root)? else {
        return Ok(vec![]);
    };
    let mut names = BTreeSet::new();
    for file in files {
        let owners = database.owners(file)?;
        names.extend(owners.iter().map(ToString::to_string));
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_before_files() {
        let mut found = Outdated {
            files: ["/usr/lib/a.so".into()].into(),
            ..Outdated::default()
        };
        assert_eq!(found.described(), "/usr/lib/a.so");
        found.packages = vec!["liba".to_owned()];
        found.kernel = Some("6.1".to_owned());
        assert_eq!(found.described(), "liba, kernel 6.1");
        assert!(!found.is_empty() && Outdated::default().is_empty());
    }
}
