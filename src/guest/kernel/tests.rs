use super::*;
use crate::config::KernelRequest;
use initramfs::tests::{Entry as Packed, read};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Writes a file and the directories above it.
pub(super) fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The kernels' images in `/boot`.
pub(super) fn installed() -> Vec<PathBuf> {
    let entries = fs::read_dir("/boot").into_iter().flatten().flatten();
    let mut images: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().starts_with("/boot/vmlinuz-"))
        .collect();
    images.sort();
    images
}

const VIRTIO: &[u8] = b"\x7fELF virtio virtio virtio";

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, content).unwrap();
    packed.finish().unwrap()
}

struct Host {
    dir: tempfile::TempDir,
    kernel: Kernel,
    init: PathBuf,
    cache: PathBuf,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("lib/modules/6.1.0-test");
    let [zst, gz] = [zstd::encode_all(VIRTIO, 0).unwrap(), gzip(VIRTIO)];
    let files: [(&str, &[u8]); 6] = [
        (
            "modules.dep",
            b"kernel/virtio.ko.zst:\nkernel/virtio_pci.ko: kernel/virtio.ko.zst\n\
              kernel/virtio_console.ko.gz: kernel/virtio.ko.zst\n\
              kernel/fat/vfat.ko:\nkernel/nls/nls_ascii.ko:\n",
        ),
        ("modules.builtin", b"kernel/block/virtio_blk.ko\n"),
        ("kernel/virtio.ko.zst", &zst),
        ("kernel/virtio_pci.ko", b"\x7fELF pci"),
        ("kernel/virtio_console.ko.gz", &gz),
        ("kernel/fat/vfat.ko", b"\x7fELF vfat"),
    ];
    for (name, content) in files {
        write(&modules.join(name), content);
    }
    write(&modules.join("kernel/nls/nls_ascii.ko"), b"\x7fELF nls");
    let image = dir.path().join("boot/vmlinuz-6.1.0-test");
    write(
        &image,
        &image::tests::bzimage(&image::tests::packed_elf().1),
    );
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
    let init = dir.path().join("guest-init");
    write(&init, b"init");
    Host {
        cache: dir.path().join("cache"),
        kernel: Kernel {
            release: "6.1.0-test".into(),
            image,
            modules,
        },
        init,
        dir,
    }
}

impl Host {
    fn prepare(&self, features: &[Feature]) -> Result<Boot> {
        let features = features.iter().copied().collect();
        prepare(&self.cache, &self.kernel, &features, &self.init)
    }
}

#[test]
fn a_guest_boots_from_the_unpacked_kernel_with_init_and_modules_in_order() {
    let host = host();
    let boot = host.prepare(&[Feature::Block, Feature::Vfat]).unwrap();
    assert_eq!(
        fs::read(&boot.kernel).unwrap(),
        image::tests::packed_elf().0
    );
    let packed = read(&fs::read(&boot.initrd).unwrap());
    let names: Vec<_> = packed.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "dev",
            "proc",
            "sys",
            "newroot",
            "host",
            "mnt",
            "modules",
            "dev/console",
            "dev/null",
            "init",
            "modules/000-virtio.ko",
            "modules/001-virtio_pci.ko",
            "modules/002-virtio_console.ko",
            "modules/003-vfat.ko",
            "modules/004-nls_ascii.ko",
        ]
    );
    let content = |name: &str| {
        let entry: &Packed = packed.iter().find(|entry| entry.name == name).unwrap();
        (entry.mode & 0o777, entry.content.as_slice())
    };
    assert_eq!(content("init"), (0o755, &b"init"[..]));
    assert_eq!(content("modules/000-virtio.ko").1, VIRTIO);
    assert_eq!(content("modules/002-virtio_console.ko").1, VIRTIO);
    for path in [&boot.kernel, &boot.initrd] {
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn a_list_of_modules_cannot_name_other_files() {
    let host = host();
    let secret = host.dir.path().join("secret");
    write(&secret, b"root:$y$j9T$");
    let list = host.kernel.modules.join("modules.dep");
    for place in [
        secret.to_str().unwrap(),
        "../../../secret",
        "link",
        "/dev/zero",
    ] {
        let _ = std::os::unix::fs::symlink(&secret, host.kernel.modules.join("link"));
        let name = place.rsplit('/').next().unwrap();
        // The file is taken for the module of this name.
        let text = format!(
            "{place}:\nkernel/virtio_pci.ko: {place}\nkernel/virtio_console.ko.gz: {name}\n"
        );
        write(&list, text.as_bytes());
        let error = host.prepare(&[]).unwrap_err().to_string();
        assert!(error.contains("reading the module"), "{place}: {error}");
    }
}

#[test]
fn cached_files_are_used_until_a_source_changes() {
    let host = host();
    let first = host.prepare(&[]).unwrap();
    // What is not read again does not have to be readable.
    fs::remove_dir_all(host.kernel.modules.join("kernel")).unwrap();
    assert_eq!(host.prepare(&[]).unwrap(), first);
    assert_eq!(host.prepare(&[Feature::Console]).unwrap(), first);
    fs::write(&host.init, b"a newer init").unwrap();
    let error = host.prepare(&[]).unwrap_err().to_string();
    assert!(error.contains("virtio.ko.zst"), "{error}");
    fs::write(host.kernel.modules.join("modules.dep"), "").unwrap();
    fs::write(
        host.kernel.modules.join("modules.builtin"),
        "virtio_pci.ko\nvirtio_console.ko\n",
    )
    .unwrap();
    let second = host.prepare(&[]).unwrap();
    assert_eq!(second.kernel, first.kernel);
    assert_ne!(second.initrd, first.initrd);
}

#[test]
fn an_image_of_another_kind_is_used_as_it_is() {
    let host = host();
    fs::write(&host.kernel.image, b"for another machine").unwrap();
    let boot = host.prepare(&[]).unwrap();
    assert_eq!(fs::read(boot.kernel).unwrap(), b"for another machine");
}

#[test]
fn a_feature_without_a_module_is_refused_with_its_purpose() {
    let host = host();
    let error = host.prepare(&[Feature::Plan9]).unwrap_err().to_string();
    for part in [
        "6.1.0-test",
        "9pnet_virtio",
        "over 9p",
        "modules.dep",
        "--kernver",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!host.kernel.has("9p").unwrap());
    assert!(host.kernel.has("virtio-blk").unwrap() && host.kernel.has("vfat").unwrap());
}

#[test]
fn two_starts_prepare_at_the_same_time() {
    let host = host();
    let boots: BTreeSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| host.prepare(&[]).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap().initrd)
            .collect()
    });
    assert_eq!(boots.len(), 1);
    assert_eq!(fs::read_dir(&host.cache).unwrap().count(), 2);
    drop(host.dir);
}

#[test]
fn the_kernels_of_this_host_are_prepared() {
    let images = installed();
    if images.is_empty() {
        println!("skipped: no kernel in /boot");
    }
    let dir = tempfile::tempdir().unwrap();
    let init = dir.path().join("init");
    write(&init, b"init");
    for image in images {
        let request = KernelRequest {
            path: Some(image.clone()),
            ..KernelRequest::default()
        };
        let kernel = match (
            fs::File::open(&image),
            Kernel::find(Path::new("/"), &request),
        ) {
            (Ok(_), Ok(kernel)) => kernel,
            (Err(error), _) => {
                println!("skipped: '{}': {error}", image.display());
                continue;
            }
            (_, Err(error)) => {
                println!("skipped: {error}");
                continue;
            }
        };
        let all = BTreeSet::from([
            Feature::Virtiofs,
            Feature::Network,
            Feature::Block,
            Feature::Overlay,
            Feature::Ext4,
        ]);
        let prepare = || prepare(&dir.path().join("cache"), &kernel, &all, &init).unwrap();
        let boot = prepare();
        let packed = read(&fs::read(&boot.initrd).unwrap());
        let modules = packed
            .iter()
            .filter(|entry| entry.name.starts_with("modules/"));
        for module in modules {
            assert!(module.content.starts_with(b"\x7fELF"), "{}", module.name);
        }
        let quickest = (0..20)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(prepare(), boot);
                start.elapsed()
            })
            .min();
        println!("{}: found in {quickest:?}", kernel.release);
        assert!(quickest < Some(Duration::from_millis(20)));
    }
}
