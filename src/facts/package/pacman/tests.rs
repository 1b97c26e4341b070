//! Fixtures in the format of alpm-db-desc(5) and alpm-db-files(5), with packages cut down from Arch's apache.

use std::os::unix::fs::symlink;

use super::super::{companions::configuration_packages, dependency_closure};
use super::*;

struct Arch(tempfile::TempDir);

impl Arch {
    fn new() -> Self {
        let arch = Self(tempfile::tempdir().unwrap());
        arch.write("ALPM_DB_VERSION", "9\n");
        fs::create_dir_all(arch.0.path().join("usr/bin")).unwrap();
        symlink("bin", arch.0.path().join("usr/sbin")).unwrap();
        arch
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join("var/lib/pacman/local").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn package(&self, name: &str, base: &str, depends: &str, provides: &str, files: &str) -> &Self {
        let directory = format!("{name}-1:2.4.62-1");
        self.write(
            &format!("{directory}/desc"),
            &format!(
                "%NAME%\n{name}\n\n%VERSION%\n1:2.4.62-1\n\n%BASE%\n{base}\n\n%DESC%\nA package: %NAME% of it\n\n%ARCH%\nx86_64\n\n\
                 %LICENSE%\nApache-2.0\n\n%VALIDATION%\npgp\n\n%DEPENDS%\n{depends}\n\n%OPTDEPENDS%\nlua: for mod_lua\n\n\
                 %PROVIDES%\n{provides}\n\n%XDATA%\npkgtype=pkg\n\n"
            ),
        );
        self.write(&format!("{directory}/files"), files);
        self
    }

    fn open(&self) -> Pacman {
        Pacman::open(self.0.path()).unwrap().unwrap()
    }
}

fn arch() -> Arch {
    let arch = Arch::new();
    arch.package("base", "base", "filesystem\nsystemd", "", "")
        .package("filesystem", "filesystem", "iana-etc", "", "%FILES%\netc/\netc/passwd\nusr/\nusr/sbin\n\n%BACKUP%\netc/passwd\t1234\n\n")
        .package("iana-etc", "iana-etc", "", "", "%FILES%\netc/\netc/services\n")
        .package("systemd", "systemd", "", "libudev.so=1-64", "%FILES%\netc/\netc/systemd/\netc/ssh/\netc/ssh/ssh_config.d/\n")
        .package(
            "apache",
            "apache",
            "apr>=1.7\nlibudev.so=1-64\nabsent",
            "http-server",
            "%FILES%\netc/\netc/httpd/\netc/httpd/conf/\netc/httpd/conf/httpd.conf\nusr/\nusr/bin/\nusr/bin/httpd\n\
             usr/lib/systemd/system/httpd.service\nvar/\nvar/log/\nvar/log/httpd/\n\n%BACKUP%\netc/httpd/conf/httpd.conf\t0123\netc/httpd/conf/made.conf\t4567\n\n",
        )
        .package("apr", "apr", "glibc", "libapr-1.so", "%FILES%\nusr/\nusr/lib/\nusr/lib/libapr-1.so\n")
        .package("glibc", "glibc", "", "", "")
        .package("mod_wsgi", "mod_wsgi", "apache", "", "%FILES%\netc/\netc/httpd/\netc/httpd/conf/\netc/httpd/conf/extra/\netc/httpd/conf/extra/wsgi.conf\n");
    arch.write(
        "apache-1:2.4.62-1/install",
        "post_install() {\n  install -d /var/lib/httpd\n}\n",
    );
    arch
}

fn names(names: impl IntoIterator<Item = PackageName>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

#[test]
fn a_package_has_a_source_dependencies_files_and_scripts() {
    let arch = arch();
    let pacman = arch.open();
    let apache = pacman.info(&"apache".into()).unwrap();
    assert_eq!(
        (
            apache.version.as_str(),
            apache.architecture.as_str(),
            apache.source.as_str()
        ),
        ("1:2.4.62-1", "x86_64", "apache")
    );
    // By name, and by a library that it provides.
    assert_eq!(names(apache.dependencies), ["apr", "systemd"]);
    assert_eq!(names(pacman.dependants(&"apr".into()).unwrap()), ["apache"]);
    assert_eq!(
        names(dependency_closure(&pacman, &["mod_wsgi".into()]).unwrap()),
        ["apache", "apr", "glibc", "mod_wsgi", "systemd"]
    );
    let files = PackageDb::files(&pacman, &"apache".into()).unwrap();
    for path in [
        "/etc/httpd",
        "/etc/httpd/conf/httpd.conf",
        "/etc/httpd/conf/made.conf",
        "/var/log/httpd",
    ] {
        assert!(files.contains(&PathBuf::from(path)), "{path}: {files:?}");
    }
    assert!(
        pacman
            .scripts(&"apache".into())
            .unwrap()
            .contains("/var/lib/httpd")
    );
    assert_eq!(pacman.scripts(&"apr".into()).unwrap(), "");
    assert!(matches!(
        pacman.info(&"nginx".into()),
        Err(PackageError::NotInstalled { .. })
    ));
}

#[test]
fn the_owner_of_a_path_is_found_in_each_spelling() {
    let arch = arch();
    let pacman = arch.open();
    for path in [
        "/usr/lib/systemd/system/httpd.service",
        "/lib/systemd/system/httpd.service",
        "/usr/bin/httpd",
        "/usr/sbin/httpd",
        "/sbin/httpd",
        "/etc/httpd/conf/made.conf",
    ] {
        assert_eq!(
            names(pacman.owners(Path::new(path)).unwrap()),
            ["apache"],
            "{path}"
        );
    }
    assert_eq!(
        names(pacman.users_of_directory(Path::new("/etc/httpd")).unwrap()),
        ["apache", "mod_wsgi"]
    );
}

#[test]
fn the_base_system_is_what_base_depends_on() {
    let arch = arch();
    let pacman = arch.open();
    let is_base = |name: &str| pacman.info(&name.into()).unwrap().base;
    for name in ["base", "filesystem", "iana-etc", "systemd"] {
        assert!(is_base(name), "{name}");
    }
    assert!(!is_base("apache") && !is_base("apr"));
    let found = configuration_packages(&pacman, &["apache".into()]).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|found| format!("{} {}", found.package, found.reason))
        .collect();
    assert_eq!(found, ["mod_wsgi shares '/etc/httpd' with apache"]);
}

#[test]
fn an_empty_database_is_none() {
    assert!(Pacman::open(Arch::new().0.path()).unwrap().is_none());
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed(text in "([%A-Z\n\t/a-z=]|%FILES%\n|%NAME%\n){0,40}") {
        Record::parse(&text, Path::new("/x"));
        for path in parse_files(&text) {
            proptest::prop_assert!(path.is_absolute());
        }
    }
}
