//! Profiles of AppArmor: each container has one of its own while it runs.
//!
//! The profile that libvirt would make lets nothing be mounted, of which the first process of a container makes its root. libvirt
//! calls a profile after the domain's identity whatever the label says (`get_profile_name()`), and only that name may
//! its confined daemon signal, trace and change to.

use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use crate::config::SandboxName;
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::sys::command;

/// What the kernel says of a process that has no profile.
pub(super) const UNCONFINED: &str = "unconfined";

/// The name of the profile of domain `uuid`.
#[must_use]
pub fn profile_name(uuid: &Uuid) -> String {
    format!("libvirt-{uuid}")
}

/// The profile of a container.
///
/// # Errors
/// Where the template is wrong.
pub fn profile(name: &SandboxName, uuid: &Uuid, templates: Option<&Path>) -> Result<String> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a SandboxName,
        profile: String,
    }
    let profile = profile_name(uuid);
    Template::ContainerProfile.render(&View { name, profile }, templates)
}

/// Gives a profile to the kernel, instead of one that it has of the same name.
///
/// # Errors
/// Where it cannot be read by `apparmor_parser`, or that is not installed.
pub fn load(profile: &str) -> Result<()> {
    run("loading the AppArmor profile", "--replace", profile)
}

/// Takes the profile of domain `uuid` away from the kernel, if it has one.
pub fn unload(uuid: &Uuid) {
    let name = profile_name(uuid);
    let loaded = std::fs::read_to_string(LOADED).unwrap_or_default();
    if !has_profile(&loaded, &name) {
        return;
    }
    let text = format!("profile \"{name}\" {{ }}\n");
    if let Err(error) = run("removing the AppArmor profile", "--remove", &text) {
        log::warn!("{error}");
    }
}

/// The profiles that the kernel has: a line each, with the mode in parentheses.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

fn has_profile(loaded: &str, name: &str) -> bool {
    loaded
        .lines()
        .filter_map(|line| line.rsplit_once(" ("))
        .any(|(known, _)| known == name)
}

fn run(doing: &str, action: &str, profile: &str) -> Result<()> {
    let arguments = ["--quiet", "--skip-cache", action];
    let done = command::feed("apparmor_parser", arguments, profile)
        .map_err(Error::step(format!("{doing}: running apparmor_parser")))?;
    if done.success {
        return Ok(());
    }
    Err(Error::refused(format!("{doing}: {}", done.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_named_after_its_domain() {
        let uuid = Uuid::from_u128(7);
        let text = profile(&"web1".parse().unwrap(), &uuid, None).unwrap();
        insta::assert_snapshot!(text);
        assert!(text.contains(&format!("profile \"{}\" flags", profile_name(&uuid))));
    }

    #[test]
    fn a_loaded_profile_is_found_by_its_whole_name() {
        let loaded = "libvirtd (enforce)\nlibvirt-12 (enforce)\n/usr/bin/a b (complain)\n";
        assert!(has_profile(loaded, "libvirt-12"));
        assert!(has_profile(loaded, "/usr/bin/a b"));
        assert!(!has_profile(loaded, "libvirt-1"));
    }
}
