//! Start of the command of a session: its streams and its identity.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use caps::CapSet;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::stat::{Mode, fchmod, umask};
use nix::unistd::{
    Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, pipe2, setgid, setgroups,
    setsid, setuid,
};

use crate::channel::link::{AtEnd, Sink, Source};
use crate::channel::wire::{Exit, StreamId};
use crate::config::{Command, Directory, Identity, Stdio, Stream, WindowSize};
use crate::process::{self, ExecError, payload};
use crate::session::Group;
use crate::stdio::pty::Pty;
use crate::stdio::terminal::set_window_size;

/// Result of starting a command.
pub enum Started {
    Running(Running),
    /// Not started, for this reason.
    Failed(Exit),
}

/// A running command, and our ends of its streams.
pub struct Running {
    pub pid: Pid,
    pub stdin: Option<Sink>,
    pub outputs: Vec<(StreamId, Source)>,
    pub terminal: Option<OwnedFd>,
}

/// Ends of the streams that the child makes its standard streams.
enum ChildStdio {
    Terminal(Pty),
    Files([OwnedFd; 3]),
}

/// Starts `command` in `group`. `inherited` are streams that it shares with the caller, in the order of their numbers.
pub fn start(command: &Command, group: Group, inherited: Vec<OwnedFd>) -> Result<Started> {
    let (child, mut running) = streams(command, inherited)?;
    // execve(2) closes the pipe: the parent reads nothing if the program runs, else the reason why it does not.
    let (report, failure) = pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
    running.pid = process::spawn(|| {
        let joined = match group {
            Group::Own => Ok(()),
            Group::Payload => payload::join(),
        };
        let exit = joined
            .and_then(|()| exec_command(command, &child))
            .unwrap_or_else(|error| Exit::Failed {
                reason: format!("{error:#}"),
            });
        let text = serde_json::to_vec(&exit).unwrap_or_default();
        // Fails only if PID 1 is gone.
        let _ = File::from(failure.try_clone().unwrap_or(failure)).write_all(&text);
        exit.code()
    })?;
    drop(child);
    let mut text = Vec::new();
    File::from(report)
        .read_to_end(&mut text)
        .context("starting the command")?;
    if text.is_empty() {
        return Ok(Started::Running(running));
    }
    let exit = serde_json::from_slice(&text).context("starting the command")?;
    Ok(Started::Failed(exit))
}

fn streams(command: &Command, inherited: Vec<OwnedFd>) -> Result<(ChildStdio, Running)> {
    let mut running = Running {
        // Set after the fork.
        pid: Pid::from_raw(0),
        stdin: None,
        outputs: Vec::new(),
        terminal: None,
    };
    let child = match &command.stdio {
        Stdio::Terminal(size) => ChildStdio::Terminal(terminal(command, *size, &mut running)?),
        Stdio::Streams(streams) => {
            let mut inherited = inherited.into_iter();
            let mut file = |stream: Stream, channel| match stream {
                Stream::Inherited => inherited
                    .next()
                    .context("a stream of the caller is missing"),
                Stream::Channel => pipe(channel, command, &mut running),
                Stream::None => null(),
            };
            ChildStdio::Files([
                file(streams[0], StreamId::Stdin)?,
                file(streams[1], StreamId::Stdout)?,
                file(streams[2], StreamId::Stderr)?,
            ])
        }
    };
    Ok((child, running))
}

fn terminal(command: &Command, size: WindowSize, running: &mut Running) -> Result<Pty> {
    let pty = Pty::open()?;
    // The group stays `tty`, which write(1) and wall(1) need.
    fchown(&pty.slave, Some(Uid::from_raw(command.identity.uid)), None)
        .context("handing over the terminal")?;
    fchmod(&pty.slave, Mode::from_bits_truncate(0o620)).context("handing over the terminal")?;
    set_window_size(pty.master.as_fd(), size.rows, size.columns)
        .context("setting the window size")?;
    let master = || pty.master.try_clone().context("handing over the terminal");
    running.stdin = Some(Sink::new(
        StreamId::Stdin,
        master()?,
        usize::MAX,
        AtEnd::Type,
    ));
    let output = Source::new(StreamId::Stdout, master()?);
    running.outputs.push((StreamId::Stdout, output));
    running.terminal = Some(master()?);
    Ok(pty)
}

fn null() -> Result<OwnedFd> {
    let options = File::options().read(true).write(true).open("/dev/null");
    Ok(options.context("opening '/dev/null'")?.into())
}

/// Makes a pipe for a stream on the channel and returns the end of the command.
fn pipe(channel: StreamId, command: &Command, running: &mut Running) -> Result<OwnedFd> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
    let (ours, child) = match channel {
        StreamId::Stdin => (write, read),
        StreamId::Stdout | StreamId::Stderr => (read, write),
    };
    // The ends are separate open files: that of the command stays blocking.
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("making a pipe")?;
    // The command may open /dev/stdout.
    let identity = &command.identity;
    fchown(
        &child,
        Some(Uid::from_raw(identity.uid)),
        Some(Gid::from_raw(identity.gid)),
    )
    .context("making a pipe")?;
    match channel {
        StreamId::Stdin => {
            running.stdin = Some(Sink::new(channel, ours, usize::MAX, AtEnd::Close));
        }
        StreamId::Stdout | StreamId::Stderr => {
            running.outputs.push((channel, Source::new(channel, ours)));
        }
    }
    Ok(child)
}

/// Executes the command in this process. Returns only on failure, with the reason.
fn exec_command(command: &Command, child: &ChildStdio) -> Result<Exit> {
    match child {
        ChildStdio::Terminal(pty) => Pty::attach(pty.slave.as_fd())?,
        ChildStdio::Files([stdin, stdout, stderr]) => {
            setsid().context("starting a session")?;
            dup2_stdin(stdin).context("connecting the streams")?;
            dup2_stdout(stdout).context("connecting the streams")?;
            dup2_stderr(stderr).context("connecting the streams")?;
        }
    }
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    become_user(&command.identity)?;
    match &command.directory {
        Directory::Must(path) => {
            chdir(path).with_context(|| format!("entering '{}'", path.display()))?;
        }
        Directory::Try(path) => chdir(path)
            .or_else(|_| chdir("/"))
            .context("entering '/'")?,
    }
    if command.argv.is_empty() {
        bail!("there is no command");
    }
    match process::exec(&command.argv, &command.environment) {
        Ok(never) => match never {},
        Err(ExecError { program, source }) => Ok(Exit::NotRun {
            missing: source == Errno::ENOENT,
            reason: format!("running '{program}': {}", source.desc()),
        }),
    }
}

/// Becomes the user. Without privileges no capability is left and none can be gained: the bounding set is empty, and set-user-ID has
/// no effect after `PR_SET_NO_NEW_PRIVS(2const)`.
fn become_user(identity: &Identity) -> Result<()> {
    if !identity.privileged {
        // 1. First the bounding set: dropping from it takes CAP_SETPCAP, which step 3 drops.
        for capability in caps::all() {
            match caps::drop(None, CapSet::Bounding, capability) {
                Err(error) if caps::has_cap(None, CapSet::Bounding, capability)? => {
                    return Err(error).context(format!("giving up {capability}"));
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
    // 2. The groups before the user: setuid(2) drops the right to change them.
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).context("setting the groups")?;
    setgid(Gid::from_raw(identity.gid)).context("setting the group")?;
    setuid(Uid::from_raw(identity.uid)).context("setting the user")?;
    if !identity.privileged {
        // 3. A root user keeps its capabilities over setuid(2). 4. No later program gains any.
        for set in [
            CapSet::Ambient,
            CapSet::Inheritable,
            CapSet::Effective,
            CapSet::Permitted,
        ] {
            caps::clear(None, set).context("giving up capabilities")?;
        }
        set_no_new_privs().context("giving up new privileges")?;
    }
    Ok(())
}
