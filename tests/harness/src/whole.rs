//! A whole host in a virtual machine: with systemd as PID 1, cgroup v2, and the installed package.
//!
//! `tests/host/image.sh` makes the image once. Each run boots a throw-away copy with a shared directory that holds the
//! package, the scripts to run, and their results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Options of `test-harness host`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Scripts of tests/host/cases to run, without '.sh' [default: all that are for the boot]
    names: Vec<String>,
    /// Security module that the host boots with [default: each in turn]
    #[arg(long, value_name = "BOOT")]
    boot: Vec<Boot>,
    /// Tree to install on the host, as 'make install DESTDIR=' makes it
    #[arg(long, default_value = "target/host/package")]
    package: PathBuf,
    /// Directory of the scripts
    #[arg(long, default_value = "tests/host")]
    scripts: PathBuf,
    /// Directory of the image and of the last run's results
    #[arg(long, default_value = "target/host")]
    output: PathBuf,
    /// Seconds after which the machine is killed
    #[arg(long, default_value_t = 21600)]
    seconds: u64,
}

/// Security module that the host boots with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// No security module.
    Plain,
    /// AppArmor.
    Apparmor,
    /// SELinux, enforcing once the host is up.
    Selinux,
}

impl Boot {
    const ALL: [Self; 3] = [Self::Plain, Self::Apparmor, Self::Selinux];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Apparmor => "apparmor",
            Self::Selinux => "selinux",
        }
    }

    /// Returns the kernel parameters. If none is named, the kernel uses its first security module that is not turned off.
    const fn parameters(self) -> &'static str {
        match self {
            Self::Plain => "lsm=landlock,lockdown,yama",
            Self::Apparmor => "apparmor=1 security=apparmor",
            Self::Selinux => "security=selinux selinux=1 enforcing=0",
        }
    }
}

/// The host's memory in MiB: enough for ten sandboxes, small enough for the machine that runs the tests.
const MEMORY: u32 = 3072;

/// Time between two reads of the results.
const LOOK: Duration = Duration::from_secs(1);

/// Makes the image if it is missing, boots it, runs the scripts, and prints a line for each and the output of failed ones.
///
/// # Errors
/// The image cannot be made, or the machine does not start. A failed script is no error: it is reported with exit code 1.
pub fn run(options: &Options) -> Result<ExitCode> {
    let made = Command::new("bash")
        .arg(options.scripts.join("image.sh"))
        .arg(&options.output)
        .status()
        .context("running image.sh")?;
    if !made.success() {
        bail!("image.sh failed");
    }
    if !options.package.is_dir() {
        bail!(
            "'{}' is missing: make install DESTDIR={0}",
            options.package.display()
        );
    }
    let boots = match options.boot.as_slice() {
        [] => Boot::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    println!("CASE                      BOOT      RESULT  SECONDS");
    let (mut passed, mut failed) = (0, 0);
    for boot in boots {
        let cases = cases(&options.scripts.join("cases"), boot, &options.names)?;
        for done in visit(options, boot, &cases)? {
            match done.result.as_str() {
                "ok" | "SKIP" => passed += 1,
                _ => failed += 1,
            }
        }
    }
    println!(
        "host: {passed} passed, {failed} failed; logs are in '{}'",
        options.output.join("run").display()
    );
    Ok(if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the scripts for a boot, in order: those whose line `# boots:` names it. Scripts without one are for the plain boot.
fn cases(dir: &Path, boot: Boot, names: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("reading '{}'", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "sh") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            all.push((name.to_owned(), is_for(&text, boot)));
        }
    }
    all.sort();
    for name in names {
        if !all.iter().any(|(known, _)| known == name) {
            bail!("no case '{name}' in '{}'", dir.display());
        }
    }
    Ok(all
        .into_iter()
        .filter(|(name, is_for)| *is_for && (names.is_empty() || names.contains(name)))
        .map(|(name, _)| name)
        .collect())
}

fn is_for(script: &str, boot: Boot) -> bool {
    script
        .lines()
        .find_map(|line| line.strip_prefix("# boots:"))
        .unwrap_or("plain")
        .split_whitespace()
        .any(|word| word == boot.as_str())
}

/// Result of a case.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    name: String,
    result: String,
    seconds: String,
}

fn parse(results: &str) -> Vec<Done> {
    // The last line may be incomplete.
    let whole = results.rfind('\n').map_or("", |end| &results[..end]);
    whole
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            Some(Done {
                name: fields.next()?,
                result: fields.next()?,
                seconds: fields.next()?,
            })
        })
        .collect()
}

/// Boots once, prints the result of each case, and returns the results. A case that did not run has failed.
fn visit(options: &Options, boot: Boot, cases: &[String]) -> Result<Vec<Done>> {
    if cases.is_empty() {
        return Ok(vec![]);
    }
    let share = options.output.join("run").join(boot.as_str());
    let _ = fs::remove_dir_all(&share);
    fs::create_dir_all(share.join("logs"))?;
    fs::write(share.join("todo"), cases.join("\n") + "\n")?;
    for (what, name) in [(&options.package, "package"), (&options.scripts, "scripts")] {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(what)
            .arg(share.join(name))
            .status()?;
        if !copied.success() {
            bail!("copying '{}'", what.display());
        }
    }
    let mut machine = Machine::start(&options.output, &share, boot)?;
    let begin = Instant::now();
    let mut shown = 0;
    let mut done = Vec::new();
    let mut is_over = false;
    while !is_over {
        is_over = machine.has_ended()? || begin.elapsed() > Duration::from_secs(options.seconds);
        done = parse(&fs::read_to_string(share.join("results")).unwrap_or_default());
        for one in &done[shown.min(done.len())..] {
            show(&share, boot, one);
        }
        shown = done.len();
        if !is_over {
            sleep(LOOK);
        }
    }
    for case in cases {
        if !done.iter().any(|one| one.name == *case) {
            let missing = Done {
                name: case.clone(),
                result: "NOT RUN".to_owned(),
                seconds: "-".to_owned(),
            };
            show(&share, boot, &missing);
            done.push(missing);
        }
    }
    Ok(done)
}

fn show(share: &Path, boot: Boot, done: &Done) {
    println!(
        "{:<25} {:<9} {:<7} {:>7}",
        done.name,
        boot.as_str(),
        done.result,
        done.seconds
    );
    let log = share.join("logs").join(&done.name).with_extension("log");
    let log = fs::read_to_string(log).unwrap_or_default();
    for line in log
        .lines()
        .filter(|line| line.starts_with("FAIL:") || line.starts_with("SKIP:"))
    {
        println!("    {line}");
    }
}

/// A running host; killed on drop.
struct Machine {
    qemu: Child,
    disk: PathBuf,
}

impl Machine {
    fn start(image: &Path, share: &Path, boot: Boot) -> Result<Self> {
        let image = fs::canonicalize(image)?;
        let share = fs::canonicalize(share)?;
        let disk = share.join("disk.qcow2");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(image.join("disk.ext4"))
            .arg(&disk)
            .status()
            .context("running qemu-img")?;
        if !made.success() {
            bail!("qemu-img could not make '{}'", disk.display());
        }
        let accelerator = if has_kvm() { "kvm" } else { "tcg,thread=multi" };
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", accelerator, "-cpu", "max"])
            .args(["-smp", "2", "-m", &MEMORY.to_string()])
            .args(["-display", "none", "-nic", "none", "-monitor", "none"])
            .arg("-serial")
            .arg(format!("file:{}", share.join("console").display()))
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd.img"))
            .arg("-append")
            .arg(format!(
                "root=/dev/vda rw console=ttyS0 panic=-1 {}",
                boot.parameters()
            ))
            .arg("-drive")
            .arg(format!(
                "file={},format=qcow2,if=virtio,cache=unsafe",
                disk.display()
            ))
            .arg("-fsdev")
            .arg(format!(
                "local,id=tests,security_model=none,path={}",
                share.display()
            ))
            .args(["-device", "virtio-9p-pci,fsdev=tests,mount_tag=tests"])
            .args(["-device", "virtio-rng-pci"])
            .stdin(Stdio::null())
            .spawn()
            .context("running qemu-system-x86_64")?;
        Ok(Self { qemu, disk })
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.qemu.try_wait()?.is_some())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_file(&self.disk);
    }
}

/// Returns whether KVM can be used. `/dev/kvm` alone is not enough: an emulation may not boot an unmodified kernel.
fn has_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_flag = flags
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm");
    has_flag
        && fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_names_the_boots_it_is_for() {
        assert!(is_for("true\n", Boot::Plain));
        assert!(!is_for("true\n", Boot::Apparmor));
        let script = "# What\n# boots: apparmor selinux\ntrue\n";
        assert!(is_for(script, Boot::Selinux));
        assert!(!is_for(script, Boot::Plain));
    }

    #[test]
    fn an_incomplete_line_is_no_result() {
        let done = parse("a\tok\t12\nb\tFAILED\t1");
        assert_eq!(done.len(), 1);
        assert_eq!(
            (done[0].name.as_str(), done[0].result.as_str()),
            ("a", "ok")
        );
        assert_eq!(parse(""), vec![]);
    }
}
