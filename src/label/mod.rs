//! Security labels of sandboxes: chosen from the request and the host's security module.

pub mod apparmor;
pub mod selinux;

use std::fs;
use std::path::Path;

use uuid::Uuid;

use self::selinux::{Context, Kind, Labels};
use crate::config::security::Label;
use crate::config::{FileType, SandboxName, Security};
use crate::domain::template::{self, Template};
use crate::domain::{LabelKind, SecLabel, SecModel};
use crate::error::{Error, Result};

/// Returns the security module that libvirt labels domains with, from its capabilities. The kernel may have a module that libvirt
/// does not use.
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

/// Returns the user and the group that libvirt runs QEMU as, from its capabilities.
#[must_use]
pub fn qemu_account(capabilities: &str) -> Option<(u32, u32)> {
    let document = roxmltree::Document::parse(capabilities).ok()?;
    let text = |node: roxmltree::Node<'_, '_>, name: &str| {
        let child = node.children().find(|child| child.has_tag_name(name));
        child.and_then(|child| child.text().map(|text| text.trim().to_owned()))
    };
    let model = document
        .descendants()
        .filter(|node| node.has_tag_name("secmodel"))
        .find(|node| text(*node, "model").as_deref() == Some("dac"))?;
    // Numbers with a plus sign: "+64055:+64055".
    let label = text(model, "baselabel")?;
    let (user, group) = label.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// Returns the label in a domain's document.
#[must_use]
pub fn of_domain(xml: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let label = document
        .descendants()
        .filter(|node| node.has_tag_name("seclabel"))
        .find_map(|node| node.children().find(|child| child.has_tag_name("label")))?;
    label.text().map(|text| text.trim().to_owned())
}

/// Sandbox that a label is assigned to.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    pub name: &'a SandboxName,
    pub uuid: Uuid,
    pub kind: Kind,
    /// Directory of the sandbox, which has the note of its categories.
    pub record: &'a Path,
    /// Directories with one such directory for each sandbox.
    pub records: &'a [&'a Path],
    /// Templates of the administrator.
    pub templates: &'a Path,
    /// SELinux type of the files, if not the policy's.
    pub file_type: Option<&'a FileType>,
}

/// Labels that were assigned to a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Label of the domain.
    pub domain: Option<SecLabel>,
    /// SELinux context of the files.
    pub files: Option<Context>,
}

/// Assigns a label to a sandbox. On return it is reserved for the sandbox: the categories of SELinux are noted, the profile of
/// AppArmor is loaded.
pub fn assign(
    asked: Option<&Security>,
    model: Option<SecModel>,
    sandbox: &Labelled<'_>,
) -> Result<Assigned> {
    let domain = match (asked, model, sandbox.kind) {
        (_, Some(SecModel::SeLinux), _) => return assign_context(asked, sandbox),
        (
            None | Some(Security::Dynamic { label: None }),
            Some(model @ SecModel::AppArmor),
            Kind::Container,
        ) => {
            let (name, uuid) = (sandbox.name, &sandbox.uuid);
            apparmor::load(&apparmor::profile(name, uuid, Some(sandbox.templates))?)?;
            let label = apparmor::profile_name(uuid)
                .parse()
                .map_err(Error::step("naming the AppArmor profile"))?;
            let kind = LabelKind::Static { label };
            Some(SecLabel { model, kind })
        }
        (_, Some(SecModel::AppArmor) | None, Kind::Container | Kind::Machine { .. }) => {
            resolve(asked, model)?
        }
    };
    Ok(Assigned {
        domain,
        files: None,
    })
}

/// Assigns SELinux contexts to a sandbox. libvirt would choose new categories at every start, but the files keep theirs.
fn assign_context(asked: Option<&Security>, sandbox: &Labelled<'_>) -> Result<Assigned> {
    let mut types = selinux::types(sandbox.kind)?;
    let parsed = |label: &Label| -> Result<Context> {
        let doing = "reading the security label";
        label.as_str().parse().map_err(Error::step(doing))
    };
    let level = match asked {
        None | Some(Security::Dynamic { .. }) => {
            if let Some(Security::Dynamic { label: Some(base) }) = asked {
                types.process = parsed(base)?;
            }
            let registry = selinux::registry(sandbox.records);
            selinux::own_level(&types.process, &registry, sandbox.record, sandbox.uuid)?
        }
        Some(Security::Static { label }) => {
            types.process = parsed(label)?;
            types.process.level().to_owned()
        }
        Some(Security::Inherit) => {
            let own = own_label()?;
            let own = own.trim_end_matches(['\0', '\n']).parse();
            types.process = own.map_err(Error::step("reading the label of this process"))?;
            types.process.level().to_owned()
        }
    };
    let labels = Labels::new(&types, &level, sandbox.file_type);
    if !labels.are_usable()? {
        return Ok(Assigned::default());
    }
    let label = labels.process.to_string();
    let label = label.parse().map_err(Error::step("naming the label"))?;
    Ok(Assigned {
        domain: Some(SecLabel {
            model: SecModel::SeLinux,
            kind: LabelKind::Static { label },
        }),
        files: Some(labels.file),
    })
}

/// Reads the label of this process.
fn own_label() -> Result<String> {
    let path = Path::new("/proc/self/attr/current");
    fs::read_to_string(path).map_err(Error::io("reading", path))
}

/// Turns a request into the label of a domain. On a host without a security module, a dynamic or inherited label is none.
///
/// # Errors
/// The host cannot give the requested label, or the label of this process cannot be read.
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
                Err(Error::unsupported(format!(
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
        Security::Inherit => inherited(&own_label()?, model)?,
    };
    match (model, &kind) {
        (
            SecModel::AppArmor,
            LabelKind::Static { label } | LabelKind::Dynamic { base: Some(label) },
        ) => {
            // libvirt uses only the profile named after the domain, whatever the label is.
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

/// Converts the label of this process, as the kernel shows it.
fn inherited(current: &str, model: SecModel) -> Result<LabelKind> {
    // A context ends with a zero byte; a profile's name is followed by its mode.
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
    fn the_account_of_qemu_is_read_from_the_capabilities() {
        let models = |models: &str| format!("<capabilities><host>{models}</host></capabilities>");
        let none = "<secmodel><model>none</model><doi>0</doi></secmodel>";
        let dac = "<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel></secmodel>";
        assert_eq!(
            qemu_account(&models(&format!("{none}{dac}"))),
            Some((64055, 108))
        );
        for text in [&models(none), "", "<secmodel><model>dac</model></secmodel>"] {
            assert_eq!(qemu_account(text), None, "{text}");
        }
    }

    #[test]
    fn a_host_without_a_module_has_no_label() {
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
    fn a_requested_label_becomes_the_domains() {
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
    fn apparmor_accepts_no_label_of_the_user() {
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
    fn the_label_is_read_from_the_domain() {
        let domain = |inside: &str| format!("<domain type='lxc'><name>a</name>{inside}</domain>");
        let label = "system_u:system_r:container_t:s0:c1,c2";
        let said =
            format!("<seclabel type='static' model='selinux'><label>{label}</label></seclabel>");
        assert_eq!(of_domain(&domain(&said)).as_deref(), Some(label));
        assert_eq!(
            of_domain(&domain("<seclabel type='dynamic' model='selinux'/>")),
            None
        );
        assert_eq!(of_domain(&domain("")), None);
    }

    #[test]
    fn the_module_is_read_from_the_capabilities() {
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
