//! The security label of a command's sandbox.

use std::path::Path;

use crate::config::Security;
use crate::domain::{SecModel, template};
use crate::driver::{Driver, Qemu};
use crate::error::Result;
use crate::guest;
use crate::label::selinux::{self, Kind};
use crate::label::{self, Assigned};
use crate::run::{Planning, Purpose};

/// Chooses the label of the sandbox of `planning`. If it is about to start, its profile is loaded and its categories are noted.
pub(super) fn label(planning: &Planning<'_>) -> Result<Assigned> {
    let asked = planning.request.security.as_ref();
    let model = planning.model;
    if planning.purpose == Purpose::Show {
        return resolve(asked, model);
    }
    match (planning.connection.driver, model) {
        (Driver::Lxc, _) => {
            let sandbox = label::Labelled {
                name: planning.name,
                uuid: planning.uuid,
                kind: Kind::Container,
                record: planning.state,
                records: &[Path::new(guest::SERVICES), &planning.places.runtime],
                templates: Path::new(template::OVERRIDES),
                file_type: None,
            };
            label::assign(asked, model, &sandbox)
        }
        // libvirt labels the files of a machine, but may not make its sockets in any directory.
        (Driver::Qemu(Qemu::System), Some(SecModel::SeLinux)) => Ok(Assigned {
            domain: label::resolve(asked, model)?,
            files: Some(selinux::types(Kind::Machine { emulated: true })?.file),
        }),
        (Driver::Qemu(_), _) => resolve(asked, model),
    }
}

/// Returns the label for libvirt; nothing is labelled for it.
fn resolve(asked: Option<&Security>, model: Option<SecModel>) -> Result<Assigned> {
    Ok(Assigned {
        domain: label::resolve(asked, model)?,
        files: None,
    })
}
