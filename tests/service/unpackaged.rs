//! Services of a host whose package database cannot be read.

use std::process::Command;

use crate::support::{Done, Test, finish, ok, output, program, says};

/// Packages, unit and a probe inside of each service.
const SERVICES: [(&str, &str, &str); 7] = [
    ("apache2", "apache2.service", "curl -sf http://127.0.0.1/"),
    ("redis-server", "redis-server.service", "redis-cli ping"),
    ("nginx-light", "nginx.service", "curl -s http://127.0.0.1/"),
    (
        "postgresql",
        "postgresql@VERSION-main.service",
        "su postgres -c 'psql -Atc \"select 42\"'",
    ),
    (
        "mariadb-server",
        "mariadb.service",
        "mysql -Nse 'select 42'",
    ),
    ("bind9", "named.service", "rndc status"),
    (
        "openssh-server",
        "ssh.service",
        "ssh-keyscan -T 5 127.0.0.1 | grep ed25519",
    ),
];

/// Runs the program where dpkg's database is hidden.
fn run_without_database(arguments: &[&str]) -> Done {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.args(["mount -t tmpfs none /var/lib/dpkg && exec \"$@\"", "sh"]);
    command.arg(program().get_program()).args(arguments);
    command.current_dir("/");
    finish(command, "")
}

fn starts((package, unit, probe): (&str, &str, &str)) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/packages.sh");
    output("bash", &[script, "install", package]);
    let unit = match unit.contains("VERSION") {
        true => unit.replace("VERSION", output("ls", &["/etc/postgresql"]).trim()),
        false => unit.to_owned(),
    };
    let created = run_without_database(&[
        "create", "-N", "none", "--state", "copy", "-u", &unit, "t-bare",
    ]);
    assert_eq!(created.code, 0, "{unit}: {created:?}");
    let warnings = created.stderr.matches("no package database").count();
    assert_eq!(warnings, 1, "{unit}: {created:?}");
    ok(&["start", "t-bare"]);
    assert!(!says("t-bare", probe).is_empty(), "{unit}");
    ok(&["delete", "--force", "t-bare"]);
}

#[test]
fn a_service_starts_without_a_package_database() {
    let Some(test) = Test::begin("a_service_starts_without_a_package_database") else {
        return;
    };
    starts(SERVICES[0]);
    let refused =
        run_without_database(&["create", "-u", "apache2.service", "-P", "apache2", "t-bare"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("'apache2' cannot be looked up"),
        "{refused:?}"
    );
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn more_services_start_without_a_package_database() {
    let Some(test) = Test::begin("more_services_start_without_a_package_database") else {
        return;
    };
    for service in &SERVICES[1..] {
        starts(*service);
    }
    test.end();
}
