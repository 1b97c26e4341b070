use std::path::Path;

use super::super::fixture::{Host, name};
use super::*;

/// Formats each member as `name role reason`, and each missing unit as `name missing`.
fn members(host: &Host, asked: &[&str]) -> Vec<String> {
    let asked: Vec<UnitName> = asked.iter().map(|text| name(text)).collect();
    let closure = closure(&host.dirs(), &asked, &Specifiers::default());
    let reason = |reason: &Reason| match reason {
        Reason::Asked => "asked".to_owned(),
        Reason::RequiredBy(by) => format!("required by {by}"),
        Reason::WantedBy(by) => format!("wanted by {by}"),
        Reason::Also(by) => format!("also {by}"),
        Reason::Triggers(of) => format!("triggers {of}"),
        Reason::TriggeredBy(by) => format!("triggered by {by}"),
    };
    let members = closure
        .members
        .iter()
        .map(|m| format!("{} {:?} {}", m.name, m.role, reason(&m.reasons[0])));
    members
        .chain(
            closure
                .missing
                .iter()
                .map(|m| format!("{} missing {}", m.name, reason(&m.reason))),
        )
        .collect()
}

const RUN: &str = "[Service]\nExecStart=/bin/true\n";

#[test]
fn a_wrapper_pulls_in_its_instances() {
    let host = Host::new();
    host.unit("db.service", "[Service]\nType=oneshot\nExecStart=/bin/true\nRemainAfterExit=on\n")
        .unit("db@.service", "[Unit]\nPartOf=db.service\nWants=helper@%i.service log@%j.service\n[Service]\nExecStart=/bin/db %i\n")
        .unit("helper@.service", RUN)
        .link("run/systemd/generator/db.service.wants/db@15-main.service", "/lib/systemd/system/db@.service")
        .link("etc/systemd/system/multi-user.target.wants/db.service", "/lib/systemd/system/db.service");
    assert_eq!(
        members(&host, &["db.service"]),
        [
            "db.service Service asked",
            "db@15-main.service Service wanted by db.service",
            "helper@15-main.service Service wanted by db@15-main.service",
        ]
    );
    assert_eq!(members(&host, &["db@15-main.service"]).len(), 2);
}

#[test]
fn sockets_and_their_services_belong_together() {
    let host = Host::new();
    host.unit(
        "print.service",
        &format!("{RUN}[Install]\nAlso=print.socket print.path\n"),
    )
    .unit("print.socket", "[Socket]\nListenStream=/run/p\n")
    .unit("print.path", "[Path]\nPathExists=/x\n")
    .unit("shell.service", RUN)
    .unit(
        "shell.socket",
        "[Unit]\nConflicts=shell.service\n[Socket]\nListenStream=22\nService=shell.service\n",
    )
    .unit("daemon.service", RUN)
    .unit(
        "daemon-admin.socket",
        "[Socket]\nListenStream=/run/d\nService=daemon.service\n",
    )
    .unit("sockets.target", "[Unit]\n")
    .unit("trap.service", RUN)
    .unit("trap.socket", "[Socket]\nListenDatagram=162\n")
    .link(
        "etc/systemd/system/sockets.target.wants/trap.socket",
        "/lib/systemd/system/trap.socket",
    )
    .unit("able.service", RUN)
    .unit("able.socket", "[Socket]\nListenStream=2\n")
    .unit("conn.socket", "[Socket]\nListenStream=1\nAccept=yes\n")
    .unit("conn@.service", RUN);
    let cases: [(&str, &[&str]); 7] = [
        (
            "print.service",
            &[
                "print.service Service asked",
                "print.socket Service also print.service",
                "print.path Service also print.service",
            ],
        ),
        (
            "print.socket",
            &[
                "print.socket Service asked",
                "print.service Service triggered by print.socket",
                "print.path Service also print.service",
            ],
        ),
        ("shell.service", &["shell.service Service asked"]),
        (
            "daemon.service",
            &[
                "daemon.service Service asked",
                "daemon-admin.socket Service triggers daemon.service",
            ],
        ),
        (
            "trap.service",
            &[
                "trap.service Service asked",
                "trap.socket Service triggers trap.service",
            ],
        ),
        ("able.service", &["able.service Service asked"]),
        (
            "conn.socket",
            &[
                "conn.socket Service asked",
                "conn@.service Service triggered by conn.socket",
            ],
        ),
    ];
    for (asked, expected) in cases {
        assert_eq!(members(&host, &[asked]), expected, "{asked}");
    }
}

#[test]
fn roles_and_missing_units_are_reported() {
    let host = Host::new();
    host.unit(
        "app.service",
        "[Unit]\nRequires=dbus.socket gone.service off.service var-lib-app.mount\nWants=network-online.target nice.service old.service\n\
         Requires=own.target\nOnFailure=mail.service\n[Service]\nExecStart=/bin/app\n",
    )
    .unit("dbus.socket", "[Socket]\nListenStream=/run/dbus/system_bus_socket\n")
    .unit("network-online.target", "[Unit]\nWants=other.service\n")
    .unit("other.service", RUN)
    .unit("mail.service", RUN)
    .unit("new.service", RUN)
    .link("usr/lib/systemd/system/old.service", "new.service")
    .link("etc/systemd/system/off.service", "/dev/null")
    .unit("own.target", "[Unit]\nWants=part.service app.service\n")
    .unit("part.service", RUN);
    assert_eq!(
        members(&host, &["app.service", "nothing.service"]),
        [
            "app.service Service asked",
            "dbus.socket System required by app.service",
            "var-lib-app.mount NameOnly required by app.service",
            "own.target Service required by app.service",
            "network-online.target System wanted by app.service",
            "new.service Service wanted by app.service",
            "part.service Service wanted by own.target",
            "nothing.service missing asked",
            "gone.service missing required by app.service",
            "off.service missing required by app.service",
        ]
    );
}

#[test]
fn a_template_needs_an_instance() {
    let host = Host::new();
    host.unit(
        "a@.service",
        &format!("{RUN}[Install]\nDefaultInstance=one\n"),
    )
    .unit("b@.service", RUN);
    assert_eq!(
        members(&host, &["a@.service"]),
        ["a@one.service Service asked"]
    );
    assert_eq!(
        members(&host, &["b@.service"]),
        ["b@.service missing asked"]
    );
}

/// Every unit of the machine that runs the tests can be read.
#[test]
fn the_units_of_this_machine_can_be_read() {
    let root = Path::new("/");
    if !root.join("usr/lib/systemd/system").is_dir() {
        eprintln!("skipped: no systemd units here");
        return;
    }
    let dirs = UnitDirs::scan(root).unwrap();
    let specifiers = Specifiers::default();
    for unit in dirs.names() {
        match dirs.load(unit) {
            Ok(loaded) => {
                loaded.facts(&specifiers);
                closure(&dirs, &[unit.instantiate("x").unwrap()], &specifiers);
            }
            Err(LoadError::Masked { .. }) => {}
            // Units of other tests may disappear meanwhile.
            Err(LoadError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{unit}: {error}"),
        }
    }
}
