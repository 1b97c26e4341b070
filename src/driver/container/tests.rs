use std::path::PathBuf;

use super::*;
use crate::driver::Driver;
use crate::guest::layout::ShareKind;
use crate::sys::arch::Arch;

#[test]
fn mounts_of_the_kernel_are_not_shared() {
    let facts = HostFacts {
        root: "/".into(),
        arch: Arch::X86_64,
        system_dirs: vec![],
        mount_points: ["/", "/proc", "/proc/sys", "/dev/pts", "/run", "/usr"]
            .map(PathBuf::from)
            .to_vec(),
    };
    let share = Share {
        source: "/".into(),
        staged: ROOT.into(),
        read_only: true,
        kind: ShareKind::Directory,
    };
    let targets: Vec<_> = with_submounts(&share, &facts)
        .into_iter()
        .map(|filesystem| filesystem.target)
        .collect();
    assert_eq!(targets, [Path::new("/host"), Path::new("/host/usr")]);
}

#[test]
fn a_mount_beside_a_share_is_not_shared() {
    let facts = HostFacts {
        root: "/".into(),
        arch: Arch::X86_64,
        system_dirs: vec![],
        mount_points: ["/", "/usr", "/usr/bin", "/usrlocal", "/srv/data"]
            .map(PathBuf::from)
            .to_vec(),
    };
    let share = Share {
        source: "/usr".into(),
        staged: "/host/usr".into(),
        read_only: true,
        kind: ShareKind::Directory,
    };
    let targets: Vec<_> = with_submounts(&share, &facts)
        .into_iter()
        .map(|filesystem| filesystem.target)
        .collect();
    assert_eq!(
        targets,
        [Path::new("/host/usr"), Path::new("/host/usr/bin")]
    );
}

#[test]
fn every_limit_has_a_value_when_it_is_taken_away() {
    let usual = Resources::default();
    let limit = |resources: &Resources, key: &str| Driver::Lxc.limit(resources, key);
    assert_eq!(limit(&usual, "memory"), Some(Limit::Memory(2 << 20)));
    assert_eq!(limit(&usual, "cpu-shares"), Some(Limit::CpuShares(1024)));
    let quota = |resources: &Resources| match limit(resources, "cpus") {
        Some(Limit::CpuQuota { quota, .. }) => quota,
        _ => panic!("no quota"),
    };
    assert_eq!(quota(&usual), None);
    let two = Resources {
        cpus: Some(2),
        ..usual
    };
    assert_eq!(quota(&two), Some(200_000));
    assert_eq!(limit(&two, "io-weight"), None);
}
