//! Units that work on the host itself, which no sandbox can take over.

use std::path::Path;

use crate::error::{Error, Result};
use crate::facts::discover::Service;
use crate::facts::unit::closure::Reason;
use crate::facts::unit::{Specifiers, UnitDirs, UnitKind};

/// Filesystems that a container may mount by itself; those of `fuse` are others.
const OF_CONTAINERS: [&str; 9] = [
    "bind", "cgroup2", "devpts", "mqueue", "none", "overlay", "proc", "sysfs", "tmpfs",
];

/// Refuses a unit that maintains the packages of the host, or in a container one that needs a filesystem of the host's kernel.
///
/// # Errors
/// The message names the unit, and what it needs.
pub(super) fn check(root: &Path, service: &Service, is_container: bool) -> Result<()> {
    if let Some((unit, package, directory)) = service.maintains_packages()? {
        return Err(Error::refused(format!(
            "'{unit}' maintains the packages of the host: {package} works on '{directory}', which no sandbox has; leave it to the host"
        )));
    }
    match is_container {
        true => check_mounts(root, service),
        false => Ok(()),
    }
}

fn check_mounts(root: &Path, service: &Service) -> Result<()> {
    let required = service.closure.members.iter().filter_map(|member| {
        let by = member.reasons.iter().find_map(|reason| match reason {
            Reason::RequiredBy(unit) => Some(unit),
            Reason::Asked
            | Reason::WantedBy(_)
            | Reason::Also(_)
            | Reason::Triggers(_)
            | Reason::TriggeredBy(_) => None,
        })?;
        (member.name.kind() == UnitKind::Mount).then_some((&member.name, by))
    });
    let required: Vec<_> = required.collect();
    if required.is_empty() {
        return Ok(());
    }
    let dirs = UnitDirs::scan(root).map_err(Error::step("looking for units"))?;
    for (name, by) in required {
        let Ok(mount) = dirs.load(name) else {
            continue;
        };
        // `Type=` of a mount is its filesystem (systemd.mount(5)).
        let filesystem = mount.facts(&Specifiers::default()).service_type;
        let filesystem = filesystem.unwrap_or_default();
        if !filesystem.is_empty()
            && !OF_CONTAINERS.contains(&filesystem.as_str())
            && !filesystem.starts_with("fuse")
        {
            return Err(Error::refused(format!(
                "'{by}' would not start in a container: it requires '{name}', and a filesystem of type '{filesystem}' is up to the \
                 host's kernel; run it on the host, or in a virtual machine"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes a root with these files, and checks a unit of it.
    fn refusal(files: &[(&str, &str)], unit: &str, is_container: bool) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let service = Service::discover(root.path(), &[unit.to_owned()], &[], "web1").unwrap();
        let checked = check(root.path(), &service, is_container);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn a_filesystem_of_the_hosts_kernel_is_refused_in_containers() {
        let nfsd = (
            "usr/lib/systemd/system/proc-fs-nfsd.mount",
            "[Mount]\nWhat=nfsd\nWhere=/proc/fs/nfsd\nType=nfsd\n",
        );
        let server = (
            "usr/lib/systemd/system/nfs.service",
            "[Unit]\nRequires=proc-fs-nfsd.mount\n[Service]\nExecStart=/bin/nfsd\n",
        );
        let told = refusal(&[nfsd, server], "nfs.service", true).unwrap();
        assert!(
            told.contains("'proc-fs-nfsd.mount'") && told.contains("'nfsd'"),
            "{told}"
        );
        assert_eq!(refusal(&[nfsd, server], "nfs.service", false), None);
        let wants = (
            server.0,
            "[Unit]\nWants=proc-fs-nfsd.mount\n[Service]\nExecStart=/bin/nfsd\n",
        );
        assert_eq!(refusal(&[nfsd, wants], "nfs.service", true), None);
        let tmpfs = (nfsd.0, "[Mount]\nWhat=x\nWhere=/proc/fs/nfsd\nType=tmpfs\n");
        assert_eq!(refusal(&[tmpfs, server], "nfs.service", true), None);
    }

    #[test]
    fn maintenance_of_packages_is_left_to_the_host() {
        let unit = |name: &str| format!("usr/lib/systemd/system/{name}.service");
        let names = ["apt", "upgrades", "cache"];
        let paths = names.map(unit);
        let package = |name: &str, rest: &str| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n{rest}\n"
            )
        };
        let status = [
            package("apt", ""),
            package("upgrades", "Depends: apt\n"),
            package("cache", "Depends: upgrades\n"),
        ]
        .concat();
        let lists = [
            "/var/lib\n/var/lib/apt\n/usr/lib/systemd/system/apt.service\n",
            "/usr/lib/systemd/system/upgrades.service\n",
            "/usr/lib/systemd/system/cache.service\n",
        ];
        let lists: Vec<(String, &str)> = names
            .iter()
            .zip(lists)
            .map(|(name, list)| (format!("var/lib/dpkg/info/{name}.list"), list))
            .collect();
        let mut files = vec![("var/lib/dpkg/status", status.as_str())];
        files.extend(lists.iter().map(|(path, list)| (path.as_str(), *list)));
        files.extend(
            paths
                .iter()
                .map(|path| (path.as_str(), "[Service]\nExecStart=/bin/x\n")),
        );
        for (unit, is_refused) in [
            ("apt.service", true),
            ("upgrades.service", true),
            ("cache.service", false),
        ] {
            let told = refusal(&files, unit, false);
            assert_eq!(told.is_some(), is_refused, "{unit}: {told:?}");
            assert!(told.is_none_or(|told| told.contains("'/var/lib/apt'")));
        }
    }
}
