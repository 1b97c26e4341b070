//! Conversion of sandboxes of libvirt-sandbox, by their documented configuration files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::packages::{Content, Package, served};
use crate::support::{
    HostFile, Test, address, eventually, get, in_tree, ok, output, run, says, subnet,
};

const CONFIGS: &str = "/etc/libvirt-sandbox/services";

/// A sandbox of libvirt-sandbox: its file, and its part of a tree.
struct Old {
    name: &'static str,
    file: PathBuf,
}

impl Old {
    /// Makes a sandbox of `t-pkg-old.service`; `rest` is its file from the mounts on, and the first line of `core` has more keys.
    fn new(name: &'static str, file: &str, core: &str, rest: &str) -> Self {
        let tree = in_tree(name, "");
        for dir in ["etc/t-pkg-old", "var/log", "home", "root"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        let wants = tree.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        let unit = "/usr/lib/systemd/system/t-pkg-old.service";
        symlink(unit, wants.join("t-pkg-old.service")).unwrap();
        fs::write(tree.join("etc/t-pkg-old/conf"), format!("{name}\n")).unwrap();
        let file = Path::new(CONFIGS).join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let tree = tree.display().to_string();
        let tree = tree.trim_end_matches('/');
        let text = format!(
            "[api]\nclass=GVirSandboxConfigServiceSystemd\nversion=0.6.0\n\n\
             [core]\nname={name}\nroot=/\narch=x86_64\nkernpath=\n{core}\n\
             [identity]\nuid=0\ngid=0\nusername=root\nhomedir=/root\n\n\
             [mount.0]\ntype=GVirSandboxConfigMountHostBind\ntarget=/var\nsource={tree}/var\n\n\
             [mount.1]\ntype=GVirSandboxConfigMountHostBind\ntarget=/etc/t-pkg-old\nsource={tree}/etc/t-pkg-old\n\n\
             [mount.2]\ntype=GVirSandboxConfigMountRam\ntarget=/tmp\nusage=10485760\n\n\
             {rest}\n\
             [security]\ndynamic=true\n\n\
             [service]\nbootTarget=multi-user.target\n"
        );
        let text = text.replace("x86_64", std::env::consts::ARCH);
        fs::write(&file, text.replace("kernpath=\n", "")).unwrap();
        Self { name, file }
    }

    /// Turns it into a sandbox of a command, which ran without systemd: no unit is enabled in its tree.
    fn into_command(self, rest: &str) -> Self {
        fs::remove_dir_all(in_tree(self.name, "etc/systemd")).unwrap();
        self.edit("ConfigServiceSystemd", "ConfigServiceGeneric");
        self.edit("[service]\nbootTarget=multi-user.target\n", rest);
        self
    }

    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&self.file, text.replace(from, to)).unwrap();
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        // A converted sandbox is deleted like any other.
        if Path::new(CONFIGS)
            .join(self.name)
            .join("sandbox.toml")
            .exists()
        {
            run(&["delete", "--force", self.name]);
        }
        let mut aside = self.file.clone().into_os_string();
        aside.push(".converted");
        for file in [self.file.clone(), aside.into()] {
            let _ = fs::remove_file(file);
        }
        let _ = fs::remove_dir_all(Path::new(CONFIGS).join(self.name));
        let _ = fs::remove_dir_all(in_tree(self.name, ""));
        for dir in [CONFIGS, "/etc/libvirt-sandbox"] {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn package() -> Package {
    let content = Content {
        files: served(
            "t-pkg-old",
            "1.0",
            "",
            &[("conf", "host"), ("more", "host")],
        ),
        ..Content::default()
    };
    Package::new("t-pkg-old", &content)
}

fn assert_serves(name: &str) {
    let url = format!("http://{}:8000/", address(name));
    eventually("it answers", || get(&url).code == 0);
    let answer = get(&url).stdout;
    for line in [format!("conf {name}"), "more host".to_owned()] {
        assert!(answer.lines().any(|one| one == line), "{line}: {answer}");
    }
}

#[test]
#[ignore = "slow: make test-slow"]
fn two_legacy_sandboxes_are_converted() {
    let Some(test) = Test::begin("two_legacy_sandboxes_are_converted") else {
        return;
    };
    let package = package();
    let dhcp = "[network.0]\ndhcp=true\nsource=default\nmac=52:54:00:00:10:01\n";
    let new = Old::new("t-new", "t-new/config/sandbox.cfg", "shell=true\n", dhcp);
    let old = Old::new(
        "t-old",
        "t-old.sandbox",
        "",
        "[network.0]\nsource=default\n",
    );
    // The old sandbox had a domain and a unit, too.
    let uri = std::env::var("LIBVIRT_DEFAULT_URI").unwrap();
    let document = "<domain type='lxc'><name>t-new</name><memory unit='MiB'>512</memory><os><type>exe</type>\
                    <init>/etc/libvirt-sandbox/scratch/.libs/libvirt-sandbox-init-lxc</init></os><devices>\
                    <filesystem type='mount'><source dir='/'/><target dir='/'/><readonly/></filesystem></devices></domain>";
    let dir = tempfile::tempdir().unwrap();
    let xml = dir.path().join("t-new.xml");
    fs::write(&xml, document).unwrap();
    output("virsh", &["-c", &uri, "define", xml.to_str().unwrap()]);
    fs::remove_dir_all(in_tree("t-old", "etc/systemd")).unwrap();
    let unit = HostFile::unit(
        "t-old_sandbox.service",
        "[Unit]\nReloadPropagatedFrom=t-pkg-old.service\n[Service]\nExecStart=/bin/virt-sandbox-service start t-old\n",
    );

    // Old sandboxes are left alone until they are named.
    assert!(!ok(&["list"]).contains("t-new"));
    ok(&["upgrade", "--all"]);
    assert!(new.file.exists() && old.file.exists());
    let before = output("find", &[CONFIGS, in_tree("t-new", "").to_str().unwrap()]);
    let preview = ok(&["upgrade", "--dry-run", "t-new"]);
    assert!(
        preview.contains("not carried over: group 'core': the key 'shell'"),
        "{preview}"
    );
    let after = output("find", &[CONFIGS, in_tree("t-new", "").to_str().unwrap()]);
    assert_eq!(before, after);

    for name in ["t-new", "t-old"] {
        let said = ok(&["upgrade", name]);
        eprintln!("{said}");
        assert!(said.contains("added"), "{said}");
        let config = ok(&["inspect", name]);
        assert!(config.contains("t-pkg-old.service"), "{config}");
        ok(&["start", name]);
        assert_serves(name);
    }
    assert!(!new.file.exists() && !old.file.exists());
    assert!(ok(&["inspect", "t-new"]).contains("52:54:00:00:10:01"));
    assert!(ok(&["upgrade", "t-new"]).starts_with("t-new: up to date"));
    for name in ["t-new", "t-old"] {
        ok(&["delete", "--force", name]);
        assert!(!in_tree(name, "").exists());
    }
    drop((new, old, unit, package));
    test.end();
}

#[test]
fn legacy_sandboxes_with_every_key_are_converted_and_start() {
    let Some(test) = Test::begin("legacy_sandboxes_with_every_key_are_converted_and_start") else {
        return;
    };
    let package = package();
    let network = "[network.0]\ndhcp=true\nsource=default\n";
    let share = HostFile::new("/srv/t-share/a b/file", "shared\n");
    let subnet = subnet();
    let fixed = format!(
        "[network.0]\ndhcp=false\nsource=default\naddresses=1\nroutes=1\n\
         [network.0.address.0]\nprimary={subnet}.77\nbroadcast={subnet}.255\nprefix=24\n\
         [network.0.route.0]\ntarget=198.51.100.0\nprefix=24\ngateway={subnet}.1\n"
    );
    let of = |name, core: &str, rest: &str| {
        let file = format!("{name}/config/sandbox.cfg");
        Old::new(name, &file, core, rest)
    };
    let command = of("t-old6", "", network).into_command(
        "[command]\nargv.0=/usr/lib/t-pkg-old/serve\nargv.1=t-pkg-old\nargv.2=8000\nargv.3=1\n\
         [env.1]\nkey=COLOUR\nvalue=light blue\n",
    );
    let labelled = of(
        "t-old7",
        "",
        &format!("{network}[network.4]\nsource=default\n"),
    );
    labelled.edit("dynamic=true", "dynamic=false\nlabel=u:r:t:s0:c1,c2");
    // The file's older path; started by another target, as another user.
    let older = Old::new("t-old8", "t-old8.sandbox", "", network);
    older.edit("multi-user.target", "graphical.target");
    older.edit(
        "uid=0\ngid=0\nusername=root\nhomedir=/root",
        "uid=33\ngid=33\nusername=www-data\nhomedir=/var/www",
    );
    // From another host; a NIC without a DHCP setting uses DHCP.
    let elsewhere = of(
        "t-old11",
        "",
        "[network.0]\nsource=default\nmac=52:54:00:00:10:11\n",
    );
    elsewhere.edit("root=/\n", "root=/srv/root\n");
    elsewhere.edit(&format!("arch={}", std::env::consts::ARCH), "arch=m68k");
    // A template instance, named after its sandbox and with its own file in the tree.
    let template = HostFile::unit(
        "t-old@.service",
        "[Service]\nExecStart=/usr/lib/t-pkg-old/serve t-pkg-old 8000 1\n",
    );
    let instance = of("t-old9", "", network);
    let systemd = in_tree("t-old9", "etc/systemd/system");
    fs::remove_file(systemd.join("multi-user.target.wants/t-pkg-old.service")).unwrap();
    fs::copy(
        "/etc/systemd/system/t-old@.service",
        systemd.join("t-old@.service"),
    )
    .unwrap();
    symlink("t-old@.service", systemd.join("t-old@t-old9.service")).unwrap();
    symlink(
        "/etc/systemd/system/t-old@t-old9.service",
        systemd.join("multi-user.target.wants/t-old@t-old9.service"),
    )
    .unwrap();
    // A command with an account; group numbers with gaps, and mounts that every sandbox has in memory.
    let somebody = of(
        "t-old10",
        "",
        "[network.3]\nsource=default\nmac=52:54:00:00:10:10\n\
         [mount.20]\ntype=GVirSandboxConfigMountRam\ntarget=/run\nusage=10485760\n\
         [mount.21]\ntype=GVirSandboxConfigMountRam\ntarget=/dev/shm\nusage=104857600\n",
    );
    somebody.edit(
        "uid=0\ngid=0\nusername=root\nhomedir=/root",
        "uid=4711\ngid=4712\nusername=t-old\nhomedir=/srv/t-old",
    );
    let somebody = somebody.into_command(
        "[command]\nargv.0=/usr/lib/t-pkg-old/serve\nargv.2=t-pkg-old\nargv.5=8000\nargv.6=1\n",
    );
    // Sandboxes that can be converted: the messages, and a check inside.
    let converted = [
        (
            of(
                "t-old1",
                "uuid=00000000-0000-4000-8000-00000000a001\nkernrelease=6.1\nkernpath=/boot\nkmodpath=/lib/modules\nshell=true\ndebug=true\nverbose=true\n",
                network,
            ),
            &["kernrelease", "kmodpath", "'shell'", "'debug'", "'verbose'"][..],
            "true",
        ),
        (
            of("t-old2", "", &fixed),
            &[],
            "ip route | grep -q 198.51.100.0/24",
        ),
        (
            of(
                "t-old3",
                "",
                &format!(
                    "{network}[mount.7]\ntype=GVirSandboxConfigMountHostBind\ntarget=/data\nsource=/srv/t-share/a\\sb\n\
                     [mount.7.include.0]\ndst=x\nsrc=/etc/hosts\n\
                     [mount.8]\ntype=GVirSandboxConfigMountRam\ntarget=/scratch\nusage=1048576\n\
                     [mount.9]\ntype=GVirSandboxConfigMountGuestBind\ntarget=/mnt\nsource=/data\n"
                ),
            ),
            &["mount.7.include.0"],
            "test \"$(cat /data/file /mnt/file)\" = \"$(printf 'shared\\nshared')\" && mountpoint -q /scratch",
        ),
        (
            of(
                "t-old4",
                "",
                &format!(
                    "{network}[mount.5]\ntype=GVirSandboxConfigMountHostImage\ntarget=/img\nsource=/srv/b.img\nformat=raw\n\
                     [env.0]\nkey=COLOUR\nvalue=blue\n[disk.3]\ntype=file\nsource=/srv/a.img\ntag=a\nformat=qcow2\n\
                     [interactive]\ntty=true\n"
                ),
            ),
            &["/srv/b.img", "COLOUR", "/srv/a.img", "'tty'"],
            "true",
        ),
    ];
    let converted = converted.into_iter().chain([
        (
            command,
            &[][..],
            "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID virt-sandbox-command.service)/environ | grep -qx 'COLOUR=light blue'",
        ),
        (
            labelled,
            &["'u:r:t:s0:c1,c2'", "static"],
            "test $(ip -4 -o addr show scope global | wc -l) = 2",
        ),
        (
            older,
            &["'graphical.target'", "uid '33'", "gid '33'", "'www-data'", "'/var/www'"],
            "true",
        ),
        (
            elsewhere,
            &["'/srv/root'", "'m68k'"],
            "ip link | grep -q 52:54:00:00:10:11",
        ),
        (
            instance,
            &[],
            "systemctl is-active t-old@t-old9.service",
        ),
        (
            somebody,
            &[],
            "test $(stat -c '%U %u %g' /proc/$(systemctl show -P MainPID virt-sandbox-command.service) | tr ' ' -) = t-old-4711-4712 \
             && ip link | grep -q 52:54:00:00:10:10",
        ),
    ]);
    let converted: Vec<_> = converted.collect();
    assert_eq!(converted.len(), 10);
    for (old, words, so) in &converted {
        let said = ok(&["upgrade", old.name]);
        for word in *words {
            let is_said = |line: &str| line.contains("not carried over") && line.contains(word);
            assert!(said.lines().any(is_said), "{word}: {said}");
        }
        if words.is_empty() {
            assert!(!said.contains("not carried over"), "{said}");
        }
        ok(&["start", old.name]);
        assert_serves(old.name);
        says(old.name, so);
        ok(&["stop", old.name]);
    }
    assert!(ok(&["inspect", "t-old1"]).contains("00000000-0000-4000-8000-00000000a001"));
    assert!(ok(&["inspect", "t-old2"]).contains(&format!("{subnet}.77/24")));

    // Foreign sandboxes and those that cannot be converted: nothing is changed.
    let old = of("t-old5", "", network);
    let good = fs::read_to_string(&old.file).unwrap();
    let tree = in_tree("t-old5", "");
    let state = || {
        output(
            "find",
            &[CONFIGS, tree.to_str().unwrap(), "-printf", "%p %m\n"],
        )
    };
    let before = state();
    for (from, to, words) in [
        ("ConfigServiceSystemd", "ConfigInteractive", "throw-away"),
        ("ConfigServiceSystemd", "ConfigMagic", "no class"),
        (
            "[security]",
            "[mount.9]\ntype=GVirSandboxConfigMountHostImage\ntarget=/var/lib/libvirt/filesystems/t-old5\nsource=/i.raw\n\
             format=raw\n[security]",
            "in the image '/i.raw'",
        ),
        ("name=t-old5", "name=t-other", "'t-other'"),
        ("bootTarget=multi-user.target", "", "bootTarget"),
        ("source=default", "source=default\naddresses=101", "101"),
        ("usage=10485760", "usage=lots", "'lots'"),
        ("[api]", "[api", "line 1"),
    ] {
        old.edit(from, to);
        let done = run(&["upgrade", "t-old5"]);
        assert_eq!(done.code, 1, "{to}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        for word in [words, "sandbox.cfg"] {
            assert!(
                done.stderr.contains(word),
                "{to}: '{word}' is not in {done:?}"
            );
        }
        fs::write(&old.file, &good).unwrap();
        assert_eq!(state(), before, "{to}");
    }
    drop((converted, old, share, template, package));
    test.end();
}
