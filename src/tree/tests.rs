//! Plans for a whole host in a directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::config::Workload;

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, path: &str, mode: u32, content: &str) -> &Self {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// Adds an installed dpkg package with its files.
    fn package(
        &self,
        name: &str,
        source: &str,
        depends: &str,
        files: &[&str],
        postinst: &str,
    ) -> &Self {
        let status = self.root().join("var/lib/dpkg/status");
        let mut text = fs::read_to_string(&status).unwrap_or_default();
        text.push_str(&format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: all\nSource: {source}\nVersion: 1\n"
        ));
        if !depends.is_empty() {
            text.push_str(&format!("Depends: {depends}\n"));
        }
        text.push('\n');
        self.file("/var/lib/dpkg/status", 0o644, &text);
        let info = |kind: &str| format!("/var/lib/dpkg/info/{name}.{kind}");
        self.file(&info("list"), 0o644, &format!("/.\n{}\n", files.join("\n")));
        self.file(&info("postinst"), 0o755, postinst)
    }
}

fn host() -> Host {
    let host = Host::new();
    host.file(
        "/usr/lib/systemd/system/web.service",
        0o644,
        "[Service]\nExecStart=/usr/sbin/web -c /etc/web/web.conf\nUser=web\nStateDirectory=web\n[Install]\nAlias=www.service\n",
    )
    .file("/usr/lib/systemd/system/other.service", 0o644, "[Service]\nExecStart=/bin/other\n")
    .package(
        "web",
        "web",
        "web-common, libweb",
        &[
            "/etc", "/etc/web", "/etc/web/web.conf", "/etc/anacrontab", "/etc/cron.d", "/etc/cron.d/web", "/usr/lib/systemd/system/web.service",
            "/var", "/var/log", "/var/log/web", "/var/cache", "/var/cache/web", "/var/spool/web",
        ],
        "#!/bin/sh\nadduser --system web\nmkdir -p /var/lib/web-state\ntouch /var/log/web.log /var/spool/web/.seq\n",
    )
    .package("web-common", "web", "", &["/etc", "/etc/web", "/etc/web/common.conf"], "")
    .package("libweb", "libweb", "", &["/var", "/var/lib", "/var/lib/libweb"], "")
    .package("other", "other", "", &["/etc", "/etc/other", "/var", "/var/lib", "/var/lib/other"], "")
    .file("/etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\nweb:x:105:110::/var/lib/web:/bin/false\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    .file("/etc/group", 0o644, "root:x:0:\nweb:x:110:\nalice:x:1000:\n")
    .file("/etc/shadow", 0o640, "root:$6$secret:1::::::\nweb:!:1::::::\nalice:$6$secret:1::::::\n")
    .file("/etc/gshadow", 0o640, "root:*::\nweb:!::\n")
    .file("/etc/shadow-", 0o600, "root:$6$secret:1::::::\n")
    .file("/etc/web/web.conf", 0o644, "key /etc/ssl/private/web.key\n#key /etc/ssl/private/old.key\nroot /srv/site\ninclude /etc/web/sites/one.conf\nlog /var/log/web\n")
    .file("/etc/web/secret.conf", 0o600, "password\n")
    .link("/etc/web/link.key", "../ssl/private/linked.key")
    .link("/etc/web/sites", "../alternatives/sites")
    .link("/etc/alternatives/sites", "/etc/web/sites-example")
    .file("/etc/web/sites-example/one.conf", 0o644, "")
    .file("/etc/ssl/private/web.key", 0o600, "-----BEGIN PRIVATE KEY-----\n")
    .file("/etc/ssl/private/old.key", 0o600, "-----BEGIN PRIVATE KEY-----\n")
    .file("/etc/ssl/private/linked.key", 0o600, "-----BEGIN PRIVATE KEY-----\n")
    .file("/etc/ssh/ssh_host_ed25519_key", 0o600, "key")
    .file("/etc/other/secret", 0o600, "password\n")
    .file("/etc/other/other.conf", 0o644, "x\n")
    .file("/etc/fstab", 0o644, "/dev/sda1 / ext4\n")
    .file("/etc/hosts", 0o644, "127.0.0.1 localhost\n192.0.2.9 db\n")
    .file("/etc/network/interfaces", 0o644, "auto eth0\n")
    .file("/etc/anacrontab", 0o644, "")
    .file("/etc/crontab", 0o644, "")
    .file("/etc/cron.d/web", 0o644, "")
    .file("/etc/cron.d/other", 0o644, "")
    .file("/etc/systemd/system/web.service.d/mine.conf", 0o644, "[Service]\nNice=5\n")
    .link("/etc/systemd/system/www.service", "/usr/lib/systemd/system/web.service")
    .link("/etc/systemd/system/multi-user.target.wants/web.service", "/usr/lib/systemd/system/web.service")
    .link("/etc/systemd/system/multi-user.target.wants/other.service", "/usr/lib/systemd/system/other.service")
    .file("/var/lib/web/data", 0o600, "data")
    .file("/var/lib/web-state/more", 0o600, "data")
    .file("/var/lib/other/data", 0o600, "data")
    .file("/var/lib/libweb/index", 0o644, "data")
    .file("/var/log/web/access.log", 0o644, "log")
    .file("/var/log/web.log", 0o640, "log")
    .file("/var/spool/web/.seq", 0o600, "7")
    .file("/var/spool/web/job", 0o600, "work")
    .file("/var/cache/web/x", 0o644, "cache")
    .file("/srv/site/index.html", 0o644, "hello")
    .file("/srv/elsewhere/index.html", 0o644, "hello")
    .file("/home/alice/letter", 0o644, "dear");
    host
}

fn plan(host: &Host, state: State) -> TreePlan {
    let service = Service::discover(host.root(), &["www".to_owned()], &[], "web1").unwrap();
    assert_eq!(
        service
            .units
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["web.service"]
    );
    let config = SandboxConfig {
        workload: Workload::Units(vec!["web.service".into()]),
        ..SandboxConfig::example()
    };
    TreePlan::new(host.root(), &config, &service, state).unwrap()
}

#[test]
fn every_path_has_its_class_and_its_reason() {
    insta::assert_snapshot!(plan(&host(), State::Copy).lines().join("\n"));
}

#[test]
fn a_fresh_state_has_directories_only() {
    let plan = plan(&host(), State::Fresh);
    let class = |path: &str| {
        plan.entries
            .get(Path::new(path))
            .map(|entry| entry.class.to_string())
    };
    assert_eq!(class("/var/lib/web").as_deref(), Some("empty"));
    assert_eq!(class("/var/lib/web/data").as_deref(), Some("masked"));
    assert!(plan.state.is_empty());
}

#[test]
fn accounts_have_no_people_and_no_passwords() {
    let plan = plan(&host(), State::Copy);
    let content = |path: &str| {
        let Class::Written { content, .. } = &plan.entries[Path::new(path)].class else {
            panic!("'{path}' is not written");
        };
        content.clone()
    };
    assert!(
        !content("/etc/passwd").contains("alice") && content("/etc/passwd").contains("web:x:105")
    );
    assert!(!content("/etc/shadow").contains("secret"));
    assert!(content("/etc/hosts").contains("192.0.2.9 db"));
    assert_eq!(
        content("/etc/machine-id"),
        "00000000000000000000000000000007\n"
    );
}

#[test]
fn the_directory_of_sandboxes_is_never_part_of_a_tree() {
    let host = host();
    let of = |host: &Host| plan(host, State::Fresh);
    let before = of(&host);
    host.file("/etc/libvirt-sandbox/services/web1/sandbox.toml", 0o600, "");
    let after = of(&host);
    let copied = |plan: &TreePlan| {
        let entries = plan.entries.iter();
        let has = entries.filter(|(_, entry)| entry.class != Class::LeftOut);
        has.map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(copied(&before), copied(&after));
}

#[test]
fn a_package_that_shares_a_directory_brings_no_secrets_from_elsewhere() {
    let host = host();
    host.package(
        "base-tools",
        "base-tools",
        "web",
        &[
            "/etc",
            "/etc/web",
            "/etc/web/proxy.conf",
            "/etc/web/proxy.key",
            "/etc/credstore",
            "/etc/tools.key",
            "/usr/lib/tmpfiles.d/tools.conf",
        ],
        "#!/bin/sh\ntouch /etc/made.key\n",
    )
    .file(
        "/usr/lib/tmpfiles.d/tools.conf",
        0o644,
        "f /etc/ruled.key 0600 root root -\n",
    )
    .file("/etc/web/proxy.conf", 0o644, "")
    .file("/etc/web/proxy.key", 0o600, "password")
    .file("/etc/credstore/db.password", 0o600, "password")
    .file("/etc/tools.key", 0o600, "password")
    .file("/etc/made.key", 0o600, "password")
    .file("/etc/ruled.key", 0o600, "password");
    let credstore = host.root().join("etc/credstore");
    fs::set_permissions(credstore, fs::Permissions::from_mode(0o700)).unwrap();
    let plan = plan(&host, State::Fresh);
    let class = |path: &str| {
        plan.entries
            .get(Path::new(path))
            .map(|entry| entry.class.clone())
    };
    for path in [
        "/etc/credstore",
        "/etc/tools.key",
        "/etc/made.key",
        "/etc/ruled.key",
    ] {
        assert_eq!(class(path), Some(Class::LeftOut), "{path}");
    }
    assert_eq!(class("/etc/credstore/db.password"), None);
    for path in [
        "/etc/web/proxy.conf",
        "/etc/web/proxy.key",
        "/etc/web/secret.conf",
    ] {
        assert_eq!(class(path), Some(Class::Copied), "{path}");
    }
}

#[test]
fn without_a_package_database_names_accounts_and_programs_say_what_belongs_to_a_service() {
    let host = host();
    fs::remove_dir_all(host.root().join("var/lib/dpkg")).unwrap();
    host.file(
        "/usr/sbin/web",
        0o755,
        "\x7fELF\0cannot open %s\0/var/opt-web/queue/%d\0/var/lib/libweb/index\0/etc/other/secret\0",
    )
    .file("/var/opt-web/queue/1", 0o600, "data")
    .file("/etc/ssl/private/other.key", 0o600, "")
    .file("/etc/default/web", 0o600, "password")
    .file("/etc/default/other", 0o600, "password");
    let plan = plan(&host, State::Copy);
    let class = |path: &str| {
        let entry = plan.entries.get(Path::new(path));
        entry
            .map(|entry| entry.class.to_string())
            .unwrap_or_default()
    };
    for (path, expected) in [
        ("/etc/web/secret.conf", "copied"),
        ("/etc/cron.d/web", "copied"),
        ("/etc/cron.d/other", "masked"),
        ("/etc/ssl/private/web.key", "copied"),
        ("/etc/ssl/private/other.key", "masked"),
        ("/etc/other/secret", "masked"),
        ("/etc/default/web", "copied"),
        ("/etc/default/other", "masked"),
        ("/var/lib/web/data", "copied"),
        ("/var/cache/web", "empty"),
        ("/var/log/web", "empty"),
        ("/var/opt-web/queue", "empty"),
        ("/var/opt-web/queue/1", ""),
        ("/var/lib/libweb", "empty"),
        ("/var/lib/libweb/index", ""),
        ("/var/lib/other", ""),
        ("/srv/site/index.html", "copied"),
        ("/srv/elsewhere", ""),
    ] {
        assert_eq!(class(path), expected, "{path}");
    }
}
