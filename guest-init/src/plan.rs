//! What PID 1 will do, as data.
//!
//! [`plan`] is pure; `boot` carries the steps out. The order is the point: the root is assembled
//! before anything is taken from the staging root for good, cgroups are entered while the host's
//! hierarchy can still be seen, and the network is up before the payload looks for it.

use std::path::PathBuf;

use crate::config::{File, GuestConfig, Mount, Nic};

/// One thing PID 1 does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Put an empty tmpfs where the new root is assembled.
    NewRoot,
    /// Add to the new root.
    Mount(Mount),
    /// Carry `/proc`, `/sys` or `/dev` over, with all that is mounted below.
    Move(PathBuf),
    /// Limit the number of processes and enter a cgroup and a cgroup namespace of our own.
    Cgroup {
        /// Name of the cgroup.
        name: String,
        /// Highest number of processes and threads.
        max_pids: Option<u64>,
    },
    /// Carry the sources of the user's mounts over.
    CarryMounts,
    /// Make the new root the root and let go of the staging root.
    Pivot,
    /// Let go of the sources of the user's mounts.
    ReleaseMounts,
    /// Write a file.
    File(File),
    /// Mask what `/usr` pulls in, but these.
    MaskStaticUnits {
        /// Unit names that stay.
        keep: Vec<String>,
    },
    /// Set the host name.
    Hostname(String),
    /// Raise the loopback and the NICs and give them addresses.
    Network(Vec<Nic>),
    /// Become the payload.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// All of its environment.
        environment: Vec<(String, String)>,
    },
}

/// The steps for `config`, in order.
#[must_use]
pub fn plan(config: &GuestConfig) -> Vec<Step> {
    let mut steps = vec![Step::NewRoot];
    steps.extend(config.mounts.iter().cloned().map(Step::Mount));
    steps.extend(["/proc", "/sys", "/dev"].map(|dir| Step::Move(dir.into())));
    steps.push(Step::Cgroup {
        name: format!("virt-sandbox-{}", config.name),
        max_pids: config.max_pids,
    });
    let has_mounts = !config.user_mounts.is_empty();
    steps.extend(has_mounts.then_some(Step::CarryMounts));
    steps.push(Step::Pivot);
    steps.extend(DEVICE_MOUNTS.map(|(target, mode)| {
        Step::Mount(Mount::Tmpfs {
            target: target.into(),
            mode,
            size: None,
        })
    }));
    steps.extend(config.user_mounts.iter().cloned().map(Step::Mount));
    steps.extend(has_mounts.then_some(Step::ReleaseMounts));
    steps.extend(config.files.iter().cloned().map(Step::File));
    if let Some(units) = &config.static_units {
        steps.push(Step::MaskStaticUnits {
            keep: units.keep.clone(),
        });
    }
    steps.push(Step::Hostname(config.hostname.clone()));
    steps.push(Step::Network(config.network.clone()));
    steps.push(Step::Exec {
        command: config.command.clone(),
        environment: config.environment.clone(),
    });
    steps
}

/// What libvirt's `/dev` lacks.
const DEVICE_MOUNTS: [(&str, u32); 1] = [("/dev/shm", 0o1777)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{StaticUnits, VERSION};

    #[test]
    fn the_root_is_whole_before_the_staging_root_goes() {
        let config = GuestConfig {
            version: VERSION,
            name: "web1".into(),
            hostname: "web1".into(),
            debug: false,
            mounts: vec![Mount::Symlink {
                points_to: "usr/bin".into(),
                target: "/bin".into(),
            }],
            user_mounts: vec![],
            files: vec![],
            static_units: Some(StaticUnits { keep: vec![] }),
            max_pids: Some(10),
            network: vec![],
            command: vec!["/usr/lib/systemd/systemd".into()],
            environment: vec![],
        };
        let steps = plan(&config);
        let at = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
        let pivot = at(&Step::Pivot);
        assert_eq!(at(&Step::NewRoot), 0);
        assert!(at(&Step::Mount(config.mounts[0].clone())) < pivot);
        assert!(at(&Step::Move("/dev".into())) < pivot);
        assert!(
            at(&Step::Cgroup {
                name: "virt-sandbox-web1".into(),
                max_pids: Some(10)
            }) < pivot
        );
        assert!(matches!(steps.last(), Some(Step::Exec { .. })));
    }
}
