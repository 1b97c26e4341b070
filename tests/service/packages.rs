//! Debian packages that a test builds, installs on the host, and removes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::finish;

/// Content of one version of a package.
#[derive(Default)]
pub struct Content<'a> {
    /// Files by path. Those below `/etc` are conffiles; those below `bin` or named `serve` are executable.
    pub files: Vec<(String, String)>,
    /// Symbolic links by path.
    pub links: Vec<(&'a str, &'a str)>,
    /// The postinst script.
    pub postinst: &'a str,
}

/// A package installed on the host; removed on drop.
pub struct Package {
    name: &'static str,
}

impl Package {
    /// Builds and installs the first version.
    pub fn new(name: &'static str, content: &Content<'_>) -> Self {
        let package = Self { name };
        package.install("1.0", content);
        package
    }

    /// Builds a version with dpkg-deb and installs it with dpkg. Conffiles that the administrator changed are kept.
    pub fn install(&self, version: &str, content: &Content<'_>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let put = |path: &str, text: &str, mode: u32| {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let name = self.name;
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: test <test@localhost>\n\
             Description: a package of a test\n"
        );
        put("DEBIAN/control", &control, 0o644);
        put(
            "DEBIAN/postinst",
            &format!("#!/bin/sh\nset -e\n{}\n", content.postinst),
            0o755,
        );
        let mut conffiles = String::new();
        for (path, text) in &content.files {
            let mode = if path.ends_with("/serve") {
                0o755
            } else {
                0o644
            };
            put(path, text, mode);
            if path.starts_with("/etc/") {
                conffiles.push_str(&format!("{path}\n"));
            }
        }
        put("DEBIAN/conffiles", &conffiles, 0o644);
        for (path, target) in &content.links {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        }
        // dpkg would give the host's directories the modes of these.
        for dir in walkdir::WalkDir::new(&root).into_iter().flatten() {
            if dir.file_type().is_dir() {
                fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let archive = dir.path().join("package.deb");
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "--build"]);
        build.args([&root, &archive]);
        let built = finish(build, "");
        assert_eq!(built.code, 0, "{built:?}");
        dpkg(&["--force-confold", "--install", archive.to_str().unwrap()]);
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        let name = self.name;
        dpkg(&["--purge", name]);
        for path in ["etc", "var/lib", "var/log", "var/cache", "var/spool"] {
            let _ = fs::remove_dir_all(Path::new("/").join(path).join(name));
        }
        // Only this test uses accounts of this name.
        for program in ["userdel", "groupdel"] {
            let mut remove = Command::new(program);
            remove.arg(name);
            finish(remove, "");
        }
    }
}

/// Runs dpkg, and waits for its lock.
fn dpkg(arguments: &[&str]) {
    let mut last = None;
    for _ in 0..120 {
        let mut command = Command::new("dpkg");
        command.args(arguments);
        let done = finish(command, "");
        if done.code == 0 {
            return;
        }
        let is_locked = done.stderr.contains("lock");
        last = Some(done);
        if !is_locked {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    // A second panic would hide the first.
    if !std::thread::panicking() {
        panic!("dpkg {arguments:?}: {last:?}");
    }
}

/// Server that answers with the content of `/etc/NAME` and `/var/lib/NAME` at its start, one line a file, and with its user. It
/// fails to start if one of the files says `broken`.
pub const SERVE: &str = r#"#!/usr/bin/python3
import http.server, os, pwd, sys
name, port, version = sys.argv[1], int(sys.argv[2]), sys.argv[3]
lines = ['version ' + version, 'user ' + pwd.getpwuid(os.getuid()).pw_name]
for top in ['/etc/' + name, '/var/lib/' + name]:
    for path, dirs, files in os.walk(top):
        dirs.sort()
        if os.access(path, os.W_OK):
            lines.append('writes ' + path)
        for file in sorted(files):
            text = open(os.path.join(path, file)).read().strip()
            if text == 'broken':
                sys.exit('broken: ' + os.path.join(path, file))
            lines.append(os.path.relpath(os.path.join(path, file), '/etc/' + name) + ' ' + text)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write('\n'.join(lines).encode() + b'\n')
http.server.HTTPServer(('0.0.0.0', port), Handler).serve_forever()
"#;

/// Returns the files of a package `name` that serves on port 8000: more lines of its unit, and conffiles below `/etc/NAME`.
pub fn served(
    name: &str,
    version: &str,
    service: &str,
    conffiles: &[(&str, &str)],
) -> Vec<(String, String)> {
    let unit = format!(
        "[Unit]\nDescription=test\n[Service]\nExecStart=/usr/lib/{name}/serve {name} 8000 {version}\n{service}\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    let mut files = vec![
        (format!("/usr/lib/{name}/serve"), SERVE.to_owned()),
        (format!("/usr/lib/systemd/system/{name}.service"), unit),
    ];
    for (path, text) in conffiles {
        files.push((format!("/etc/{name}/{path}"), format!("{text}\n")));
    }
    files
}
