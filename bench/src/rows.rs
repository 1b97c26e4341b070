//! The comparisons.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow};
use tempfile::TempDir;
use test_harness::libvirtd;

use crate::Arguments;
use crate::bare::Parts;
use crate::libvirt::Libvirt;
use crate::measure::{Row, Sample, Unit};
use crate::peers::{self, Podman};
use crate::run::{self, Direction};
use crate::{memory, peers::virtme_ng};

/// Directory of an installed virtme-ng.
const VIRTME: &str = "target/bench/virtme-ng";

/// Programs and files that the rows need.
#[derive(Debug)]
pub struct Benches {
    program: PathBuf,
    lxc_uri: String,
    vm_uri: String,
    parts: Parts,
    /// Directory for the peers.
    directory: PathBuf,
}

/// Our program with one of libvirt's drivers.
#[derive(Debug, Clone)]
struct Ours {
    program: String,
    uri: String,
}

impl Ours {
    fn words<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec![self.program.as_str(), "-c", self.uri.as_str(), "--"];
        words.extend(command);
        words
    }

    fn time(self) -> Sample {
        Box::new(move || run::time(run::command(&self.words(&["/bin/true"])), ""))
    }

    fn throughput(self, way: Direction, mib: usize) -> Sample {
        Box::new(move || {
            let script = way.script(mib);
            let words = self.words(&["/bin/sh", "-c", &script]);
            run::throughput(run::command(&words), way, mib)
        })
    }

    /// Returns a command that runs for a second and is the started process itself.
    fn second(&self) -> Command {
        let words = self.words(&["/bin/sleep", "1"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }
}

impl Benches {
    /// Makes everything that is needed but not measured; the directory must live as long as the rows.
    pub fn prepare(program: &Path) -> Result<(Self, TempDir)> {
        let lxc_uri = libvirtd::require("bench").ok_or_else(|| anyhow!("run `make bench`"))?;
        let (parts, directory) = Parts::make()?;
        let benches = Self {
            program: program.to_owned(),
            lxc_uri,
            vm_uri: libvirtd::qemu_uri()?,
            parts,
            directory: directory.path().to_owned(),
        };
        Ok((benches, directory))
    }

    fn ours(&self, uri: &str) -> Result<Ours> {
        let program = self.program.display().to_string();
        if !self.program.exists() {
            return Err(anyhow!("'{program}' does not exist"));
        }
        Ok(Ours {
            program,
            uri: uri.to_owned(),
        })
    }

    /// Returns all rows, in the order of measurement.
    pub fn rows(&self, arguments: &Arguments) -> Vec<Row> {
        let mut rows = self.containers(arguments.lxc);
        rows.extend(self.guests(arguments.vm));
        rows.extend(self.streams(arguments));
        rows.extend(self.memory(arguments.lxc.min(3), arguments.vm.min(2)));
        rows
    }

    fn containers(&self, repeats: usize) -> Vec<Row> {
        let row = |peer, wanted, theirs| Row {
            what: "LXC /bin/true".into(),
            peer,
            wanted,
            repeats,
            unit: Unit::Milliseconds,
            ours: self.ours(&self.lxc_uri).map(Ours::time),
            theirs,
        };
        vec![
            row(
                "libvirt's own",
                "<= 0.6",
                Libvirt::open(&self.lxc_uri).map(|libvirt| -> Sample {
                    Box::new(move || libvirt.container(&["/bin/true"]))
                }),
            ),
            row("bubblewrap", "", Ok(timed(peers::bubblewrap, ""))),
            row(
                "systemd-nspawn",
                "",
                Ok({
                    let directory = self.directory.clone();
                    Box::new(move || run::time(peers::nspawn(&directory)?, ""))
                }),
            ),
            row(
                "podman + crun",
                "< 1",
                Podman::new(&self.directory).map(|podman| timed(move || podman.command(), "")),
            ),
        ]
    }

    fn guests(&self, repeats: usize) -> Vec<Row> {
        let row = |peer, wanted, theirs| Row {
            what: "VM /bin/true".into(),
            peer,
            wanted,
            repeats,
            unit: Unit::Milliseconds,
            ours: self.ours(&self.vm_uri).map(Ours::time),
            theirs,
        };
        let parts = self.parts.clone();
        vec![
            row(
                "libvirt's own",
                "<= 1.3",
                Libvirt::open(&self.vm_uri).map(|libvirt| -> Sample {
                    let parts = self.parts.clone();
                    Box::new(move || libvirt.guest(&parts))
                }),
            ),
            row("bare QEMU", "", Ok(Box::new(move || parts.time()))),
            row(
                "virtme-ng",
                "<= 0.2",
                Ok(Box::new(|| {
                    run::time(virtme_ng(Path::new(VIRTME))?, "the end")
                })),
            ),
        ]
    }

    fn streams(&self, arguments: &Arguments) -> Vec<Row> {
        let mut rows = Vec::new();
        for (way, name) in [(Direction::Out, "stdout"), (Direction::In, "stdin")] {
            let mib = arguments.lxc_mib;
            rows.push(Row {
                what: format!("LXC {name}, {mib} MiB"),
                peer: "cat",
                wanted: if way == Direction::Out { ">= 0.5" } else { "" },
                repeats: arguments.lxc.min(3),
                unit: Unit::MebibytesPerSecond,
                ours: self
                    .ours(&self.lxc_uri)
                    .map(|ours| ours.throughput(way, mib)),
                theirs: Ok(Box::new(move || cat(way, mib))),
            });
            let mib = arguments.vm_mib;
            let parts = self.parts.clone();
            rows.push(Row {
                what: format!("VM {name}, {mib} MiB"),
                peer: "virtio port",
                wanted: "",
                repeats: arguments.vm.min(2),
                unit: Unit::MebibytesPerSecond,
                ours: self
                    .ours(&self.vm_uri)
                    .map(|ours| ours.throughput(way, mib)),
                theirs: Ok(Box::new(move || parts.throughput(way, mib))),
            });
        }
        rows
    }

    fn memory(&self, containers: usize, guests: usize) -> Vec<Row> {
        let row = |what: &str, peer, repeats, ours, theirs| Row {
            what: what.into(),
            peer,
            wanted: "",
            repeats,
            unit: Unit::Mebibytes,
            ours,
            theirs,
        };
        let client = |ours: Ours| -> Sample {
            Box::new(move || run::peak(&mut ours.second(), |child| memory::resident(child.id())))
        };
        let podman = Podman::new(&self.directory).map(|podman| -> Sample {
            Box::new(move || {
                let mut command = podman.bare();
                run::peak(command.arg("1"), |child| memory::resident(child.id()))
            })
        });
        let own_container = Libvirt::open(&self.lxc_uri).map(|libvirt| -> Sample {
            Box::new(move || libvirt.container_memory(&["/bin/sleep", "1"]))
        });
        let own_guest = Libvirt::open(&self.vm_uri).map(|libvirt| -> Sample {
            let parts = self.parts.clone();
            Box::new(move || libvirt.guest_memory(&parts))
        });
        let container = self.ours(&self.lxc_uri).map(|ours| -> Sample {
            Box::new(move || {
                let before = memory::containers();
                run::peak(&mut ours.second(), |_| memory::container(&before))
            })
        });
        let guest = self.ours(&self.vm_uri).map(|ours| -> Sample {
            Box::new(move || run::peak(&mut ours.second(), |_| memory::guests()))
        });
        let lxc_client = self.ours(&self.lxc_uri).map(client);
        let own = "libvirt's own";
        vec![
            row(
                "LXC memory, client",
                "podman + crun",
                containers,
                lxc_client,
                podman,
            ),
            row(
                "LXC memory, container",
                own,
                containers,
                container,
                own_container,
            ),
            row("VM memory, QEMU", own, guests, guest, own_guest),
        ]
    }
}

fn timed(command: impl Fn() -> Command + 'static, marker: &'static str) -> Sample {
    Box::new(move || run::time(command(), marker))
}

/// Measures the same number of bytes through a pipe and `cat`.
fn cat(way: Direction, mib: usize) -> Result<f64> {
    let script = way.script(mib);
    let piped = match way {
        Direction::Out => format!("{{ {script}; }} | cat"),
        Direction::In => format!("cat | {{ {script}; }}"),
    };
    run::throughput(run::command(&["sh", "-c", &piped]), way, mib)
}
