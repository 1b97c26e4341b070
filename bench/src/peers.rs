//! Peer programs, each with its fastest settings on a host without systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use test_harness::guest::{Flavour, Kernel, compile};

use crate::run;

/// Shell code that hides what podman's runtime takes for a hybrid cgroup layout, which it refuses.
const WITHOUT_HYBRID: &str = "for dir in unified systemd; do \
    [ ! -e /sys/fs/cgroup/cpu ] || umount /sys/fs/cgroup/$dir 2>/dev/null; done; exec \"$@\"";

/// Returns bubblewrap on the host's root.
pub fn bubblewrap() -> Command {
    run::command(&["bwrap", "--ro-bind", "/", "/", "--unshare-all", "/bin/true"])
}

/// Returns systemd-nspawn on the host's root, which it accepts only at another path.
pub fn nspawn(directory: &Path) -> Result<Command> {
    let root = directory.join("host");
    fs::create_dir_all(&root).context("creating a place for the root")?;
    let script = "mount --bind / \"$0\" && exec systemd-nspawn --quiet --directory \"$0\" \
        --read-only --register=no --keep-unit /bin/true";
    let mut command = run::command(&["unshare", "--mount", "sh", "-c", script]);
    command.arg(&root);
    Ok(command)
}

/// podman with crun on a root with one program, which sleeps for a given time.
#[derive(Debug, Clone)]
pub struct Podman(PathBuf);

impl Podman {
    /// Makes the root.
    pub fn new(directory: &Path) -> Result<Self> {
        let root = directory.join("podman");
        fs::create_dir_all(&root).context("creating a root for podman")?;
        let source = "#include <stdlib.h>\n#include <unistd.h>\n\
            int main(int n, char **w) { return n > 1 ? sleep(atoi(w[1])) : 0; }\n";
        compile(source, &root.join("true"))?;
        Ok(Self(root))
    }

    /// Returns the command; the caller appends the seconds to sleep.
    pub fn command(&self) -> Command {
        let mut command = run::command(&["unshare", "--mount", "sh", "-c", WITHOUT_HYBRID, "sh"]);
        command.args(self.words());
        command
    }

    /// Returns the same command without a wrapper: podman is the started process itself.
    pub fn bare(&self) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", WITHOUT_HYBRID, "sh"])
            .args(self.words());
        command
    }

    fn words(&self) -> Vec<String> {
        let limits = "1024:1024";
        vec![
            "podman".into(),
            "run".into(),
            "--rm".into(),
            "--runtime=crun".into(),
            "--cgroups=disabled".into(),
            "--network=none".into(),
            // podman's default may be above the host's limit.
            format!("--ulimit=nofile={limits}"),
            format!("--ulimit=nproc={limits}"),
            "--rootfs".into(),
            self.0.display().to_string(),
            "/true".into(),
        ]
    }
}

/// Returns virtme-ng from PyPI, in a virtual environment that is kept in `place`.
pub fn virtme_ng(place: &Path) -> Result<Command> {
    let programs = place.join("bin");
    if !programs.join("vng").exists() {
        output(
            Command::new("/usr/bin/python3")
                .args(["-m", "venv"])
                .arg(place),
        )?;
        let pip = programs.join("pip");
        output(Command::new(pip).args(["install", "--quiet", "virtme-ng"]))
            .context("installing virtme-ng")?;
    }
    let kernel = Kernel::find(Flavour::Generic)?;
    let image = kernel.image.display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let words = format!("vng --run {image} --disable-kvm --memory 512M --exec 'echo the end'");
    // virtme-ng needs a terminal.
    let mut command = run::command(&["script", "--quiet", "--return", "--command"]);
    command
        .arg(words)
        .arg("/dev/null")
        .env("PATH", format!("{}:{path}", programs.display()));
    Ok(command)
}

fn output(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {:?}", command.get_program()))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}", error.lines().last().unwrap_or("it failed"));
    }
    Ok(())
}
