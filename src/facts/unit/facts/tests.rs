use super::super::fixture::Host;
use super::*;

fn facts(unit: &str, text: &str) -> UnitFacts {
    let host = Host::new();
    host.unit(unit, text);
    host.load(unit).facts(&Specifiers::default())
}

fn paths(marked: &[MarkedPath]) -> Vec<(&str, bool)> {
    marked
        .iter()
        .map(|m| (m.path.to_str().unwrap(), m.optional))
        .collect()
}

#[test]
fn a_hardened_daemon() {
    let facts = facts(
        "web.service",
        "[Unit]\nRequiresMountsFor=/srv/web\nConditionPathExists=/etc/web.conf\nConditionVirtualization=!container\n\
         [Service]\nType=notify\nUser=www\nGroup=www-data\nSupplementaryGroups=ssl adm\n\
         EnvironmentFile=-/etc/default/%p\nEnvironment=\"HOME=/var/lib/web dir\" CONF=/etc/web/main.conf\n\
         ExecStartPre=+/bin/mkdir -p /run/web\nExecStart=/usr/sbin/web --conf=/etc/web.conf -d ${DIR} -l/var/log/web.log\n\
         ReadWritePaths=-/var/spool/web /var/cache/web\nReadOnlyPaths=/etc\nPIDFile=/var/run/web.pid\n\
         WorkingDirectory=-/srv/web\nBindPaths=/opt/a:/opt/b:rbind /opt/c\nBindReadOnlyPaths=-/dev/net/tun\n\
         DeviceAllow=/dev/fuse rw\nDeviceAllow=char-pts\nLoadCredential=key:/etc/web.key\nLoadCredential=other\n\
         CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n\
         StateDirectory=web web/db:old\nStateDirectoryMode=0750\nRuntimeDirectory=web\n\
         [Install]\nWantedBy=multi-user.target\nAlias=httpd.service\n",
    );
    assert_eq!(
        (facts.user.as_deref(), facts.group.as_deref()),
        (Some("www"), Some("www-data"))
    );
    assert_eq!(facts.supplementary_groups, ["ssl", "adm"]);
    assert_eq!(facts.service_type.as_deref(), Some("notify"));
    assert_eq!(
        paths(&facts.environment_files),
        [("/etc/default/web", true)]
    );
    assert_eq!(
        facts.environment[0],
        ("HOME".into(), "/var/lib/web dir".into())
    );
    assert_eq!(
        paths(&facts.read_write_paths),
        [("/var/spool/web", true), ("/var/cache/web", false)]
    );
    assert_eq!(facts.pid_file.as_deref(), Some(Path::new("/run/web.pid")));
    assert_eq!(facts.mounts_for, [Path::new("/srv/web")]);
    assert_eq!(
        facts.working_directory.as_ref().unwrap().path,
        Path::new("/srv/web")
    );
    let binds: Vec<_> = facts
        .binds
        .iter()
        .map(|b| {
            (
                b.source.path.to_str().unwrap(),
                b.target.to_str().unwrap(),
                b.read_only,
            )
        })
        .collect();
    assert_eq!(
        binds,
        [
            ("/opt/a", "/opt/b", false),
            ("/opt/c", "/opt/c", false),
            ("/dev/net/tun", "/dev/net/tun", true)
        ]
    );
    assert_eq!(
        facts.device_rules[0],
        DeviceRule {
            device: "/dev/fuse".into(),
            access: "rw".into()
        }
    );
    assert_eq!(
        facts.devices,
        ["/dev/fuse", "/dev/net/tun"].map(PathBuf::from).into()
    );
    assert_eq!(
        facts.credentials[0].path.as_deref(),
        Some(Path::new("/etc/web.key"))
    );
    assert_eq!(
        facts.credentials[1],
        Credential {
            id: "other".into(),
            path: None
        }
    );
    assert!(!facts.bounding_set.unwrap().contains("CAP_SYS_TIME"));
    assert!(facts.ambient_capabilities.contains("CAP_NET_BIND_SERVICE"));
    assert_eq!(facts.conditions.len(), 2);
    assert_eq!(facts.commands.len(), 2);
    let dirs: Vec<_> = facts
        .directories
        .iter()
        .map(|d| (d.path.to_str().unwrap(), d.mode, d.links.len()))
        .collect();
    assert_eq!(
        dirs,
        [
            ("/run/web", 0o755, 0),
            ("/var/lib/web", 0o750, 0),
            ("/var/lib/web/db", 0o750, 1)
        ]
    );
    for path in [
        "/etc/web.conf",
        "/var/log/web.log",
        "/etc/web/main.conf",
        "/usr/sbin/web",
        "/run/web",
    ] {
        assert!(facts.mentioned_paths.contains(Path::new(path)), "{path}");
    }
    assert_eq!(facts.install.alias[0].as_str(), "httpd.service");
    assert!(facts.ignored.is_empty() && facts.unresolved.is_empty());
}

#[test]
fn a_dynamic_user_has_private_directories() {
    let facts = facts(
        "dyn@x.service",
        "[Service]\nDynamicUser=yes\nStateDirectory=%p/%i\nRuntimeDirectory=d\nConfigurationDirectory=d\nLogsDirectory=d\n",
    );
    assert!(facts.dynamic_user);
    let dirs: Vec<_> = facts
        .directories
        .iter()
        .map(|dir| {
            (
                dir.path.to_str().unwrap(),
                dir.private.as_ref().map(|path| path.to_str().unwrap()),
            )
        })
        .collect();
    assert_eq!(
        dirs,
        [
            ("/run/d", None),
            ("/var/lib/dyn/x", Some("/var/lib/private/dyn/x")),
            ("/var/log/d", Some("/var/log/private/d")),
            ("/etc/d", None),
        ]
    );
}

#[test]
fn triggers_default_to_the_name() {
    let cases = [
        (
            "a.socket",
            "[Socket]\nListenStream=80\nListenDatagram=/var/run/a\n",
            Some("a.service"),
            false,
        ),
        (
            "a.socket",
            "[Socket]\nService=b.service\n",
            Some("b.service"),
            true,
        ),
        (
            "a.socket",
            "[Socket]\nAccept=yes\n",
            Some("a@.service"),
            false,
        ),
        (
            "a.timer",
            "[Timer]\nUnit=b.target\n",
            Some("b.target"),
            true,
        ),
        ("a.path", "[Path]\n", Some("a.service"), false),
        ("a.service", "[Service]\n", None, false),
    ];
    for (unit, text, triggers, named) in cases {
        let facts = facts(unit, text);
        assert_eq!(
            facts.dependencies.triggers.as_ref().map(UnitName::as_str),
            triggers
        );
        assert_eq!(facts.dependencies.triggers_named, named);
    }
}

#[test]
fn invalid_settings_are_recorded_as_ignored() {
    let facts = facts(
        "a.service",
        "[Unit]\nWants=good.service not/a/unit\nConditionPathExists=/a\nConditionPathExists=\nAssertPathExists=/b\n\
         [Service]\nExecStart=/bin/sh -c 'x\nEnvironmentFile=relative\nStateDirectory=../up\nUser=%Z-%m\n",
    );
    assert_eq!(
        facts.ignored,
        [
            "ExecStart=/bin/sh -c 'x",
            "StateDirectory=../up",
            "EnvironmentFile=relative",
            "Wants=not/a/unit"
        ]
    );
    assert_eq!(facts.unresolved, ['Z', 'm'].into());
    assert_eq!(facts.dependencies.wants.len(), 1);
    assert_eq!(
        facts
            .conditions
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["AssertPathExists=/b"]
    );
}
