use super::*;
use crate::config::resources::DEFAULT_PIDS;

fn of(change: impl FnOnce(&mut SandboxConfig), machine: bool) -> (f64, &'static str) {
    let mut config = SandboxConfig::example();
    // The default depends on the host.
    config.resources.pids = Some(DEFAULT_PIDS);
    change(&mut config);
    exposure(&judge(&Facts::new(&config, machine, None, None)))
}

#[test]
fn what_protects_counts() {
    let idmap = |config: &mut SandboxConfig| config.idmap = Idmap::No;
    let open = |config: &mut SandboxConfig| {
        config.idmap = Idmap::No;
        config.seccomp = Seccomp::Off;
    };
    let wide_open = |config: &mut SandboxConfig| {
        open(config);
        config.capabilities.add = vec![crate::config::Capability::All];
        config.mounts = ["/a=/srv", "/b=/etc", "/c=/home"]
            .map(|mount| format!("host-bind:{mount}").parse().unwrap())
            .to_vec();
        config.networks = vec!["dhcp".parse().unwrap()];
    };
    let all = [
        of(|_| {}, true),
        of(|_| {}, false),
        of(|config| config.seccomp = Seccomp::Off, false),
        of(idmap, false),
        of(open, false),
        of(wide_open, false),
    ];
    let levels = all.map(|(_, level)| level);
    assert_eq!(
        levels,
        ["SAFE", "OK", "OK", "MEDIUM", "EXPOSED", "UNSAFE"],
        "{all:?}"
    );
    assert!(all.is_sorted_by(|a, b| a.0 < b.0), "{all:?}");
}

#[test]
fn a_network_in_user_mode_reaches_the_loopback_of_the_host() {
    let network = |text: &str| {
        let text = text.parse().unwrap();
        of(|config| config.networks = vec![text], true).0
    };
    assert!(network("dhcp,user") > network("dhcp,source=default"));
}

/// Facts of a podman container without options, from `podman inspect` and `/proc/PID/status`.
#[test]
fn a_container_of_podmans_can_be_compared() {
    const HELD: [&str; 11] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let dropped = crate::config::security::capability::NAMES.into_iter();
    let facts = Facts {
        machine: false,
        own_ids: false,
        filter: Filter::Usual,
        dropped: (dropped.filter(|name| !HELD.contains(name)))
            .map(ToOwned::to_owned)
            .collect(),
        label: None,
        writable: vec![],
        read_only: vec![],
        nics: 1,
        unfiltered: 1,
        by_hypervisor: 0,
        cpu_limited: false,
        memory_limited: false,
        pids: Some(2048),
    };
    assert_eq!(exposure(&judge(&facts)), (3.5, "OK"));
}

#[test]
fn the_report_of_a_usual_sandbox_is_known() {
    let mut config = SandboxConfig::example();
    config.resources.pids = Some(DEFAULT_PIDS);
    let facts = Facts::new(
        &config,
        false,
        Some("system_u:system_r:container_t:s0:c1,c2".to_owned()),
        None,
    );
    let text = serde_json::to_string_pretty(&judge(&facts)).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn a_share_that_a_machine_can_write_to_is_said_however_it_was_asked_for() {
    let share = |source: &str, transport, read_only| DefinedShare {
        source: source.into(),
        transport,
        read_only,
    };
    let config = SandboxConfig::example();
    let files = |shares: Vec<DefinedShare>| {
        let mut facts = Facts::new(&config, true, None, None);
        facts.add_shares(shares, &config.path);
        let mut checks = judge(&facts).into_iter();
        let files = checks.find(|check| check.name == "files").unwrap();
        (files.state, files.badness)
    };
    let tree = share(
        &config.path.join("etc").to_string_lossy(),
        "virtiofs",
        false,
    );
    let (state, badness) = files(vec![tree.clone(), share("/usr", "virtiofs", true)]);
    assert_eq!(badness, 0);
    assert_eq!(
        state,
        "only its own tree; the host refuses to write to /usr (virtiofs)"
    );
    let (state, badness) = files(vec![tree, share("/usr", "virtiofs", false)]);
    assert!(badness > 0);
    assert_eq!(state, "its own tree, and /usr");
}
