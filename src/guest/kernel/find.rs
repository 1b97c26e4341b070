//! Choice of a guest's kernel: the one that the user names, else the one that runs, else the newest installed.

use std::cmp::Reverse;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::utsname::uname;

use super::{Kernel, image, unreadable};
use crate::config::KernelRequest;
use crate::error::{Error, Result};
use crate::sys::path::below;

/// Bytes of an image that hold its release.
const HEADER: u64 = 64 << 10;

/// Names of images: most are `vmlinuz`; Debian's for POWER and RISC-V are `vmlinux`, and SUSE's for ARM are `Image`.
const IMAGES: [&str; 3] = ["vmlinuz", "vmlinux", "Image"];

/// Directories of modules, by release.
const MODULES: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];

impl Kernel {
    /// Finds the kernel of a guest among those installed below `root`; the paths of `request` are below it, too.
    ///
    /// Without a version or a path this is the running kernel, if its image and modules are installed, else the newest that has
    /// both.
    ///
    /// # Errors
    /// Where there is none; the message says what to install or which option to use.
    pub fn find(root: &Path, request: &KernelRequest) -> Result<Self> {
        let running = uname().map(|names| names.release().to_string_lossy().into_owned());
        find(root, request, &running.unwrap_or_default())
    }
}

fn find(root: &Path, request: &KernelRequest, running: &str) -> Result<Kernel> {
    let (release, image) = match (&request.path, &request.version) {
        (Some(path), version) => {
            let image = below(root, path);
            let release = match version {
                Some(version) => version.clone(),
                None => release_of(&image)?,
            };
            (release, image)
        }
        (None, Some(version)) => {
            let places = images(root, version);
            let image = first_file(&places).ok_or_else(|| {
                Error::not_found(format!(
                    "there is no kernel {version}: looked for {}; install it, or name its image with --kernpath",
                    quoted(&places)
                ))
            })?;
            (version.clone(), image)
        }
        (None, None) => return default(root, request, running),
    };
    // It becomes part of paths.
    if release.is_empty() || release.contains('/') {
        return Err(Error::refused(format!(
            "'{release}' is no release of a kernel; say one with --kernver as `uname -r` prints it"
        )));
    }
    let places = modules(root, request, &release);
    let modules = first_modules(&places).ok_or_else(|| {
        Error::refused(format!(
            "the modules of kernel {release} are not installed: there is no modules.dep in {}; \
             install them, or name the directory they are in with --kmodpath",
            quoted(&places)
        ))
    })?;
    Ok(Kernel {
        release,
        image,
        modules,
    })
}

/// Finds the running kernel, or the newest.
fn default(root: &Path, request: &KernelRequest, running: &str) -> Result<Kernel> {
    let complete = |release: String| {
        Some(Kernel {
            image: first_file(&images(root, &release))?,
            modules: first_modules(&modules(root, request, &release))?,
            release,
        })
    };
    if let Some(kernel) = complete(running.to_owned()) {
        return Ok(kernel);
    }
    let mut releases = installed(root);
    releases.sort_by_cached_key(|release| Reverse(age(release)));
    releases.into_iter().find_map(complete).ok_or_else(|| {
        Error::refused(format!(
            "there is no kernel with its modules in '{}' and {}; install one \
             (Debian: linux-image-amd64 or that of the architecture, Fedora: kernel-core), or name it with --kernpath and --kmodpath",
            below(root, Path::new("/boot")).display(),
            quoted(&MODULES.map(|base| below(root, Path::new(base))))
        ))
    })
}

/// Returns the paths of the image of a release on distributions.
fn images(root: &Path, release: &str) -> Vec<PathBuf> {
    let boot = IMAGES.map(|name| format!("/boot/{name}-{release}"));
    let beside = MODULES
        .iter()
        .flat_map(|base| IMAGES.map(|name| format!("{base}/{release}/{name}")));
    let places = boot.into_iter().chain(beside);
    places.map(|place| below(root, Path::new(&place))).collect()
}

/// Returns the directories that the modules of a release may be in.
fn modules(root: &Path, request: &KernelRequest, release: &str) -> Vec<PathBuf> {
    match &request.modules {
        Some(base) => {
            let base = below(root, base);
            vec![base.join(release), base]
        }
        None => MODULES
            .map(|base| below(root, Path::new(base)).join(release))
            .to_vec(),
    }
}

/// Lists the releases that have an image or modules.
fn installed(root: &Path) -> Vec<String> {
    let names = |directory: &str, prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(below(root, Path::new(directory)));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned()))
            .collect()
    };
    let mut releases: Vec<String> = IMAGES
        .iter()
        .flat_map(|name| names("/boot", &format!("{name}-")))
        .collect();
    releases.extend(MODULES.iter().flat_map(|base| names(base, "")));
    releases.sort();
    releases.dedup();
    releases
}

/// Orders releases by age: by their numbers, then the plainer name, as `amd64` is the kernel with all drivers and
/// `cloud-amd64`, `rt-amd64` and `6.2-rc1` are variants.
fn age(release: &str) -> (Vec<u64>, Reverse<usize>, Reverse<String>) {
    let numbers = release
        .split(['.', '-', '_', '+'])
        .map_while(|part| part.parse().ok())
        .collect();
    (numbers, Reverse(release.len()), Reverse(release.to_owned()))
}

/// Returns the release of an image: from its header, else from its name or that of its directory.
fn release_of(image: &Path) -> Result<String> {
    let mut header = Vec::new();
    fs::File::open(image)
        .and_then(|file| file.take(HEADER).read_to_end(&mut header))
        .map_err(unreadable(image))?;
    let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    let file = name(image).unwrap_or_default();
    let said = image::release(&header)
        .or_else(|| file.split_once('-').map(|(_, release)| release.to_owned()))
        .or_else(|| name(image.parent().filter(|_| IMAGES.contains(&file.as_str()))?));
    said.ok_or_else(|| {
        Error::refused(format!(
            "it cannot be told which release the kernel '{}' is; say it with --kernver",
            image.display()
        ))
    })
}

fn first_file(places: &[PathBuf]) -> Option<PathBuf> {
    places.iter().find(|path| path.is_file()).cloned()
}

fn first_modules(places: &[PathBuf]) -> Option<PathBuf> {
    places
        .iter()
        .find(|path| path.join("modules.dep").is_file())
        .cloned()
}

fn quoted(places: &[PathBuf]) -> String {
    let quoted: Vec<_> = places
        .iter()
        .map(|path| format!("'{}'", path.display()))
        .collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::kernel::image::tests::bzimage;
    use crate::guest::kernel::tests::write;

    fn host(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            write(&root.path().join(file), b"");
        }
        root
    }

    fn debian() -> tempfile::TempDir {
        host(&[
            "boot/vmlinuz-6.1.0-9-amd64",
            "boot/vmlinuz-6.1.0-10-amd64",
            "boot/vmlinuz-6.1.0-10-cloud-amd64",
            "boot/vmlinuz-6.9.0-1-amd64",
            "lib/modules/6.1.0-9-amd64/modules.dep",
            "lib/modules/6.1.0-10-amd64/modules.dep",
            "lib/modules/6.1.0-10-cloud-amd64/modules.dep",
            "lib/modules/7.0.0/modules.dep",
        ])
    }

    #[test]
    fn the_running_kernel_is_taken_else_the_newest_that_is_complete() {
        let root = debian();
        let release = |running| {
            find(root.path(), &KernelRequest::default(), running)
                .unwrap()
                .release
        };
        assert_eq!(release("6.1.0-9-amd64"), "6.1.0-9-amd64");
        assert_eq!(release("6.9.0-1-amd64"), "6.1.0-10-amd64");
        assert_eq!(release(""), "6.1.0-10-amd64");
    }

    #[test]
    fn releases_are_ordered_by_number_and_then_by_plainness() {
        let mut releases = [
            "6.1.0-9-amd64",
            "6.1.0-10-rt-amd64",
            "6.1.0-10-amd64",
            "6.12.0-amd64",
            "6.12.0-rc1-amd64",
            "5.14.0-427.el9.x86_64+debug",
            "5.14.0-427.el9.x86_64",
        ];
        releases.sort_by_key(|release| age(release));
        assert_eq!(
            releases,
            [
                "5.14.0-427.el9.x86_64+debug",
                "5.14.0-427.el9.x86_64",
                "6.1.0-9-amd64",
                "6.1.0-10-rt-amd64",
                "6.1.0-10-amd64",
                "6.12.0-rc1-amd64",
                "6.12.0-amd64",
            ]
        );
    }

    #[test]
    fn an_image_beside_its_modules_is_found() {
        let root = host(&[
            "usr/lib/modules/6.9.7-200.fc40.x86_64/vmlinuz",
            "usr/lib/modules/6.9.7-200.fc40.x86_64/modules.dep",
        ]);
        let kernel = find(root.path(), &KernelRequest::default(), "6.5.0").unwrap();
        let directory = root.path().join("usr/lib/modules/6.9.7-200.fc40.x86_64");
        assert_eq!(kernel.image, directory.join("vmlinuz"));
        assert_eq!(kernel.modules, directory);
    }

    #[test]
    fn images_of_other_architectures_are_found_by_their_names() {
        for image in [
            "boot/vmlinux-6.1.0-44-powerpc64le",
            "boot/Image-6.4.0-default",
            "usr/lib/modules/6.4.0-default/Image",
        ] {
            let release = match image.contains("default") {
                true => "6.4.0-default",
                false => "6.1.0-44-powerpc64le",
            };
            let root = host(&[image, &format!("usr/lib/modules/{release}/modules.dep")]);
            let kernel = find(root.path(), &KernelRequest::default(), "").unwrap();
            assert_eq!(kernel.image, root.path().join(image));
            assert_eq!(kernel.release, release);
        }
    }

    #[test]
    fn version_and_modules_can_be_chosen() {
        let root = debian();
        let request = KernelRequest {
            version: Some("6.9.0-1-amd64".into()),
            ..KernelRequest::default()
        };
        let error = find(root.path(), &request, "").unwrap_err().to_string();
        assert!(
            error.contains("lib/modules/6.9.0-1-amd64") && error.contains("--kmodpath"),
            "{error}"
        );
        for base in ["/opt/modules", "/opt/modules/6.9.0-1-amd64"] {
            write(
                &root.path().join("opt/modules/6.9.0-1-amd64/modules.dep"),
                b"",
            );
            let request = KernelRequest {
                modules: Some(base.into()),
                ..request.clone()
            };
            let kernel = find(root.path(), &request, "").unwrap();
            assert_eq!(
                kernel.modules,
                root.path().join("opt/modules/6.9.0-1-amd64")
            );
        }
    }

    #[test]
    fn the_release_comes_from_the_header_then_from_the_name() {
        let root = host(&[
            "opt/linux",
            "opt/bzImage-6.2",
            "lib/modules/6.3/vmlinuz",
            "lib/modules/6.1.0-test/modules.dep",
            "lib/modules/6.2/modules.dep",
            "lib/modules/6.3/modules.dep",
        ]);
        write(&root.path().join("opt/bzImage"), &bzimage(b""));
        let release = |path: &str| {
            let request = KernelRequest {
                path: Some(path.into()),
                ..KernelRequest::default()
            };
            find(root.path(), &request, "").map(|kernel| kernel.release)
        };
        assert_eq!(release("/opt/bzImage").unwrap(), "6.1.0-test");
        assert_eq!(release("/opt/bzImage-6.2").unwrap(), "6.2");
        assert_eq!(release("/lib/modules/6.3/vmlinuz").unwrap(), "6.3");
        let error = release("/opt/linux").unwrap_err().to_string();
        assert!(error.contains("--kernver"), "{error}");
        assert!(
            release("/opt/none")
                .unwrap_err()
                .to_string()
                .contains("/opt/none")
        );
    }

    #[test]
    fn a_release_cannot_be_a_path() {
        let root = debian();
        for version in ["", "../../etc"] {
            let request = KernelRequest {
                version: Some(version.into()),
                path: Some("/boot/vmlinuz-6.1.0-9-amd64".into()),
                ..KernelRequest::default()
            };
            let error = find(root.path(), &request, "").unwrap_err().to_string();
            assert!(error.contains("uname -r"), "{error}");
        }
    }

    #[test]
    fn a_host_without_a_kernel_is_told_what_to_install() {
        let root = host(&[]);
        let none = find(root.path(), &KernelRequest::default(), "6.1").unwrap_err();
        assert!(none.to_string().contains("linux-image-amd64"), "{none}");
        let request = KernelRequest {
            version: Some("6.1".into()),
            ..KernelRequest::default()
        };
        let error = find(root.path(), &request, "").unwrap_err().to_string();
        assert!(
            error.contains("vmlinuz-6.1") && error.contains("--kernpath"),
            "{error}"
        );
    }
}
