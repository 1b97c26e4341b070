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
use crate::sys::process::command;

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

/// What of a profile is compiled: all that AppArmor 3.0 has but sockets. Where those are mediated, Linux before 6.2 lets nobody lock
/// one, whatever a profile allows; systemd does for each unit with `DynamicUser=`. Ours would allow them all.
const FEATURES: &str = "query {label {multi_transaction {yes } data {yes } perms {allow deny audit quiet } } } dbus {mask {acquire send \
    receive } } signal {mask {hup int quit ill trap abrt bus fpe kill usr1 segv usr2 pipe alrm term stkflt chld cont stop \
    stp ttin ttou urg xcpu xfsz vtalrm prof winch io pwr sys emt lost } } ptrace {mask {read trace } } caps {mask {chown \
    dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast \
    net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice \
    sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog \
    wake_alarm block_suspend audit_read perfmon bpf } } rlimit {mask {cpu fsize data stack core rss nproc nofile memlock \
    as locks sigpending msgqueue nice rtprio rttime } } capability {0xffffff } namespaces {pivot_root {no } profile {yes } \
    } mount {mask {mount umount pivot_root } } file {mask {create read write exec append mmap_exec link lock } } domain \
    {version {1.2 } attach_conditions {xattr {yes } } computed_longest_left {yes } post_nnp_subset {yes } \
    fix_binfmt_elf_mmap {yes } stack {yes } change_profile {yes } change_onexec {yes } change_hatv {yes } change_hat {yes \
    } } policy {set_load {yes } versions {v8 {yes } v7 {yes } v6 {yes } v5 {yes } } }";

fn run(doing: &str, action: &str, profile: &str) -> Result<()> {
    let arguments = [
        "--quiet",
        "--skip-cache",
        "--match-string",
        FEATURES,
        action,
    ];
    let done = command::capture_with_input("apparmor_parser", arguments, profile)
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
