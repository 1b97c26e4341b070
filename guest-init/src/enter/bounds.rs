//! Resource limits, scheduling priority and OOM score adjustment of a command. A process inherits these from its parent, and no cgroup
//! limits them. So a command that enters gets no more than the first process of the sandbox has.
//!
//! `unsafe` for system calls that `nix` does not have.
#![allow(unsafe_code)]

use std::fs;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::sys::first_process::ProcDir;

/// Resource limits by their names in `/proc/PID/limits` (`proc_pid_limits(5)`).
const LIMITS: [(&str, Resource); 16] = [
    ("Max cpu time", Resource::RLIMIT_CPU),
    ("Max file size", Resource::RLIMIT_FSIZE),
    ("Max data size", Resource::RLIMIT_DATA),
    ("Max stack size", Resource::RLIMIT_STACK),
    ("Max core file size", Resource::RLIMIT_CORE),
    ("Max resident set", Resource::RLIMIT_RSS),
    ("Max processes", Resource::RLIMIT_NPROC),
    ("Max open files", Resource::RLIMIT_NOFILE),
    ("Max locked memory", Resource::RLIMIT_MEMLOCK),
    ("Max address space", Resource::RLIMIT_AS),
    ("Max file locks", Resource::RLIMIT_LOCKS),
    ("Max pending signals", Resource::RLIMIT_SIGPENDING),
    ("Max msgqueue size", Resource::RLIMIT_MSGQUEUE),
    ("Max nice priority", Resource::RLIMIT_NICE),
    ("Max realtime priority", Resource::RLIMIT_RTPRIO),
    ("Max realtime timeout", Resource::RLIMIT_RTTIME),
];

/// Width of a name in `/proc/PID/limits`.
const NAME: usize = 26;

/// Hard limits and OOM score adjustment of a sandbox's first process, which bound the commands that enter the sandbox.
#[derive(Debug)]
pub struct Bounds {
    /// Hard limits.
    hard: Vec<(Resource, u64)>,
    /// `/proc/PID/oom_score_adj`: the higher, the sooner the kernel kills the process.
    oom_score_adj: i32,
}

impl Bounds {
    /// Reads the bounds of a process.
    pub fn of(process: &ProcDir) -> Result<Self> {
        let text = process.read("oom_score_adj")?;
        Ok(Self {
            hard: parse(&process.read("limits")?),
            oom_score_adj: (text.trim().parse()).context("reading 'oom_score_adj'")?,
        })
    }

    /// Raises the OOM score adjustment and drops real-time scheduling and a raised priority. To be called while `/proc` is that of the
    /// host.
    pub fn apply_priority(&self) -> Result<()> {
        let own = "/proc/self/oom_score_adj";
        let doing = || format!("adjusting '{own}'");
        let text = fs::read_to_string(own).with_context(doing)?;
        if text
            .trim()
            .parse()
            .is_ok_and(|score: i32| score < self.oom_score_adj)
        {
            fs::write(own, self.oom_score_adj.to_string()).with_context(doing)?;
        }
        let doing = "giving up the caller's priority";
        // SAFETY: numbers only, and a structure that outlives the call; 0 is this process.
        unsafe {
            let policy = libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK;
            if ![libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].contains(&policy) {
                let none = libc::sched_param { sched_priority: 0 };
                let set = libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const none);
                Errno::result(set).context(doing)?;
            }
            if libc::getpriority(libc::PRIO_PROCESS, 0) < 0 {
                Errno::result(libc::setpriority(libc::PRIO_PROCESS, 0, 0)).context(doing)?;
            }
        }
        Ok(())
    }

    /// Lowers the resource limits of this process to the bounds.
    pub fn apply_limits(&self) -> Result<()> {
        for (resource, most) in &self.hard {
            let doing = || format!("limiting {resource:?} to {most}");
            let (soft, hard) = getrlimit(*resource).with_context(doing)?;
            if *most < hard {
                setrlimit(*resource, soft.min(*most), *most).with_context(doing)?;
            }
        }
        Ok(())
    }
}

/// Parses the hard limits in `/proc/PID/limits`, without those that are `unlimited`.
fn parse(text: &str) -> Vec<(Resource, u64)> {
    let of = |line: &str| {
        let (name, values) = line.split_at_checked(NAME)?;
        let (_, resource) = LIMITS.iter().find(|(known, _)| *known == name.trim_end())?;
        let hard = values.split_whitespace().nth(1)?.parse().ok()?;
        Some((*resource, hard))
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_kernel_is_known() {
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        let finite = |line: &&str| !line.contains("unlimited            unlimited");
        let lines = own.lines().skip(1).filter(finite);
        let lines: Vec<&str> = lines.filter(|line| !line.contains("unlimited ")).collect();
        let parsed = parse(&own);
        assert!(parsed.len() >= lines.len() && !parsed.is_empty(), "{own}");
        for (resource, hard) in parsed {
            assert_eq!(getrlimit(resource).unwrap().1, hard, "{resource:?}");
        }
        for (name, _) in LIMITS {
            assert!(own.contains(&format!("\n{name:NAME$}")), "{name}");
        }
    }

    #[test]
    fn a_limit_is_its_second_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max realtime priority     0                    7                              \n";
        assert_eq!(parse(text), [(Resource::RLIMIT_RTPRIO, 7)]);
    }
}
