use super::*;
use crate::config::Command;
use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::workload::Restart;

/// Returns a config with every key.
fn full() -> SandboxConfig {
    SandboxConfig {
        packages: vec!["apache2-data".to_owned()],
        service_packages: vec!["apache2".to_owned(), "apache2-data".to_owned()],
        keep_units: vec!["dbus.socket".to_owned()],
        networks: vec![
            "address=192.0.2.7/24,route=0.0.0.0/0%192.0.2.1,source=default"
                .parse()
                .unwrap(),
        ],
        mounts: vec![r"host-bind:/a\,b=/srv,ro".parse().unwrap()],
        devices: vec!["/dev/net/tun".parse().unwrap()],
        credentials: vec!["db-password:/etc/app/password".parse().unwrap()],
        publish: vec![
            "8080:80".parse().unwrap(),
            "[::1]:53:53/udp".parse().unwrap(),
        ],
        on_demand: true,
        idle_stop: Some(300),
        idmap: "100000".parse().unwrap(),
        seccomp: Seccomp::Off,
        capabilities: Capabilities {
            add: vec!["sys_time".parse().unwrap()],
            drop: vec!["all".parse().unwrap()],
        },
        resources: Resources {
            memory: Some("1G".parse().unwrap()),
            cpus: Some(2),
            cpu_shares: Some(512),
            cpu_quota: Some(150),
            cpu_pinning: Some("0-1".parse().unwrap()),
            numa_nodes: Some("0".parse().unwrap()),
            pids: Some(100),
            io_weight: Some(200),
            io_read: vec!["/dev/sda=10M".parse().unwrap()],
            io_write: vec!["/dev/sda=5M".parse().unwrap()],
            io_read_ops: vec!["/dev/sda=100".parse().unwrap()],
            io_write_ops: vec!["/dev/sda=50".parse().unwrap()],
            net_receive: Some("10M".parse().unwrap()),
            net_send: Some("1M".parse().unwrap()),
        },
        ..SandboxConfig::example()
    }
}

#[test]
fn a_file_round_trips_exactly() {
    let text = full().to_toml().unwrap();
    let read = SandboxConfig::parse(&text, Path::new("x")).unwrap();
    assert_eq!(read, full());
    assert_eq!(read.to_toml().unwrap(), text);
    insta::assert_snapshot!(text);
}

#[test]
fn a_sandbox_runs_units_or_a_command() {
    let command = SandboxConfig {
        workload: Workload::Command(Command {
            argv: vec!["/usr/bin/a".into(), "b c".into(), "\"\n".into()],
            user: Some("daemon".into()),
            uid: Some(7),
            gid: Some(8),
            home: Some("/srv/a".into()),
            directory: Some("/srv/a".into()),
            restart: Restart::OnFailure,
            ready: "port=80".parse().unwrap(),
            environment: [("A".to_owned(), "b".to_owned())].into(),
        }),
        image: Some(TreeImage {
            size: "1G".parse().unwrap(),
            format: TreeFormat::Qcow2,
            filesystem: TreeFilesystem::Xfs,
        }),
        ..full()
    };
    let text = command.to_toml().unwrap();
    let path = Path::new("/etc/x.toml");
    assert_eq!(SandboxConfig::parse(&text, path).unwrap(), command);
    let json = serde_json::to_string(&command).unwrap();
    assert_eq!(
        serde_json::from_str::<SandboxConfig>(&json).unwrap(),
        command
    );
    insta::assert_snapshot!(text);
    let file = command.image_file().unwrap();
    assert_eq!(file, Path::new("/var/lib/libvirt/filesystems/web1.qcow2"));

    let units = "units = [\"a.service\"]\n";
    for (text, expected) in [
        (format!("{units}{text}"), "both 'units' and '[command]'"),
        (
            full().to_toml().unwrap().replace("\nunits =", "\nkeep ="),
            "neither 'units' nor '[command]'",
        ),
        (text.replace("argv", "arrgv"), "arrgv"),
        (text.replace("on-failure", "sometimes"), "sometimes"),
        (text.replace("port=80", "port=0"), "'port=0' does not say"),
        (
            text.replace("argv = [", "argv = []\nx = ["),
            "unknown field `x`",
        ),
        (text.replace("ext4", "ext5").replace("xfs", "ext5"), "ext5"),
    ] {
        let error = SandboxConfig::parse(&text, path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn mounts_of_throw_away_sandboxes_are_refused() {
    for (mount, reason) in [
        ("host-bind:/=/srv/root", "the root"),
        ("host-image:/a=/a.img", "an image"),
        ("host-image:/=/a.img", "the root"),
        ("host-bind:/tmp=", "temporary"),
        ("host-bind:/a=b", "not an absolute path"),
    ] {
        let text = format!("'{mount}'");
        let good = full().to_toml().unwrap();
        let bad = good.replace(r"'host-bind:/a\,b=/srv,ro'", &text);
        assert_ne!(good, bad);
        let error = SandboxConfig::parse(&bad, Path::new("/etc/x.toml")).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&format!("the mount '{mount}'")) && message.contains(reason),
            "{message}"
        );
    }
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_place() {
    let good = full().to_toml().unwrap();
    for (from, to, expected) in [
        ("version = 1", "version = 9", "version 9"),
        ("timeout", "timeoutt", "missing field `timeout`"),
        ("keep-units", "keep-unitss", "unknown field `keep-unitss`"),
        ("memory = \"1G\"", "memory = \"1X\"", "'1X' is not a size"),
        ("name = \"web1\"", "name = \"../x\"", "line 2"),
        (
            "units = [\"apache2.service\"]",
            "units = []",
            "'units' is empty",
        ),
        ("[::1]:53:53/udp", "127.0.0.1:8080:1", "the same port"),
        ("on-demand = true\n", "", "on demand"),
        ("idle-stop = 300", "idle-stop = 0", "0 seconds"),
    ] {
        assert!(good.contains(from), "{from}");
        let error =
            SandboxConfig::parse(&good.replace(from, to), Path::new("/etc/x.toml")).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(expected) && message.contains("/etc/x.toml"),
            "{message}"
        );
    }
}

#[test]
fn values_of_variables_are_not_shown() {
    let command = Command {
        argv: vec!["/bin/x".to_owned()],
        environment: [("PASSWORD".to_owned(), "hunter2".to_owned())].into(),
        ..Command::default()
    };
    let config = SandboxConfig {
        workload: Workload::Command(command),
        ..full()
    };
    let shown = config.without_secrets().to_toml().unwrap();
    assert!(
        shown.contains("PASSWORD") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn credentials_have_names_of_their_own_and_absolute_files() {
    for (credentials, word) in [
        (["a:/x", "a:/y"], "two credentials 'a'"),
        (["a:/x", "b:y"], "not an absolute path"),
    ] {
        let config = SandboxConfig {
            credentials: credentials.map(|it| it.parse().unwrap()).to_vec(),
            ..full()
        };
        let reason = config.check().unwrap_err().to_string();
        assert!(reason.contains(word), "{reason}");
    }
}
