//! The security label of a command's sandbox.

use std::path::Path;

use uuid::Uuid;

use crate::config::{SandboxName, Security};
use crate::domain::{SecModel, template};
use crate::driver::connection::Driver;
use crate::error::Result;
use crate::guest;
use crate::label::selinux::{self, Kind};
use crate::label::{self, Given};
use crate::run::Places;

/// Labels the sandbox that is to be started in the directory `state`.
///
/// # Errors
/// As [`label::give`].
pub(super) fn give(
    asked: Option<&Security>,
    model: Option<SecModel>,
    driver: Driver,
    (name, uuid): (&SandboxName, Uuid),
    (state, places): (&Path, &Places),
) -> Result<Given> {
    match (driver, model) {
        (Driver::Lxc, _) => {
            let sandbox = label::Sandbox {
                name,
                uuid,
                kind: Kind::Container,
                record: state,
                records: &[Path::new(guest::SERVICES), &places.runtime],
                templates: Path::new(template::OVERRIDES),
                file_type: None,
            };
            label::give(asked, model, &sandbox)
        }
        // What a virtual machine is given is labelled by libvirt, which may not make its sockets just anywhere.
        (Driver::QemuSystem, Some(SecModel::SeLinux)) => Ok(Given {
            domain: label::resolve(asked, model)?,
            files: Some(selinux::types(Kind::Machine { emulated: true })?.file),
        }),
        (Driver::QemuSystem | Driver::QemuSession | Driver::QemuEmbedded, _) => show(asked, model),
    }
}

/// What libvirt would be told; nothing is labelled for it.
///
/// # Errors
/// As [`label::resolve`].
pub(super) fn show(asked: Option<&Security>, model: Option<SecModel>) -> Result<Given> {
    Ok(Given {
        domain: label::resolve(asked, model)?,
        files: None,
    })
}
