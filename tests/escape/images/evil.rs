//! Images of every format that name other files, and the attack on those files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use test_harness::host::{self, Done};

use crate::support::finish;

pub const MARKER: &str = "c-images-marker";
const SIZE: u64 = 1 << 20;

/// Images that name a file that only root may read.
pub struct Evil {
    dir: tempfile::TempDir,
    pub uri: String,
}

/// An image, and the text that the error must contain.
pub struct Image {
    pub disk: String,
    pub name: PathBuf,
}

impl Evil {
    pub fn new(uri: &str) -> Self {
        let evil = Self {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
            uri: uri.to_owned(),
        };
        fs::set_permissions(evil.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut content = MARKER.as_bytes().to_vec();
        content.resize(usize::try_from(SIZE).unwrap(), b'.');
        fs::write(evil.victim(), content).unwrap();
        fs::set_permissions(evil.victim(), fs::Permissions::from_mode(0o600)).unwrap();
        evil
    }

    pub fn victim(&self) -> PathBuf {
        self.path("victim")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn make(&self, name: &str, arguments: &[&str]) -> Image {
        let path = self.path(name);
        let mut all = vec!["create", "-q", "-u"];
        all.extend(arguments);
        let size = SIZE.to_string();
        let text = path.to_str().unwrap();
        all.extend([text, &size]);
        host::output("qemu-img", &all).unwrap();
        let format = arguments[arguments.iter().position(|word| *word == "-f").unwrap() + 1];
        self.image(name, format)
    }

    fn text(&self, name: &str, content: &str, format: &str) -> Image {
        fs::write(self.path(name), content).unwrap();
        self.image(name, format)
    }

    fn image(&self, name: &str, format: &str) -> Image {
        let path = self.path(name);
        let escaped = path
            .to_str()
            .unwrap()
            .replace(':', "\\:")
            .replace(',', "\\,");
        Image {
            disk: format!("{escaped},format={format}"),
            name: path,
        }
    }

    /// Makes one image of every kind that can name another file.
    pub fn all(&self) -> Vec<Image> {
        let victim = self.victim();
        let victim = victim.to_str().unwrap();
        let json =
            format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{victim}"}}}}"#);
        let uris = [
            victim,
            "victim",
            &format!("file:{victim}"),
            &json,
            "nbd://127.0.0.1:1/x",
            "nbd:unix:/run/c-images-socket",
            "vvfat:rw:/etc",
            "fat:/etc",
        ];
        let mut images = Vec::new();
        for (index, uri) in uris.iter().enumerate() {
            for format in ["qcow2", "qcow", "qed"] {
                let name = format!("b{index}.{format}");
                images.push(self.make(&name, &["-f", format, "-b", uri, "-F", "raw"]));
            }
        }
        let old = [
            "-f",
            "qcow2",
            "-o",
            "compat=0.10",
            "-b",
            victim,
            "-F",
            "raw",
        ];
        images.push(self.make("old.qcow2", &old));
        images.push(self.make("a:b,c.qcow2", &["-f", "qcow2", "-b", victim, "-F", "raw"]));
        // qemu-img overwrites the named file when it makes such an image.
        let data = self.path("data");
        let option = format!("data_file={},data_file_raw=on", data.display());
        images.push(self.make("data.qcow2", &["-f", "qcow2", "-o", &option]));
        fs::remove_file(&data).unwrap();
        fs::hard_link(victim, &data).unwrap();
        let flat = |extent: &str, more: &str| {
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{more}\n{extent}\n\n\
                 ddb.adapterType = \"ide\"\n"
            )
        };
        for (name, extent) in [
            ("flat", format!("RW 2048 FLAT \"{victim}\" 0")),
            ("relative", "RW 2048 FLAT \"victim\" 0".to_owned()),
            ("vmfs", format!("RW 2048 VMFS \"{victim}\"")),
            ("sparse", format!("RW 2048 SPARSE \"{victim}\"")),
            ("json", format!("RW 2048 FLAT \"file:{victim}\" 0")),
        ] {
            let name = format!("{name}.vmdk");
            images.push(self.text(&name, &flat(&extent, ""), "vmdk"));
        }
        // The same descriptor behind a binary header without a capacity.
        let mut embedded = vec![0; 512];
        embedded[..8].copy_from_slice(b"KDMV\x01\0\0\0");
        embedded[28] = 1;
        embedded.extend(flat(&format!("RW 2048 FLAT \"{victim}\" 0"), "").bytes());
        embedded.resize(16384, 0);
        fs::write(self.path("embedded.vmdk"), embedded).unwrap();
        images.push(self.image("embedded.vmdk", "vmdk"));
        let child = self.make("child.vmdk", &["-f", "vmdk"]);
        let mut bytes = fs::read(&child.name).unwrap();
        let hint = format!("parentFileNameHint=\"{victim}\"\n");
        let at = 0x200 + 20 * 512 - hint.len() - 1;
        bytes[at..at + hint.len()].copy_from_slice(hint.as_bytes());
        fs::write(&child.name, bytes).unwrap();
        images.push(child);
        images
    }

    pub fn run(&self, arguments: &[&str], script: &str) -> Done {
        let mut command = Command::new(crate::command_program());
        command.args(["-c", &self.uri]).args(arguments);
        command.args(["--", "sh", "-c", script]);
        finish(command, "")
    }

    /// Checks that the file has its content, owner and mode.
    pub fn check(&self, after: &str) {
        let victim = fs::metadata(self.victim()).unwrap();
        assert_eq!((victim.uid(), victim.gid()), (0, 0), "{after}: its owner");
        assert_eq!(victim.mode() & 0o7777, 0o600, "{after}: its mode");
        let content = fs::read(self.victim()).unwrap();
        assert!(
            content.starts_with(MARKER.as_bytes()),
            "{after}: its content"
        );
    }

    /// Runs a sandbox that reads the disk `d` and tries to overwrite its beginning.
    pub fn attack(&self, option: &str, disk: &str) -> Done {
        let script = "head -c 40 /dev/disk/by-tag/d; echo OVERWRITTEN | dd of=/dev/disk/by-tag/d conv=notrunc,fsync";
        let disk = format!("file:d={disk}{option}");
        self.run(&["-p", "--disk", &disk], script)
    }

    pub fn assert_refused(&self, image: &Image, done: &Done) {
        let name = image.name.display();
        self.check(&format!("{name}: {done:?}"));
        assert!(!done.stdout.contains(MARKER), "{name}: {done:?}");
        assert_ne!(done.code, 0, "{name}: {done:?}");
        let errors = done.stderr.lines().count();
        let is_named = done.stderr.contains(&*image.name.to_string_lossy());
        assert!(
            errors == 1 && is_named && done.stderr.contains("backing=yes"),
            "{name}: {done:?}"
        );
    }
}
