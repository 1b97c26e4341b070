//! The security label of a sandbox, from what is asked for and what the host has.

pub mod apparmor;

use std::fs;
use std::path::Path;

use uuid::Uuid;

use crate::config::{SandboxName, Security};
use crate::domain::template::{self, Template};
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

/// What libvirt is told of a container. Unless another label is asked for, AppArmor gets a profile of ours, which the container needs: the
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
        (None | Some(Security::Dynamic { label: None }), Some(model @ SecModel::AppArmor)) => {
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
            inherited(
                &fs::read_to_string(path).map_err(Error::io("reading", path))?,
                model,
            )?
        }
    };
    match (model, &kind) {
        (
            SecModel::AppArmor,
            LabelKind::Static { label } | LabelKind::Dynamic { base: Some(label) },
        ) => {
            // libvirt changes to the profile of that name alone, whatever the label says.
            Err(Error::refused(format!(
                "the label '{}' cannot be given: with AppArmor libvirt runs each domain in a profile of its own; what that \
                 allows a container is in '{}'",
                label.as_str(),
                Template::ContainerProfile
                    .path(Path::new(template::OVERRIDES))
                    .display()
            )))
        }
        (SecModel::AppArmor | SecModel::SeLinux, _) => Ok(Some(SecLabel { model, kind })),
    }
}

/// The label of this process as the kernel tells it.
fn inherited(current: &str, model: SecModel) -> Result<LabelKind> {
    // A context ends with a zero; the name of a profile is followed by its mode.
    let label = current.trim_end_matches(['\0', '\n']);
    let label = label.split(" (").next().unwrap_or(label);
    if model == SecModel::AppArmor && label == apparmor::UNCONFINED {
        return Ok(LabelKind::Unconfined);
    }
    let label = label.parse();
    let label = label.map_err(Error::step("reading the label of this process"))?;
    Ok(LabelKind::Static { label })
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
    fn of_apparmor_there_is_one_profile_for_each() {
        let model = SecModel::AppArmor;
        for text in ["static,label=mine", "dynamic,label=mine"] {
            let message = resolve(Some(&asked(text)), Some(model))
                .unwrap_err()
                .to_string();
            assert!(message.contains("a profile of its own"), "{message}");
        }
        let dynamic = resolve(Some(&asked("dynamic")), Some(model))
            .unwrap()
            .unwrap();
        assert_eq!(dynamic.kind, LabelKind::Dynamic { base: None });
    }

    #[test]
    fn the_label_of_this_process_is_inherited() {
        let label = |text: &str| LabelKind::Static {
            label: text.parse().unwrap(),
        };
        assert_eq!(
            inherited("a:b:c:s0\0", SecModel::SeLinux).unwrap(),
            label("a:b:c:s0")
        );
        assert_eq!(
            inherited("unconfined\n", SecModel::AppArmor).unwrap(),
            LabelKind::Unconfined
        );
        assert_eq!(
            inherited("/usr/bin/man (enforce)\n", SecModel::AppArmor).unwrap(),
            label("/usr/bin/man")
        );
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
