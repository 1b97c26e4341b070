//! The security label of a sandbox, from what is asked for and what the host has.

pub mod apparmor;

use std::fs;
use std::path::Path;

use uuid::Uuid;

use crate::config::{SandboxName, Security};
use crate::domain::{LabelKind, SecLabel, SecModel};
use crate::error::{Error, Result};

/// The security module that a connection of libvirt's labels domains with, if there is one: what it says of itself.
/// A module of the kernel's may be one that libvirt does not use.
#[must_use]
pub fn model(capabilities: &str) -> Option<SecModel> {
    let document = roxmltree::Document::parse(capabilities).ok()?;
    let models = document
        .descendants()
        .filter(|node| node.has_tag_name("secmodel"))
        .filter_map(|node| node.children().find(|child| child.has_tag_name("model")))
        .filter_map(|node| node.text());
    models
        .filter_map(|name| match name.trim() {
            "selinux" => Some(SecModel::SeLinux),
            "apparmor" => Some(SecModel::AppArmor),
            _ => None,
        })
        .next()
}

/// What libvirt is told of a container. Unless a label is asked for, AppArmor gets a profile of ours, which the container needs: the
/// kernel has it when this returns.
///
/// # Errors
/// As [`resolve`], and where the profile cannot be loaded.
pub fn of_container(
    asked: Option<&Security>,
    model: Option<SecModel>,
    (name, uuid): (&SandboxName, &Uuid),
    templates: Option<&Path>,
) -> Result<Option<SecLabel>> {
    match (asked, model) {
        (None, Some(model @ SecModel::AppArmor)) => {
            apparmor::load(&apparmor::profile(name, uuid, templates)?)?;
            let label = apparmor::profile_name(uuid)
                .parse()
                .map_err(Error::step("naming the AppArmor profile"))?;
            let kind = LabelKind::Static { label };
            Ok(Some(SecLabel { model, kind }))
        }
        (None | Some(_), _) => resolve(asked, model),
    }
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
    fn the_module_is_told_by_libvirt() {
        let capabilities = |model: &str| {
            format!(
                "<capabilities><host><secmodel><model>{model}</model><doi>0</doi></secmodel>\
                 <secmodel><model>dac</model></secmodel></host></capabilities>"
            )
        };
        assert_eq!(model(&capabilities("none")), None);
        assert_eq!(model(&capabilities("apparmor")), Some(SecModel::AppArmor));
        assert_eq!(model(&capabilities("selinux")), Some(SecModel::SeLinux));
        assert_eq!(model(""), None);
    }
}
