//! Files as libvirt-sandbox wrote them, and invalid files.

use std::path::Path;

use super::*;

const GOOD: &str = "\
[api]
class=GVirSandboxConfigServiceSystemd
version=0.6.0

[core]
name=web1
uuid=00000000-0000-0000-0000-000000000007
root=/
arch=x86_64
shell=false

[identity]
uid=0
gid=0
username=root
homedir=/root

[mount.0]
type=GVirSandboxConfigMountRam
target=/run
usage=10485760

[mount.1]
type=GVirSandboxConfigMountHostBind
target=/var
source=/srv/boxes/web1/var

[mount.2]
type=GVirSandboxConfigMountHostBind
target=/etc/httpd
source=/srv/boxes/web1/etc/httpd

[mount.5]
type=GVirSandboxConfigMountHostBind
target=/data
source=/srv/a\\sb

[mount.6]
type=GVirSandboxConfigMountGuestBind
target=/mnt
source=/data

[mount.7]
type=GVirSandboxConfigMountRam
target=/scratch
usage=1048576

[network.0]
dhcp=true
source=default
mac=52:54:00:00:00:07

[network.3]
dhcp=false
source=lab
addresses=1
routes=1

[network.3.address.0]
primary=192.0.2.7
broadcast=192.0.2.255
prefix=24

[network.3.route.0]
target=0.0.0.0
prefix=0
gateway=192.0.2.1

[security]
dynamic=true

[service]
bootTarget=multi-user.target
";

fn convert(text: &str) -> Result<(SandboxConfig, Vec<String>)> {
    let name = "web1".parse().unwrap();
    let foreign = Foreign::parse(text, &name, Path::new("/var/lib/libvirt/filesystems"))?;
    let filters = [Some("filter=clean-traffic,filter.ip=192.0.2.9".to_owned())];
    foreign.convert(
        &name,
        "lxc:///",
        vec!["httpd.service".into()],
        Uuid::from_u128(1),
        &filters,
    )
}

#[test]
fn a_complete_file_is_converted() {
    let (config, notes) =
        convert(&GOOD.replace("x86_64", crate::sys::arch::Arch::HOST.name())).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    config.check().unwrap();
    insta::assert_snapshot!(config.to_toml().unwrap());
}

#[test]
fn unsupported_settings_get_notes() {
    let text = GOOD
        .replace(
            "dynamic=true",
            "dynamic=false\nlabel=system_u:system_r:svirt_lxc_net_t:s0",
        )
        .replace("uid=0\ngid", "uid=33\ngid")
        .replace("root=/\n", "root=/srv/root\nkernrelease=6.1\n")
        .replace(
            "arch=x86_64\nshell=false",
            "arch=none\nshell=true\ndebug=true\nverbose=1",
        )
        .replace("usage=1048576", "usage=1048576\nodd=1")
        .replace("bootTarget=multi-user", "bootTarget=graphical")
        .replace("dhcp=false", "dhcp=true")
        + "\n[env.4]\nkey=A\nvalue=b\n[disk.0]\ntype=file\nsource=/a.img\ntag=a\nformat=raw\n\
           [mount.8]\ntype=GVirSandboxConfigMountHostImage\ntarget=/img\nsource=/b.img\n\
           [mount.5.include.0]\ndst=x\nsrc=/y\n[interactive]\ntty=true\n[env.007]\nkey=A\n";
    let (_, notes) = convert(&text).unwrap();
    insta::assert_snapshot!(notes.join("\n"));
}

#[test]
fn errors_name_group_and_key() {
    let too_many = |kind: &str| format!("{GOOD}\n[{kind}]\nkey=a\nvalue=b\n");
    for (text, words) in [
        (
            GOOD.replace("class=GVirSandboxConfigServiceSystemd\n", ""),
            "group 'api': the key 'class' is missing",
        ),
        (
            GOOD.replace("ConfigServiceSystemd", "ConfigRocket"),
            "'GVirSandboxConfigRocket', no class",
        ),
        (
            GOOD.replace("GVirSandboxConfigServiceSystemd", "Systemd"),
            "'Systemd', no class",
        ),
        (
            GOOD.replace("name=web1\n", ""),
            "group 'core': the key 'name' is missing",
        ),
        (GOOD.replace("name=web1", "name=other"), "is 'other'"),
        (
            GOOD.replace("bootTarget=multi-user.target", ""),
            "group 'service': the key 'bootTarget' is missing",
        ),
        (
            GOOD.replace("MountGuestBind", "MountMagic"),
            "group 'mount.6': the key 'type' is 'GVirSandboxConfigMountMagic', no type",
        ),
        (
            GOOD.replace("target=/mnt\n", ""),
            "group 'mount.6': the key 'target' is missing",
        ),
        (
            GOOD.replace("source=/data\n", ""),
            "group 'mount.6': the key 'source' is missing",
        ),
        (
            GOOD.replace("usage=1048576\n\n", ""),
            "group 'mount.7': the key 'usage' is missing",
        ),
        (
            GOOD.replace("usage=1048576\n", "usage=much\n"),
            "group 'mount.7': the key 'usage' is 'much'",
        ),
        (
            GOOD.replace("target=/data", "target=data"),
            "group 'mount.5': the key 'target' is 'data'",
        ),
        (
            GOOD.replace("dhcp=false", "dhcp=maybe"),
            "group 'network.3': the key 'dhcp' is 'maybe'",
        ),
        (
            GOOD.replace("addresses=1", "addresses=101"),
            "group 'network.3': the number 101 is too high",
        ),
        (
            GOOD.replace("addresses=1", "addresses=x"),
            "group 'network.3': the key 'addresses' is 'x'",
        ),
        (
            GOOD.replace("primary=192.0.2.7\n", ""),
            "group 'network.3.address.0': the key 'primary' is missing",
        ),
        (
            GOOD.replace("gateway=192.0.2.1\n", ""),
            "group 'network.3.route.0': the key 'gateway' is missing",
        ),
        (
            GOOD.replace("source=lab", "source=lab,filter=x"),
            "group 'network.3': the key 'source' is 'lab,filter=x'",
        ),
        (GOOD.replace("mac=52", "mac=zz"), "group 'network.0'"),
        (
            GOOD.replace("uuid=0000", "uuid=zzzz"),
            "group 'core': the key 'uuid' is",
        ),
        (
            too_many("network.100"),
            "group 'network': the number 100 is too high, there are at most 100",
        ),
        (
            too_many("env.1024"),
            "group 'env': the number 1024 is too high, there are at most 1024",
        ),
        (
            too_many("env.0").replace("value=b\n", ""),
            "group 'env.0': the key 'value' is missing",
        ),
        (
            too_many("disk.0"),
            "group 'disk.0': the key 'source' is missing",
        ),
        (
            format!("stray=1\n{GOOD}"),
            "line 1: a key outside of any group",
        ),
        (format!("[api\n{GOOD}"), "line 1: neither"),
        (
            format!("{GOOD}nonsense\n"),
            "neither '[group]' nor 'key=value'",
        ),
        (GOOD.replace("a\\sb", "a\\q"), "a backslash is followed by"),
    ] {
        let message = convert(&text).unwrap_err().to_string();
        assert!(message.contains(words), "'{words}' is not in '{message}'");
    }
}

#[test]
fn unsupported_kinds_of_sandboxes_are_refused() {
    let interactive = GOOD.replace("ServiceSystemd", "Interactive");
    assert!(convert(&interactive).is_err());
    let image = format!(
        "{GOOD}[mount.9]\ntype=GVirSandboxConfigMountHostImage\ntarget=/srv/boxes/web1\nsource=/i.raw\nformat=raw\n"
    );
    let message = convert(&image).unwrap_err().to_string();
    assert!(
        message.contains("'/i.raw'") && message.contains("'mount.9'"),
        "{message}"
    );
}

#[test]
fn a_command_is_converted_with_its_account_and_variables() {
    let text = GOOD
        .replace("ServiceSystemd", "ServiceGeneric")
        .replace("uid=0\ngid=0", "uid=7\ngid=8")
        .replace("x86_64", crate::sys::arch::Arch::HOST.name())
        .replace("[service]\nbootTarget=multi-user.target\n", "")
        + "[command]\nargv.0=/bin/a\nargv.2=b c\n[env.4]\nkey=A\nvalue=b\n\
           [mount.9]\ntype=GVirSandboxConfigMountHostBind\ntarget=/srv/boxes\nsource=/srv/boxes/web1\n";
    let (config, notes) = convert(&text).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("group 'mount.9'"), "{notes:?}");
    let Workload::Command(command) = config.workload else {
        panic!("no command");
    };
    insta::assert_debug_snapshot!(command);
    let message = convert(&text.replace("argv.0", "argv.7"));
    assert!(
        message
            .unwrap_err()
            .to_string()
            .contains("'argv.0' is missing")
    );
}

#[test]
fn filters_come_from_the_domain() {
    let document = "<domain><devices><interface><source network='a'/></interface><interface>\
                    <filterref filter='clean-traffic'><parameter name='IP' value='192.0.2.1'/></filterref>\
                    </interface></devices></domain>";
    assert_eq!(
        filters(document),
        [
            None,
            Some("filter=clean-traffic,filter.ip=192.0.2.1".to_owned())
        ]
    );
    assert!(filters("<").is_empty());
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_odd(text in "(\\[[a-z.0-9]{0,9}\\]|[a-z.]{0,5}=[ -~]{0,9}|\\PC{0,9}|\n){0,30}") {
        let _ = convert(&text);
        let _ = convert(&format!("{GOOD}{text}"));
    }
}
