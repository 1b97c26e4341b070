use std::fs;

use super::super::Dpkg;
use super::*;

/// A dpkg root of packages: name, other fields, shipped paths, postinst.
fn dpkg(packages: &[(&str, &str, &[&str], &str)]) -> (tempfile::TempDir, Dpkg) {
    let root = tempfile::tempdir().unwrap();
    let admin = root.path().join("var/lib/dpkg");
    fs::create_dir_all(admin.join("info")).unwrap();
    let mut status = String::new();
    for (name, fields, files, postinst) in packages {
        status += &format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n{fields}\n\n"
        );
        let mut list = BTreeSet::from(["/.".to_owned()]);
        for file in *files {
            list.extend(
                Path::new(file)
                    .ancestors()
                    .map(|path| path.display().to_string()),
            );
        }
        let list: String = list.iter().map(|path| format!("{path}\n")).collect();
        fs::write(admin.join(format!("info/{name}.list")), list).unwrap();
        fs::write(admin.join(format!("info/{name}.postinst")), postinst).unwrap();
    }
    fs::write(admin.join("status"), status).unwrap();
    let dpkg = Dpkg::open(root.path()).unwrap().unwrap();
    (root, dpkg)
}

fn companions(db: &dyn PackageDb, service: &[&str]) -> Vec<String> {
    let service: Vec<_> = service
        .iter()
        .map(|name| PackageName::from(*name))
        .collect();
    let found = configuration_packages(db, &service).unwrap();
    found
        .iter()
        .map(|c| format!("{} {}", c.package, c.reason))
        .collect()
}

#[test]
fn a_server_finds_the_configuration_of_its_dependencies() {
    let (_root, db) = dpkg(&[
        (
            "sqld",
            "Source: sql\nDepends: sql-common, sql-bin, lib",
            &["/etc/sql/sqld.cnf", "/etc/cron.x/sqld", "/etc/pam.x/sqld"],
            "",
        ),
        ("sql-bin", "Source: sql", &["/usr/sbin/sqld"], ""),
        (
            "sql-common",
            "Source: other\nDepends: cron",
            &["/etc/sql/common.cnf"],
            "",
        ),
        ("lib", "Depends: pam", &["/usr/lib/lib.so"], ""),
        ("cron", "Priority: important", &["/etc/cron.x/daily"], ""),
        ("pam", "Essential: yes", &["/etc/pam.x/common"], ""),
        ("not-needed", "", &["/etc/sql/plugin.cnf"], ""),
    ]);
    assert_eq!(
        companions(&db, &["sqld"]),
        [
            "sql-bin is built from source 'sql' like sqld",
            "sql-common shares '/etc/sql' with sqld"
        ]
    );
}

#[test]
fn a_directory_of_many_sources_says_nothing() {
    let users: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|name| (name, "Depends: f", vec![format!("/etc/all/{name}")]))
        .into();
    let files: Vec<Vec<&str>> = users
        .iter()
        .map(|(_, _, files)| files.iter().map(String::as_str).collect())
        .collect();
    let packages: Vec<_> = users
        .iter()
        .zip(&files)
        .map(|((name, fields, _), files)| (*name, *fields, files.as_slice(), ""))
        .collect();
    let with = |count: usize| {
        let mut packages = packages[..count].to_vec();
        packages.push(("f", "", &["/etc/all/f"], ""));
        let (_root, db) = dpkg(&packages);
        companions(&db, &["a"])
    };
    assert_eq!(with(3), ["f shares '/etc/all' with a"]);
    assert_eq!(with(4), [""; 0]);
}

#[test]
fn a_wrapper_finds_who_builds_on_it() {
    let (_root, db) = dpkg(&[
        (
            "wrap",
            "",
            &["/etc/wrap/x", "/usr/share/wrap/functions"],
            "",
        ),
        (
            "engine-9",
            "Depends: wrap",
            &["/usr/lib/engine/9"],
            ". /usr/share/wrap/functions\n",
        ),
        (
            "plugin",
            "Depends: wrap, lang",
            &["/etc/wrap/plugin", "/etc/lang/plugin"],
            "",
        ),
        ("lang", "", &["/etc/lang/ini"], ""),
        (
            "client",
            "Depends: wrap",
            &["/usr/bin/client"],
            "cat /usr/share/wrapper/x\n",
        ),
        (
            "stranger",
            "",
            &["/etc/stranger"],
            ". /usr/share/wrap/functions\n",
        ),
    ]);
    assert_eq!(
        companions(&db, &["wrap"]),
        [
            "engine-9 uses '/usr/share/wrap' of wrap in its maintainer scripts",
            "lang shares '/etc/lang' with plugin",
            "plugin shares '/etc/wrap' with wrap",
        ]
    );
}

#[test]
fn a_helper_that_the_scripts_of_the_service_use_is_a_companion() {
    let (_root, db) = dpkg(&[
        (
            "worker",
            "Source: lang-9\nDepends: lang-9-lib, debconf, lib",
            &["/etc/lang/9/worker"],
            ". /usr/share/debconf/confmodule\n. /usr/lib/lang/helper\n",
        ),
        (
            "lang-9-lib",
            "Source: lang-9\nDepends: lang-common",
            &["/usr/lib/lang/9"],
            "",
        ),
        (
            "lang-common",
            "",
            &["/usr/lib/lang/helper", "/var/lib/lang"],
            "",
        ),
        (
            "debconf",
            "Priority: required",
            &["/usr/share/debconf/confmodule"],
            "",
        ),
        ("lib", "", &["/usr/lib/language/x"], ""),
    ]);
    assert_eq!(
        companions(&db, &["worker"]),
        [
            "lang-9-lib is built from source 'lang-9' like worker",
            "lang-common ships '/usr/lib/lang', which the maintainer scripts of worker use",
        ]
    );
}

#[test]
fn a_package_of_the_same_source_that_builds_on_the_service_is_a_companion() {
    let (_root, db) = dpkg(&[
        ("web-common", "Source: web", &["/etc/web/x"], ""),
        ("web", "Depends: web-common", &["/usr/sbin/web"], ""),
        ("web-doc", "Source: web", &["/usr/share/doc/web"], ""),
    ]);
    assert_eq!(
        companions(&db, &["web-common"]),
        ["web is built from source 'web' like web-common"]
    );
}

#[test]
fn the_base_system_has_no_companions_above() {
    let (_root, db) = dpkg(&[
        (
            "base",
            "Essential: yes",
            &["/usr/share/base/functions", "/etc/base/x"],
            "",
        ),
        (
            "app",
            "Depends: base",
            &["/etc/base/y"],
            ". /usr/share/base/functions\n",
        ),
    ]);
    assert_eq!(companions(&db, &["base"]), [""; 0]);
}

#[test]
fn every_installed_unit_of_this_system_has_an_answer() {
    let root = std::env::var_os("VIRT_SANDBOX_TEST_ROOT").unwrap_or_else(|| "/".into());
    let Some(db) = Dpkg::open(Path::new(&root)).unwrap() else {
        println!("SKIP: this system has no dpkg database");
        return;
    };
    let units = Path::new(&root).join("usr/lib/systemd/system");
    let Ok(units) = fs::read_dir(units) else {
        println!("SKIP: this system has no systemd units");
        return;
    };
    let mut packages = BTreeSet::new();
    for unit in units {
        let unit = Path::new("/usr/lib/systemd/system").join(unit.unwrap().file_name());
        packages.extend(db.owners(&unit).unwrap());
    }
    for package in packages {
        let found = companions(&db, &[package.as_str()]);
        println!("{package}: {found:#?}");
        assert!(
            found
                .iter()
                .all(|companion| !companion.starts_with(&format!("{package} ")))
        );
    }
}
