//! The security label of a sandbox, from what is asked for and what the host has.

use std::fs;
use std::path::Path;

use crate::config::Security;
use crate::domain::{LabelKind, SecLabel, SecModel};
use crate::error::{Error, Result};

/// The security module of the host that libvirt labels domains with, if there is one.
#[must_use]
pub fn model(root: &Path) -> Option<SecModel> {
    if root.join("sys/fs/selinux/enforce").exists() {
        return Some(SecModel::SeLinux);
    }
    let enabled = fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"));
    enabled
        .is_ok_and(|text| text.trim() == "Y")
        .then_some(SecModel::AppArmor)
}

/// What libvirt is told. Where the host has no security module, what would be its choice, or that of this process, is
/// nobody's.
///
/// # Errors
/// Where a label is asked for that nobody can give, or that of this process cannot be read.
pub fn resolve(asked: Option<&Security>, model: Option<SecModel>) -> Result<Option<SecLabel>> {
    let (Some(asked), Some(model)) = (asked, model) else {
        return match asked {
            None | Some(Security::Dynamic { label: None }) => Ok(None),
            Some(Security::Inherit) => {
                log::info!(
                    "this host has neither SELinux nor AppArmor: there is no label to inherit"
                );
                Ok(None)
            }
            Some(Security::Dynamic { label: Some(label) } | Security::Static { label }) => {
                Err(Error::refused(format!(
                    "the label '{}' cannot be given: this host runs neither SELinux nor AppArmor; leave out --security",
                    label.as_str()
                )))
            }
        };
    };
    let kind = match asked {
        Security::Dynamic { label } => LabelKind::Dynamic {
            base: label.clone(),
        },
        Security::Static { label } => LabelKind::Static {
            label: label.clone(),
        },
        Security::Inherit => {
            let path = Path::new("/proc/self/attr/current");
            let text = fs::read_to_string(path).map_err(Error::io("reading", path))?;
            // A context ends with a zero; the name of a profile is followed by its mode.
            let label = text.trim_end_matches(['\0', '\n']);
            let label = label.split(" (").next().unwrap_or(label);
            LabelKind::Static {
                label: label
                    .parse()
                    .map_err(Error::step("reading the label of this process"))?,
            }
        }
    };
    Ok(Some(SecLabel { model, kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Security {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_without_a_module_gives_no_label() {
        for text in ["dynamic", "inherit"] {
            assert_eq!(resolve(Some(&asked(text)), None).unwrap(), None);
        }
        for text in ["static,label=a:b:c:s0:c1,c2", "dynamic,label=a:b:c:s0"] {
            let message = resolve(Some(&asked(text)), None).unwrap_err().to_string();
            assert!(
                message.contains("neither SELinux nor AppArmor"),
                "{message}"
            );
        }
    }

    #[test]
    fn labels_reach_the_domain() {
        let model = SecModel::SeLinux;
        let label = |text| resolve(Some(&asked(text)), Some(model)).unwrap().unwrap();
        assert_eq!(
            label("static,label=a:b:c:s0:c1,c2").kind,
            LabelKind::Static {
                label: "a:b:c:s0:c1,c2".parse().unwrap()
            }
        );
        assert_eq!(label("dynamic").kind, LabelKind::Dynamic { base: None });
        assert_eq!(resolve(None, Some(model)).unwrap(), None);
    }

    #[test]
    fn the_module_is_told_by_its_files() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(model(root.path()), None);
        let parameters = root.path().join("sys/module/apparmor/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("enabled"), "N\n").unwrap();
        assert_eq!(model(root.path()), None);
        fs::write(parameters.join("enabled"), "Y\n").unwrap();
        assert_eq!(model(root.path()), Some(SecModel::AppArmor));
        let selinux = root.path().join("sys/fs/selinux");
        fs::create_dir_all(&selinux).unwrap();
        fs::write(selinux.join("enforce"), "1").unwrap();
        assert_eq!(model(root.path()), Some(SecModel::SeLinux));
    }
}
