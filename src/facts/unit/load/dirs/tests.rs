use super::*;
use crate::facts::unit::fixture::{Host, name};

const TEXT: &str = "[Service]\nExecStart=/bin/true\n";

fn located(host: &Host, unit: &str) -> String {
    match host.dirs().locate(&name(unit)) {
        Located::Fragment { name, path } => format!("{name} {}", path.display()),
        Located::SysV { name, script } => format!("{name} sysv {}", script.display()),
        Located::Masked { path } => format!("masked {}", path.display()),
        Located::Dangling { target } => format!("dangling {target}"),
        Located::Nowhere => "nowhere".to_owned(),
    }
}

#[test]
fn fragments_aliases_and_masks_are_found() {
    let host = Host::new();
    host.unit("db.service", TEXT)
        .unit("over.service", TEXT)
        .file("etc/systemd/system/over.service", TEXT)
        .link(
            "etc/systemd/system/old-db.service",
            "/lib/systemd/system/db.service",
        )
        .link("usr/lib/systemd/system/rel.service", "old-db.service")
        .link(
            "etc/systemd/system/self.service",
            "/usr/lib/systemd/system/self.service",
        )
        .unit("self.service", TEXT)
        .file("opt/app/linked.service", TEXT)
        .link(
            "etc/systemd/system/linked.service",
            "/opt/app/linked.service",
        )
        .link("etc/systemd/system/masked.service", "/dev/null")
        .unit("masked.service", TEXT)
        .unit("empty.service", "")
        .link(
            "etc/systemd/system/alias-of-masked.service",
            "masked.service",
        )
        .unit("tpl@.service", TEXT)
        .file("etc/systemd/system/tpl@own.service", TEXT)
        .link(
            "etc/systemd/system/tpl@inst.service",
            "/lib/systemd/system/tpl@.service",
        )
        .link("usr/lib/systemd/system/auto@.service", "tpl@.service")
        .link("usr/lib/systemd/system/default.service", "tpl@main.service")
        .link("usr/lib/systemd/system/loop.service", "loop2.service")
        .link("usr/lib/systemd/system/loop2.service", "loop.service")
        .link("usr/lib/systemd/system/kind.service", "kind.socket")
        .link("etc/systemd/system/dangling.service", "/opt/none.service")
        .unit("dangling.service", TEXT)
        .link(
            "etc/systemd/system/purged.service",
            "/lib/systemd/system/gone.service",
        )
        .script("etc/init.d/boot.sh", "#!/bin/sh\n");
    let lib = "/usr/lib/systemd/system";
    let cases = [
        ("db.service", format!("db.service {lib}/db.service")),
        (
            "over.service",
            "over.service /etc/systemd/system/over.service".into(),
        ),
        ("old-db.service", format!("db.service {lib}/db.service")),
        ("rel.service", format!("db.service {lib}/db.service")),
        ("self.service", format!("self.service {lib}/self.service")),
        (
            "linked.service",
            "linked.service /opt/app/linked.service".into(),
        ),
        (
            "masked.service",
            "masked /etc/systemd/system/masked.service".into(),
        ),
        (
            "alias-of-masked.service",
            "masked /etc/systemd/system/masked.service".into(),
        ),
        ("empty.service", format!("masked {lib}/empty.service")),
        ("tpl@a.service", format!("tpl@a.service {lib}/tpl@.service")),
        (
            "tpl@own.service",
            "tpl@own.service /etc/systemd/system/tpl@own.service".into(),
        ),
        (
            "tpl@inst.service",
            format!("tpl@inst.service {lib}/tpl@.service"),
        ),
        ("tpl@.service", format!("tpl@.service {lib}/tpl@.service")),
        (
            "auto@x.service",
            format!("tpl@x.service {lib}/tpl@.service"),
        ),
        (
            "default.service",
            format!("tpl@main.service {lib}/tpl@.service"),
        ),
        ("loop.service", "nowhere".into()),
        ("kind.service", "nowhere".into()),
        (
            "dangling.service",
            format!("dangling.service {lib}/dangling.service"),
        ),
        (
            "boot.service",
            "boot.service sysv /etc/init.d/boot.sh".into(),
        ),
        ("none.service", "nowhere".into()),
        ("purged.service", "dangling gone.service".into()),
    ];
    for (unit, expected) in cases {
        assert_eq!(located(&host, unit), expected, "{unit}");
    }
    let dirs = host.dirs();
    for missing in ["purged.service", "loop.service"] {
        assert!(
            !dirs.names().any(|unit| unit.as_str() == missing),
            "{missing}"
        );
        let error = dirs.load(&name(missing)).unwrap_err().to_string();
        assert!(!error.contains(&format!("mean '{missing}'")), "{error}");
    }
    assert_eq!(
        dirs.names_of(&name("db.service")),
        ["db.service", "old-db.service", "rel.service"].map(name)
    );
    assert_eq!(
        dirs.names_of(&name("tpl@x.service")),
        ["tpl@x.service", "auto@x.service"].map(name)
    );
    assert_eq!(
        dirs.dirs,
        ["/etc/systemd/system", "/usr/lib/systemd/system"].map(Path::new)
    );
}

#[test]
fn without_a_merged_usr_both_directories_count() {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("usr/lib/systemd/system/a.service", TEXT),
        ("lib/systemd/system/b.service", TEXT),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let dirs = UnitDirs::scan(dir.path()).unwrap();
    assert_eq!(dirs.names().count(), 2);
    assert_eq!(dirs.dirs.len(), 2);
}

#[test]
fn drop_ins_apply_from_every_name() {
    let host = Host::new();
    host.unit("a-b@.service", TEXT)
        .link("usr/lib/systemd/system/alias@.service", "a-b@.service")
        .unit("a-b@x.service.d/50-instance.conf", "")
        .unit("a-b@.service.d/40-template.conf", "")
        .unit("a-@.service.d/30-dash.conf", "")
        .unit("service.d/20-kind.conf", "")
        .unit("alias@x.service.d/60-alias.conf", "")
        .unit("a-b@.service.d/70-same.conf", "")
        .file("etc/systemd/system/a-b@x.service.d/70-same.conf", "")
        .unit("a-b@.service.d/80-gone.conf", "")
        .link(
            "etc/systemd/system/a-b@.service.d/80-gone.conf",
            "/dev/null",
        )
        .unit("a-b@.service.d/notes.txt", "")
        .unit("a-b@y.service.d/10-other.conf", "");
    let dirs = host.dirs();
    let found = dirs
        .drop_ins(&dirs.names_of(&name("a-b@x.service")))
        .unwrap();
    let found: Vec<&str> = found.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(
        found,
        [
            "/usr/lib/systemd/system/service.d/20-kind.conf",
            "/usr/lib/systemd/system/a-@.service.d/30-dash.conf",
            "/usr/lib/systemd/system/a-b@.service.d/40-template.conf",
            "/usr/lib/systemd/system/a-b@x.service.d/50-instance.conf",
            "/usr/lib/systemd/system/alias@x.service.d/60-alias.conf",
            "/etc/systemd/system/a-b@x.service.d/70-same.conf",
        ]
    );
}

#[test]
fn links_of_wants_are_names() {
    let host = Host::new();
    host.unit("wrap.service", TEXT)
        .unit("inst@.service", TEXT)
        .link(
            "run/systemd/generator/wrap.service.wants/inst@15-main.service",
            "/lib/systemd/system/inst@.service",
        )
        .link(
            "etc/systemd/system/wrap.service.wants/off.service",
            "/dev/null",
        )
        .link(
            "usr/lib/systemd/system/wrap.service.wants/off.service",
            "../off.service",
        )
        .link(
            "etc/systemd/system/wrap.service.requires/need.socket",
            "/none",
        );
    let dirs = host.dirs();
    assert_eq!(
        dirs.links(&[name("wrap.service")], Subdir::Wants).unwrap(),
        [name("inst@15-main.service")]
    );
    assert_eq!(
        dirs.links(&[name("wrap.service")], Subdir::Requires)
            .unwrap(),
        [name("need.socket")]
    );
}
