//! Whole documents of services: the domain and the guest config that a configuration becomes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use guest_init::config as guest;

use super::*;
use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::{Confinement, Idmap, Seccomp, TreeImage};
use crate::domain::qemu::Emulation;
use crate::guest::ids::Registry;
use crate::host::SystemDir;
use crate::sys::arch::Arch;

/// A host in a temporary directory: a kernel, a guest-init, files to share.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// Modules of the kernel, all built in.
const MODULES: [&str; 14] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "virtiofs",
    "virtio_net",
    "af_packet",
    "virtio_balloon",
    "virtio_blk",
    "overlay",
    "ext4",
    "xfs",
    "btrfs",
    "squashfs",
];

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let built_in: String = (MODULES.iter())
            .map(|name| format!("kernel/{name}.ko\n"))
            .collect();
        host.write("lib/modules/6.1.0-test/modules.dep", "");
        host.write("lib/modules/6.1.0-test/modules.builtin", &built_in);
        host.write("boot/vmlinuz-6.1.0-test", "kernel");
        host.write("guest-init", "#!/bin/sh\n");
        host.write("file", "content\n");
        host.write("data/nested/file", "content\n");
        host.write("private/file", "content\n");
        // Whatever the umask is.
        for (name, mode) in [("", 0o755), ("guest-init", 0o755), ("private", 0o700)] {
            fs::set_permissions(host.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn kernel(&self) -> KernelRequest {
        KernelRequest {
            version: Some("6.1.0-test".to_owned()),
            path: Some(self.path("boot/vmlinuz-6.1.0-test")),
            modules: Some(self.path("lib/modules")),
        }
    }

    pub(crate) fn facts(&self) -> HostFacts {
        HostFacts {
            root: self.path(""),
            arch: Arch::X86_64,
            system_dirs: vec![
                SystemDir::Directory("/usr".into()),
                SystemDir::Link("/bin".into(), "usr/bin".into()),
            ],
            mount_points: ["/", "/proc", "/usr", "/usr/bin"]
                .map(PathBuf::from)
                .to_vec(),
        }
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry {
            directories: vec![self.path("services")],
            etc: self.path("etc"),
            lock: self.path("ids.lock"),
        }
    }

    /// Builds a sandbox, whatever virtiofsd and emulation the machine of the test has.
    pub(crate) fn build(
        &self,
        driver: Driver,
        spec: &Spec<'_>,
        context: &BuildContext<'_>,
    ) -> Result<Boot> {
        let Driver::Qemu(daemon) = driver else {
            return driver.build(spec, context);
        };
        let authority = daemon.authority();
        let own = |name: &str| match authority {
            Authority::Root => Ok(Path::new("/usr/bin").join(name)),
            Authority::User => Err(transport::Unavailable(
                "only root's virtiofsd can be kept from writing to it".to_owned(),
            )),
        };
        let kernel = Kernel::find(Path::new("/"), spec.kernel)?;
        let transports = Transports {
            kernel: &kernel,
            authority,
            writer: Ok("/usr/libexec/virtiofsd".into()),
            reader: own(transport::READER),
            file_writer: own(transport::FILE_WRITER),
            libvirt_version: 9,
        };
        machine::build(spec, context, daemon, &transports)
    }

    /// Returns both documents, with the temporary directory called `/TEMPORARY`, without the program of seccomp and without the
    /// variables that a command inherits.
    pub(crate) fn documents(&self, boot: &Boot) -> String {
        let (xml, mut guest) = (&boot.xml, boot.guest.clone());
        if let guest::Payload::Command(command) = &mut guest.payload {
            let own = [
                "PATH",
                "HOME",
                "USER",
                "LOGNAME",
                "SHELL",
                "container",
                "ADDED",
            ];
            (command.environment).retain(|(name, _)| {
                own.iter().any(|own| name == own) || name == guest_init::CREDENTIALS_VARIABLE
            });
        }
        let mut guest = serde_json::to_value(&guest).unwrap();
        let filter = &mut guest["confinement"]["filter"];
        if !filter.is_null() {
            *filter = "a program".into();
        }
        let guest = serde_json::to_string_pretty(&guest).unwrap();
        let directory = self.dir.path().to_str().unwrap();
        format!("{xml}\n{guest}\n").replace(directory, "/TEMPORARY")
    }
}

fn config(host: &Host) -> SandboxConfig {
    host.write("tree/etc/passwd", "");
    for dir in ["var", "home", "root", "srv"] {
        fs::create_dir_all(host.path("tree").join(dir)).unwrap();
    }
    SandboxConfig {
        path: host.path("tree"),
        resources: Resources {
            cpus: Some(4096),
            pids: Some(100),
            ..Resources::default()
        },
        ..SandboxConfig::example()
    }
}

fn everything(host: &Host, config: SandboxConfig) -> SandboxConfig {
    let mounts = [
        format!("host-bind:/mnt/data={}", host.path("data").display()),
        format!("host-bind:/mnt/read={},ro", host.path("private").display()),
        "host-bind:/mnt/public=/usr,ro".to_owned(),
        format!("host-bind:/mnt/file={},ro", host.path("file").display()),
        format!(
            "host-bind:/mnt/nested={}",
            host.path("data/nested").display()
        ),
        format!("host-bind:/mnt/own={},ro", host.path("tree/srv").display()),
        "guest-bind:/mnt/again=/etc,ro".to_owned(),
        "ram:/mnt/ram=1M".to_owned(),
    ];
    let networks = ["dhcp", "dhcp,source=lan", "address=192.0.2.7/24,bridge=br0"];
    SandboxConfig {
        mounts: mounts.iter().map(|mount| mount.parse().unwrap()).collect(),
        networks: networks.iter().map(|nic| nic.parse().unwrap()).collect(),
        resources: Resources {
            memory: Some("512M".parse().unwrap()),
            ..config.resources
        },
        ..config
    }
}

fn image(format: TreeFormat, filesystem: TreeFilesystem) -> Option<TreeImage> {
    Some(TreeImage {
        size: "1G".parse().unwrap(),
        format,
        filesystem,
    })
}

fn units() -> InitUnits {
    InitUnits {
        files: vec![guest::File {
            path: "/run/systemd/system/virt-sandbox.target".into(),
            mode: 0o644,
            content: "[Unit]\n".to_owned(),
        }],
        credentials: vec![guest::Credential {
            id: "password".to_owned(),
            content: guest::Secret(b"secret".to_vec()),
        }],
        keep_units: vec!["dbus.socket".to_owned()],
        target: "virt-sandbox.target".to_owned(),
    }
}

/// Returns the documents of a service on `host`, with the block device of its tree.
fn built(host: &Host, driver: Driver, config: &SandboxConfig, device: Option<&Path>) -> String {
    let record = host.path("services/web1");
    fs::create_dir_all(&record).unwrap();
    let service = ServiceBuild {
        config,
        units: units(),
        facts: &host.facts(),
        stage: &host.path("stage"),
        record: &record,
        templates: &host.path("templates"),
        device,
        starts: true,
        changed: None,
    };
    let confinement = Confinement::of_service(config);
    let mut nics = crate::guest::nics(&config.networks);
    for (nic, network) in nics.iter_mut().zip(&config.networks) {
        let is_leased = network.container_network().is_some();
        nic.hint = is_leased.then(|| [192, 0, 2, 9].into());
    }
    let mut spec = (service.spec(driver, &confinement, nics)).unwrap();
    spec.emulation = Some(Emulation::Tcg);
    let (init, registry) = (host.path("guest-init"), host.registry());
    let cache = host.path("cache");
    let context = BuildContext {
        cache: &cache,
        ..service.context(&init, &registry)
    };
    let boot = host.build(driver, &spec, &context).unwrap();
    host.documents(&boot)
}

#[test]
fn a_service_in_a_container() {
    let host = Host::new();
    let config = SandboxConfig {
        idmap: Idmap::No,
        ..config(&host)
    };
    insta::assert_snapshot!(built(&host, Driver::Lxc, &config, None));
}

#[test]
fn a_service_in_a_container_with_everything() {
    let host = Host::new();
    let config = SandboxConfig {
        devices: vec!["/dev/null".parse().unwrap()],
        idmap: "2000000:65536".parse().unwrap(),
        ..everything(&host, config(&host))
    };
    insta::assert_snapshot!(built(&host, Driver::Lxc, &config, None));
}

#[test]
fn a_service_in_a_container_with_a_tree_in_an_image() {
    let host = Host::new();
    let config = SandboxConfig {
        idmap: Idmap::No,
        seccomp: Seccomp::Off,
        image: image(TreeFormat::Qcow2, TreeFilesystem::Ext4),
        ..everything(&host, config(&host))
    };
    let device = Path::new("/dev/loop7");
    insta::assert_snapshot!(built(&host, Driver::Lxc, &config, Some(device)));
}

#[test]
fn a_service_in_a_container_that_keeps_capabilities_of_the_host() {
    let host = Host::new();
    let config = SandboxConfig {
        idmap: Idmap::No,
        capabilities: crate::config::Capabilities {
            add: vec!["SYS_RAWIO".parse().unwrap()],
            drop: vec!["CHOWN".parse().unwrap()],
        },
        ..config(&host)
    };
    insta::assert_snapshot!(built(&host, Driver::Lxc, &config, None));
}

#[test]
fn a_service_in_a_machine() {
    let host = Host::new();
    let config = SandboxConfig {
        kernel: host.kernel(),
        ..config(&host)
    };
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::System), &config, None));
}

#[test]
fn a_service_in_a_machine_with_everything() {
    let host = Host::new();
    let config = SandboxConfig {
        kernel: host.kernel(),
        ..everything(&host, config(&host))
    };
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::System), &config, None));
}

#[test]
fn a_service_in_a_machine_with_a_tree_in_an_image() {
    let host = Host::new();
    let config = SandboxConfig {
        kernel: host.kernel(),
        image: image(TreeFormat::Raw, TreeFilesystem::Xfs),
        ..everything(&host, config(&host))
    };
    insta::assert_snapshot!(built(&host, Driver::Qemu(Qemu::System), &config, None));
}
