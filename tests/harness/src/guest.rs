//! The smallest possible guest: a kernel of the host, and an initramfs with one static program.
//!
//! The guest shows the harness's tests and the benchmarks what libvirt and QEMU do by themselves. The program's
//! source is `init.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Kernel command line for a fast boot, without the part after `--`.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests mitigations=off \
    rcupdate.rcu_expedited=1 no_timer_check 8250.nr_uarts=1 random.trust_cpu=on";

/// Last line of the program on the serial line; a guest that panics ends without it.
pub const DONE: &str = "guest: done";

/// One of Debian's kernel packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `linux-image-amd64`: virtiofs and 9p, compressed with XZ.
    Generic,
    /// `linux-image-cloud-amd64`: virtiofs alone, compressed with LZ4.
    Cloud,
}

/// A kernel of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Output of `uname -r` in it.
    pub version: String,
    /// Path of the bzImage.
    pub image: PathBuf,
}

impl Kernel {
    /// Returns an installed kernel of this flavour.
    ///
    /// # Errors
    ///
    /// None is.
    pub fn find(flavour: Flavour) -> Result<Self> {
        for entry in fs::read_dir("/boot").context("reading '/boot'")?.flatten() {
            let name = entry.file_name();
            if let Some(version) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-"))
                && version.contains("cloud") == (flavour == Flavour::Cloud)
            {
                return Ok(Self {
                    version: version.to_owned(),
                    image: entry.path(),
                });
            }
        }
        bail!("no kernel of the flavour {flavour:?} in '/boot'")
    }

    /// Builds an initramfs in `dir` that loads `modules` and what they need.
    ///
    /// # Errors
    ///
    /// gcc, modprobe or cpio fails.
    pub fn initramfs(&self, dir: &Path, modules: &[&str]) -> Result<PathBuf> {
        let tree = dir.join("tree");
        let place = tree.join("modules");
        fs::create_dir_all(&place).context("creating the tree of the initramfs")?;
        compile(include_str!("init.c"), &tree.join("init"))?;
        let mut files: Vec<String> = Vec::new();
        for module in modules {
            // Lines of `insmod FILE`, dependencies first; built-in modules have another first word.
            let known = output(
                Command::new("modprobe")
                    .args(["--show-depends", "--set-version", &self.version, module])
                    .stdin(Stdio::null()),
            )?;
            for file in known
                .lines()
                .filter_map(|line| line.strip_prefix("insmod "))
            {
                let file = file.trim().to_owned();
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        for (number, file) in files.iter().enumerate() {
            fs::copy(file, place.join(format!("{number:02}")))
                .with_context(|| format!("copying '{file}'"))?;
        }
        let image = dir.join("initramfs");
        output(
            Command::new("sh")
                .args(["-c", "find . | cpio --quiet -o -H newc >\"$0\""])
                .arg(&image)
                .current_dir(&tree),
        )?;
        Ok(image)
    }
}

/// Compiles a static program.
///
/// # Errors
///
/// gcc fails.
pub fn compile(source: &str, program: &Path) -> Result<()> {
    let file = program.with_extension("c");
    fs::write(&file, source).with_context(|| format!("writing '{}'", file.display()))?;
    output(
        Command::new("gcc")
            .args(["-static", "-Os", "-s", "-o"])
            .arg(program)
            .arg(&file),
    )?;
    fs::remove_file(&file).with_context(|| format!("removing '{}'", file.display()))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
