//! First process of a running container, as recorded by guest-init ([`guest_init::sys::first_process`]).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use guest_init::sys::first_process::{Identity, ProcDir, RECORD, Record};

use crate::error::{Error, Result};

/// First processes in a running container.
#[derive(Debug)]
pub struct FirstProcess {
    /// Process that libvirt started.
    pub init: ProcDir,
    /// First process of the sandbox.
    pub process: ProcDir,
    /// Identity that distinguishes `process` from later processes of the same number.
    pub identity: Identity,
}

/// Stage of a container's life.
#[derive(Debug)]
pub enum Stage {
    /// The container has booted.
    Runs(FirstProcess),
    /// The container has not handed over its first process yet.
    Boots,
    /// The container has ended.
    Ended,
}

/// Finds the first process of the container with the libvirt controller `controller` and the staging root
/// `stage`.
///
/// # Errors
/// If the container's guest-init does not write a record.
pub fn find(controller: u32, stage: &Path) -> Result<Stage> {
    let path = stage.join(RECORD);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::refused(
                "the sandbox was started by another version of virt-sandbox, which nobody can enter; restart it",
            ));
        }
        Err(error) => return Err(Error::io("reading", &path)(error)),
    };
    // A record may be incomplete, or left by the previous boot.
    let record: Option<Record> = serde_json::from_str(&text).ok();
    let init = record.and_then(|record| child(controller, record.init));
    let Some((record, init)) = record.zip(init) else {
        return Ok(
            match Path::new("/proc").join(controller.to_string()).exists() {
                true => Stage::Boots,
                false => Stage::Ended,
            },
        );
    };
    let process = match record.first == record.init {
        true => ProcDir::open(init.pid()).ok(),
        false => child(init.pid(), record.first),
    };
    let is_it = |process: &ProcDir| process.identity().is_ok_and(|it| it == record.first);
    Ok(match process.filter(is_it) {
        Some(process) => Stage::Runs(FirstProcess {
            init,
            process,
            identity: record.first,
        }),
        None => Stage::Ended,
    })
}

/// Returns the child of `parent` that has this identity.
fn child(parent: u32, identity: Identity) -> Option<ProcDir> {
    let mut children = children(parent)
        .into_iter()
        .filter_map(|pid| ProcDir::open(pid).ok());
    children.find(|process| process.identity().is_ok_and(|it| it == identity))
}

/// Returns the children of a process from `proc_tid_children(5)` of each thread, or else, by looking at every process.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let texts: Vec<String> = threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .collect();
    if !texts.is_empty() {
        let numbers = texts.iter().flat_map(|text| text.split_whitespace());
        return numbers.filter_map(|number| number.parse().ok()).collect();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|other| parent(*other) == Some(pid))
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn identity(pid: u32) -> Identity {
        ProcDir::open(pid).unwrap().identity().unwrap()
    }

    /// Writes a record, and looks for the first process of a container whose controller is this process.
    fn found(stage: &Path, record: Option<Record>) -> Stage {
        let text = record.map_or_else(String::new, |it| serde_json::to_string(&it).unwrap());
        fs::write(stage.join(RECORD), text).unwrap();
        find(std::process::id(), stage).unwrap()
    }

    fn pid(stage: Stage) -> Option<u32> {
        match stage {
            Stage::Runs(first) => Some(first.process.pid()),
            Stage::Boots | Stage::Ended => None,
        }
    }

    #[test]
    fn only_a_process_that_was_handed_over_is_taken() {
        let stage = tempfile::tempdir().unwrap();
        let stage = stage.path();
        assert!(find(std::process::id(), stage).is_err(), "another version");
        let mut shell = Command::new("sh");
        // Started in another clock tick, since it is in the same namespace.
        shell.args(["-c", "sleep 0.2; sleep 100 & wait"]);
        let mut init = shell.spawn().unwrap();
        assert!(matches!(found(stage, None), Stage::Boots));
        let own = identity(init.id());
        let first = loop {
            let later = |pid: &u32| {
                let process = ProcDir::open(*pid).and_then(|process| process.identity());
                process.is_ok_and(|it| it.started > own.started + 10)
            };
            if let Some(pid) = children(init.id()).into_iter().find(later) {
                break pid;
            }
            std::thread::yield_now();
        };
        let record = |init, first| Some(Record { init, first });
        let below = found(stage, record(own, identity(first)));
        assert_eq!(pid(below), Some(first));
        assert_eq!(pid(found(stage, record(own, own))), Some(init.id()));
        // Record of an earlier boot.
        let other = Identity {
            started: own.started + 1,
            ..own
        };
        assert!(matches!(found(stage, record(other, other)), Stage::Boots));
        assert!(matches!(found(stage, record(own, other)), Stage::Ended));
        let child = nix::unistd::Pid::from_raw(first.cast_signed());
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        init.kill().unwrap();
        init.wait().unwrap();
        assert!(matches!(find(init.id(), stage), Ok(Stage::Ended)));
    }
}
