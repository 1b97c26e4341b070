//! Who started the sandbox, and waits for word of it.
//!
//! A sandbox that lives by itself finds its config in the staging root. One that was started for a command has a channel to
//! whoever wants it: the config comes first on it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::link::Link;
use crate::channel::wire::{CHANNEL_FD, Exit, Frame, Milestone};
use crate::config::{Command, GuestConfig, VERSION};
use crate::{console_log, machine, process, session};

/// Where the host puts the config of a sandbox that lives by itself, in the staging root.
const CONFIG_PATH: &str = "/guest.json";

/// Whoever started the sandbox.
#[derive(Debug)]
pub enum Caller {
    /// It does not wait.
    Absent,
    /// It is at the other end of a channel.
    There {
        /// The channel.
        link: Link,
        /// Its standard streams that the command shares.
        inherited: Vec<OwnedFd>,
    },
}

impl Caller {
    /// Finds it in a container. To be asked once, before anything is opened.
    ///
    /// libvirt hands files down from number 3 on and closes all others, but does not say how many there are.
    pub fn of_container() -> Self {
        if Path::new(CONFIG_PATH).exists() {
            return Self::Absent;
        }
        let mut files = (CHANNEL_FD..).map_while(process::handed_down);
        match files.next() {
            Some(channel) => Self::There {
                link: Link::new(channel),
                inherited: files.collect(),
            },
            None => Self::Absent,
        }
    }

    /// Finds it in a virtual machine, and waits until it is there.
    pub fn of_machine() -> Result<Self> {
        if Path::new(CONFIG_PATH).exists() {
            return Ok(Self::Absent);
        }
        Ok(Self::There {
            link: Link::new(machine::channel()?),
            inherited: vec![],
        })
    }

    /// What it wants.
    pub fn config(&mut self) -> Result<GuestConfig> {
        let (text, place) = match self {
            Self::Absent => {
                let text =
                    fs::read(CONFIG_PATH).with_context(|| format!("reading '{CONFIG_PATH}'"))?;
                (text, CONFIG_PATH)
            }
            Self::There { link, .. } => (receive(link)?, "the channel"),
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

    /// Says that a moment of the boot was reached.
    pub fn reached(&mut self, name: &str) {
        if let Self::There { link, .. } = self {
            link.send(&Frame::Milestone(Milestone::now(name)));
            // A caller that is gone shows itself when its command is to start.
            let _ = link.flush();
        }
    }

    /// Tells it what was said on the console so far.
    pub fn pass_on_log(&mut self) {
        if let Self::There { link, .. } = self {
            for line in console_log::take() {
                link.send(&Frame::Log(line.into_bytes()));
            }
        }
    }

    /// Runs the command it waits for, to its end.
    ///
    /// `settle` is done when nothing of it runs any more, and before the caller knows.
    pub fn run(&mut self, command: &Command, settle: impl FnOnce()) -> Result<()> {
        let Self::There { link, inherited } = self else {
            bail!("there is a command, but nobody waits for it");
        };
        let exit = session::run(command, std::mem::take(inherited), link);
        settle();
        session::tell(link, &exit);
        Ok(())
    }

    /// Tells it that the sandbox cannot be made.
    pub fn fail(&mut self, error: &anyhow::Error) {
        if let Self::There { link, .. } = self {
            let exit = Exit::Failed {
                reason: format!("{error:#}"),
            };
            session::tell(link, &exit);
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
