//! Files that are written rather than copied: identity and accounts of the sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use guest_init::config::Addressing;

use crate::config::SandboxConfig;
use crate::facts::accounts::{Limits, Needed};
use crate::facts::discover::Service;
use crate::sys::path::below;
use crate::tree::{Class, TreePlan};

/// Plans the written files. This comes last: which accounts are kept depends on the copied files.
pub fn plan(plan: &mut TreePlan, root: &Path, config: &SandboxConfig, service: &Service) {
    let read = |path: &str| fs::read_to_string(below(root, Path::new(path))).unwrap_or_default();
    accounts(plan, root, service, &read("/etc/login.defs"));

    written(plan, config, &read);
    links(plan, root);
    directories(plan, config, service);
    skeleton(plan, root);
}

/// Reason of the files that tell the sandbox from its host.
const IDENTITY: &str = "identity of the sandbox";

/// Plans files with a content of their own; `read` reads a file of the host.
fn written(plan: &mut TreePlan, config: &SandboxConfig, read: &dyn Fn(&str) -> String) {
    let id = format!("{}\n", config.uuid.simple());
    let hosts = hosts(&read("/etc/hosts"), &config.hostname);
    let resolv_conf = resolv_conf(&read("/etc/resolv.conf"), config);
    let fstab = "its mounts are made before it starts";
    for (path, mode, content, reason) in [
        ("/etc/machine-id", 0o444, id, IDENTITY),
        (
            "/etc/hostname",
            0o644,
            format!("{}\n", config.hostname),
            IDENTITY,
        ),
        ("/etc/hosts", 0o644, hosts, IDENTITY),
        ("/etc/fstab", 0o644, String::new(), fstab),
        (
            "/etc/resolv.conf",
            0o644,
            resolv_conf,
            "network of the sandbox",
        ),
    ] {
        plan.set(path, Class::Written { content, mode }, reason);
    }
}

fn links(plan: &mut TreePlan, root: &Path) {
    for (link, target) in [
        ("/etc/mtab", "../proc/self/mounts"),
        ("/var/lib/dbus/machine-id", "/etc/machine-id"),
    ] {
        plan.set_parents(root, Path::new(link), IDENTITY);
        plan.set(link, Class::Linked(target.into()), IDENTITY);
    }
}

fn directories(plan: &mut TreePlan, config: &SandboxConfig, service: &Service) {
    let made = |mode, gid| Class::Made { mode, uid: 0, gid };
    // journald stores its files in this directory if it exists; the host reads them there.
    let journal = format!("/var/log/journal/{}", config.uuid.simple());
    let group = service.accounts.group("systemd-journal");
    let gid = group.map_or(0, |group| group.gid);
    for path in ["/var/log/journal", &journal] {
        plan.set(path, made(0o2755, gid), "journal of the sandbox");
    }
    plan.set(
        "/var/lib/virt-sandbox",
        made(0o755, 0),
        "leases of the sandbox",
    );
}

/// Plans root's start-up files, as for a new account (useradd(8), `-k`).
fn skeleton(plan: &mut TreePlan, root: &Path) {
    for entry in fs::read_dir(below(root, Path::new("/etc/skel")))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Ok(content) = fs::read_to_string(entry.path()) {
            let path = Path::new("/root").join(entry.file_name());
            plan.set_new(
                path,
                Class::Written {
                    content,
                    mode: 0o644,
                },
                "skeleton of a home",
            );
        }
    }
}

fn accounts(plan: &mut TreePlan, root: &Path, service: &Service, login_defs: &str) {
    let mut needed: Needed = service.needed_accounts();
    let copied = plan
        .entries
        .iter()
        .filter(|(_, entry)| matches!(entry.class, Class::Copied | Class::Empty));
    let owners: BTreeSet<(u32, u32)> = copied
        .filter(|(path, _)| !path.starts_with("/home"))
        .filter_map(|(path, _)| below(root, path).symlink_metadata().ok())
        .map(|metadata| (metadata.uid(), metadata.gid()))
        .collect();
    needed.uids.extend(owners.iter().map(|(uid, _)| *uid));
    needed.gids.extend(owners.iter().map(|(_, gid)| *gid));
    let texts = service
        .accounts
        .filter(Limits::from_login_defs(login_defs), &needed)
        .render();
    for (path, content, mode) in [
        ("/etc/passwd", texts.passwd, 0o644),
        ("/etc/group", texts.group, 0o644),
        ("/etc/shadow", texts.shadow, 0o640),
        ("/etc/gshadow", texts.gshadow, 0o640),
    ] {
        plan.set(
            path,
            Class::Written { content, mode },
            "accounts of the system and of the service, without passwords",
        );
    }
}

/// Returns hosts(5): the loopback, the sandbox's own name, and the entries that the host's administrator has added.
fn hosts(host: &str, hostname: &str) -> String {
    let own = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    );
    let added = host.lines().filter(|line| {
        line.split_whitespace()
            .next()
            .and_then(|address| address.parse::<IpAddr>().ok())
            .is_some_and(|address| !address.is_loopback() && !address.is_multicast())
    });
    added.fold(own, |text, line| format!("{text}{line}\n"))
}

/// Returns resolv.conf(5) as it is until DHCP answers. Without a network there is no name server: the resolver's default is the
/// loopback, which refuses at once, while an unreachable server would cost seconds.
fn resolv_conf(host: &str, config: &SandboxConfig) -> String {
    let has_static = config
        .networks
        .iter()
        .any(|network| matches!(network.addressing, Addressing::Static { .. }));
    let reachable = host.lines().filter(|line| {
        has_static
            && line
                .strip_prefix("nameserver")
                .and_then(|address| address.trim().parse::<IpAddr>().ok())
                .is_some_and(|address| !address.is_loopback())
    });
    reachable.fold(String::new(), |text, line| format!("{text}{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keeps_entries_of_the_administrator() {
        let text = hosts(
            "127.0.0.1 localhost\n127.0.1.1 big\n# comment\n192.0.2.9 db\n::1 localhost\nff02::1 x\n",
            "web1",
        );
        assert!(
            text.contains("127.0.1.1\tweb1\n") && text.ends_with("192.0.2.9 db\n"),
            "{text}"
        );
        assert!(!text.contains("big"));
    }
}
