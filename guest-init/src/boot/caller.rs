//! Caller: the program on the host that started the sandbox.
//!
//! A service sandbox finds its config in the staging root. A sandbox that was started for one command has a channel to its caller,
//! on which the config comes first.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::link::Link;
use crate::channel::wire::{CHANNEL_FD, Exit, Frame, Milestone};
use crate::config::{Command, GuestConfig, VERSION};
use crate::session::Group;
use crate::{console_log, machine, process, session};

/// Config of a service sandbox, in the staging root.
const CONFIG_PATH: &str = "/guest.json";

/// Program on the host that started the sandbox.
#[derive(Debug)]
pub enum Caller {
    /// No caller waits, or this process does not report to it any more.
    Absent,
    /// Waits at the other end of a channel.
    Connected {
        link: Link,
        /// Standard streams of the caller that the command shares.
        inherited: Vec<OwnedFd>,
    },
}

impl Caller {
    /// Finds the caller of a container. To be called once, before any file is opened: libvirt passes files from number 3 on
    /// and closes all others, but does not tell how many there are.
    pub fn of_container() -> Self {
        if Path::new(CONFIG_PATH).exists() {
            return Self::Absent;
        }
        let mut files = (CHANNEL_FD..).map_while(process::inherited_file);
        match files.next() {
            Some(channel) => Self::Connected {
                link: Link::new(channel),
                inherited: files.collect(),
            },
            None => Self::Absent,
        }
    }

    /// Waits until the caller of a virtual machine has opened the channel.
    pub fn of_machine() -> Result<Self> {
        if Path::new(CONFIG_PATH).exists() {
            return Ok(Self::Absent);
        }
        Ok(Self::Connected {
            link: Link::new(machine::channel()?),
            inherited: vec![],
        })
    }

    /// Reads the guest config.
    pub fn config(&mut self) -> Result<GuestConfig> {
        let (text, place) = match self {
            Self::Absent => {
                let text =
                    fs::read(CONFIG_PATH).with_context(|| format!("reading '{CONFIG_PATH}'"))?;
                (text, CONFIG_PATH)
            }
            Self::Connected { link, .. } => (receive(link)?, "the channel"),
        };
        let doing = || format!("reading the guest config from {place}");
        let config: GuestConfig = serde_json::from_slice(&text).with_context(doing)?;
        if config.version != VERSION {
            bail!(
                "{}: it is of version {}, but this init speaks {VERSION}",
                doing(),
                config.version
            );
        }
        Ok(config)
    }

    /// Reports that a moment of the boot was reached.
    pub fn send_milestone(&mut self, name: &str) {
        if let Self::Connected { link, .. } = self {
            link.send(&Frame::Milestone(Milestone::now(name)));
            // A caller that is gone is noticed when its command starts.
            let _ = link.flush();
        }
    }

    /// Sends the log so far.
    pub fn send_log(&mut self) {
        if let Self::Connected { link, .. } = self {
            for line in console_log::take() {
                link.send(&Frame::Log(line.into_bytes()));
            }
        }
    }

    /// Runs the command to its end and reports the exit status. `sync` runs after the last process has ended, and before the
    /// caller knows.
    pub fn run(&mut self, command: &Command, group: Group, sync: impl FnOnce()) -> Result<()> {
        let Self::Connected { link, inherited } = self else {
            bail!("there is a command, but nobody waits for it");
        };
        let exit = session::run(command, group, std::mem::take(inherited), link);
        sync();
        session::send_exit(link, &exit);
        Ok(())
    }

    /// Reports that the sandbox cannot be made.
    pub fn fail(&mut self, error: &anyhow::Error) {
        if let Self::Connected { link, .. } = self {
            let exit = Exit::Failed {
                reason: format!("{error:#}"),
            };
            session::send_exit(link, &exit);
        }
    }
}

fn receive(link: &mut Link) -> Result<Vec<u8>> {
    let doing = "waiting for the guest config on the channel";
    loop {
        match link.next_frame().context(doing)? {
            Some(Frame::Config(text)) => return Ok(text),
            Some(other) => bail!("{doing}: {other:?} came first"),
            None => {}
        }
        let mut polled = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::NONE).context(doing)?;
        if !link.fill().context(doing)? {
            bail!("{doing}: it was closed");
        }
    }
}
