//! AppArmor profiles: each container has its own while it runs.
//!
//! libvirt's own profile for containers forbids the mounts that a sandbox's root is assembled from. libvirt names a profile after the
//! domain's uuid, whatever the label is (`get_profile_name()`), and its confined daemon may signal, trace and change to that name
//! only.

use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use crate::config::SandboxName;
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::sys::process::command;

/// Label of a process without a profile.
pub(super) const UNCONFINED: &str = "unconfined";

/// Returns the name of the profile of the domain `uuid`.
#[must_use]
pub fn profile_name(uuid: &Uuid) -> String {
    format!("libvirt-{uuid}")
}

/// Renders the profile of a container.
pub fn profile(name: &SandboxName, uuid: &Uuid, templates: Option<&Path>) -> Result<String> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a SandboxName,
        profile: String,
    }
    let profile = profile_name(uuid);
    Template::ContainerProfile.render(&View { name, profile }, templates)
}

/// Loads a profile into the kernel, and replaces one of the same name.
pub fn load(profile: &str) -> Result<()> {
    run("loading the AppArmor profile", "--replace", profile)
}

/// Removes the profile of the domain `uuid` from the kernel, if it is loaded.
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

/// List of the loaded profiles: a line for each, with the mode in parentheses.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

fn has_profile(loaded: &str, name: &str) -> bool {
    loaded
        .lines()
        .filter_map(|line| line.rsplit_once(" ("))
        .any(|(known, _)| known == name)
}

/// Features that a profile is compiled for: all of AppArmor 3.0 but the mediation of sockets. With it, Linux before 6.2 lets nobody
/// lock a socket, whatever the profile allows, as systemd does for each unit with `DynamicUser=`. The profile would allow all sockets.
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
