//! Fixtures: output of rpm 4.18 for the two queries, with packages cut down from Fedora's httpd.

use super::super::{companions::configuration_packages, dependency_closure};
use std::process::Command;

use super::*;

#[derive(Debug)]
struct Recorded;

impl RunRpm for Recorded {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let answer = match arguments {
            ["-qa", "--queryformat", PACKAGES] => include_str!("fixtures/packages.txt"),
            ["-qa", "--queryformat", FILES] => include_str!("fixtures/files.txt"),
            ["-q", "--scripts", "httpd"] => include_str!("fixtures/scripts-httpd.txt"),
            ["-q", "--scripts", "mod_ssl"] => include_str!("fixtures/scripts-mod_ssl.txt"),
            ["-q", "--scripts", "httpd-filesystem"] => {
                include_str!("fixtures/scripts-httpd-filesystem.txt")
            }
            _ => {
                let message = "not recorded".into();
                return Err(PackageError::Failed {
                    command: arguments.join(" "),
                    message,
                });
            }
        };
        Ok(answer.into())
    }
}

fn recorded() -> Rpm {
    Rpm::open(Box::new(Recorded), Path::new("/nonexistent"))
        .unwrap()
        .unwrap()
}

fn names(names: impl IntoIterator<Item = PackageName>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

#[test]
fn the_owner_of_a_unit_has_a_source_and_dependencies() {
    let rpm = recorded();
    for spelling in [
        "/usr/lib/systemd/system/httpd.service",
        "/lib/systemd/system/httpd.service",
    ] {
        assert_eq!(names(rpm.owners(Path::new(spelling)).unwrap()), ["httpd"]);
    }
    let httpd = rpm.info(&"httpd".into()).unwrap();
    assert_eq!(
        (httpd.source.as_str(), httpd.version.as_str()),
        ("httpd", "0:2.4.62-2.fc41")
    );
    // One dependency by name, one by path; the logos are not installed.
    assert_eq!(names(httpd.dependencies), ["httpd-core", "systemd"]);
    assert_eq!(
        names(rpm.dependants(&"httpd-core".into()).unwrap()),
        ["httpd", "mod_ssl"]
    );
    assert_eq!(
        names(dependency_closure(&rpm, &["httpd".into()]).unwrap()),
        [
            "filesystem",
            "httpd",
            "httpd-core",
            "httpd-filesystem",
            "mailcap",
            "setup",
            "systemd"
        ]
    );
}

#[test]
fn the_files_of_a_package_are_listed() {
    let core = PackageName::from("httpd-core");
    let files = recorded().files(&core).unwrap();
    assert_eq!(files.len(), 3);
    assert!(files.contains(&"/etc/httpd/conf/httpd.conf".into()));
}

#[test]
fn a_directory_is_used_by_packages_with_files_in_it() {
    let rpm = recorded();
    let users = |path| names(rpm.users_of_directory(Path::new(path)).unwrap());
    assert_eq!(
        users("/etc/httpd"),
        ["httpd-core", "httpd-filesystem", "mod_ssl"]
    );
    assert!(
        rpm.info(&"filesystem".into()).unwrap().base && rpm.info(&"setup".into()).unwrap().base
    );
    assert!(!rpm.info(&"httpd".into()).unwrap().base);
}

#[test]
fn companions_are_found_below_and_above() {
    let found = configuration_packages(&recorded(), &["httpd".into()]).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|c| format!("{} {}", c.package, c.reason))
        .collect();
    assert_eq!(
        found,
        [
            "httpd-core is built from source 'httpd' like httpd",
            "httpd-filesystem is built from source 'httpd' like httpd",
            "mod_ssl shares '/etc/httpd' with httpd-core",
        ]
    );
}

/// Database of packages: name, source, requirement, file.
#[derive(Debug)]
struct Made(&'static [(&'static str, &'static str, &'static str, &'static str)]);

impl RunRpm for Made {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let one = |&(name, source, requires, files): &(&str, &str, &str, &str)| {
            let lines = |kind: &str, words: &str| -> String {
                let words = words.split_whitespace();
                words.map(|word| format!("{kind}\t{word}\n")).collect()
            };
            match arguments {
                ["-qa", "--queryformat", PACKAGES] => {
                    let requires = lines("requires", requires);
                    let provides = lines("provides", name);
                    format!(
                        "package\t{name}\t1\tnoarch\t{source}-1-1.src.rpm\n{requires}{provides}"
                    )
                }
                ["-qa", "--queryformat", FILES] => {
                    format!("package\t{name}\n{}", lines("file", files))
                }
                _ => String::new(),
            }
        };
        Ok(self.0.iter().map(one).collect())
    }
}

#[test]
fn the_base_system_is_no_companion() {
    let made = Made(&[
        (
            "openssh-server",
            "openssh",
            "openssh systemd pam /usr/sbin/useradd tcp-lib",
            "/etc/ssh/sshd_config /usr/lib/systemd/system/sshd.service",
        ),
        ("openssh", "openssh", "glibc", "/etc/ssh /etc/ssh/moduli"),
        (
            "systemd",
            "systemd",
            "glibc util-linux-core (dbus if x) /usr/bin/bus",
            "/etc/ssh/ssh_config.d/20-proxy.conf /etc/credstore /usr/bin/systemctl",
        ),
        ("bus-broker", "bus", "bus-common", "/usr/bin/bus"),
        ("bus-common", "bus", "bus-broker", "/etc/bus/bus.conf"),
        ("util-linux-core", "util-linux", "glibc", "/usr/bin/mount"),
        (
            "shadow-utils",
            "shadow",
            "glibc",
            "/usr/sbin/useradd /etc/login.defs",
        ),
        ("pam", "pam", "glibc", "/etc/pam.d/other"),
        ("glibc", "glibc", "", "/etc/ld.so.conf"),
        ("filesystem", "filesystem", "", "/etc /var"),
        ("tcp-lib", "tcp", "glibc", "/etc/ssh/tcp.conf"),
    ]);
    let rpm = Rpm::open(Box::new(made), Path::new("/nonexistent"))
        .unwrap()
        .unwrap();
    let base: Vec<&str> = rpm.installed.keys().map(PackageName::as_str).collect();
    let base: Vec<&str> = base
        .into_iter()
        .filter(|name| rpm.info(&(*name).into()).unwrap().base)
        .collect();
    assert_eq!(
        base,
        [
            "bus-broker",
            "bus-common",
            "filesystem",
            "glibc",
            "pam",
            "shadow-utils",
            "systemd",
            "util-linux-core"
        ]
    );
    // As with dpkg, a directory that the base system uses has no meaning.
    let found = configuration_packages(&rpm, &["openssh-server".into()]).unwrap();
    let found: Vec<_> = found.iter().map(|one| one.package.as_str()).collect();
    assert_eq!(found, ["openssh"]);
}

#[test]
fn scripts_are_queried_by_package() {
    let scripts = recorded().scripts(&"httpd-filesystem".into()).unwrap();
    assert!(scripts.contains("groupadd -g 48 -r apache"));
    assert!(matches!(
        recorded().scripts(&"nginx".into()),
        Err(PackageError::NotInstalled { .. })
    ));
}

#[test]
fn malformed_output_is_read_as_far_as_possible() {
    let answer = "package\tgpg-pubkey\t1-2\t(none)\t(none)\nprovides\tgpg(x)\n\
                  package\ta\t1-2\tnoarch\t(none)\nrequires\t(none)\nprovides\ta\nbogus\n";
    let packages = parse_packages(answer);
    assert_eq!(names(packages.keys().cloned()), ["a"]);
    let record = &packages[&PackageName::from("a")];
    assert_eq!(
        (
            record.source.as_str(),
            record.requires.len(),
            record.provides.len()
        ),
        ("a", 0, 1)
    );
    assert!(parse_files("file\t/x\npackage\ta\nfile\t(none)\n").is_empty());
    for (source_rpm, name) in [
        ("httpd-2.4.62-2.fc41.src.rpm", Some("httpd")),
        (
            "java-21-openjdk-21.0.5-1.nosrc.rpm",
            Some("java-21-openjdk"),
        ),
        ("(none)", None),
        ("x.rpm", None),
    ] {
        assert_eq!(source_name(source_rpm), name, "{source_rpm}");
    }
}

#[test]
fn the_real_command_accepts_the_queries() {
    let root = tempfile::tempdir().unwrap();
    let database = root.path().join("var/lib/rpm");
    std::fs::create_dir_all(&database).unwrap();
    let made = Command::new("rpm")
        .arg("--dbpath")
        .arg(&database)
        .arg("--initdb")
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("SKIP: the rpm command is not there");
        return;
    }
    let Some(command) = RpmCommand::find(root.path()) else {
        println!("SKIP: the rpm command keeps its database in another format");
        return;
    };
    let files = command.run(&["-qa", "--queryformat", FILES]);
    match Rpm::open(Box::new(command), root.path()) {
        Ok(rpm) => assert!(rpm.is_none() && files.unwrap().is_empty()),
        Err(e) => println!("SKIP: {e}: entering another root needs privileges"),
    }
}
