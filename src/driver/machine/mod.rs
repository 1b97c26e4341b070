//! Sandboxes of services in virtual machines: reached through ports, by asking a process of ours in the guest.

mod assembly;
mod carrier;
mod limits;
mod way;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest_init::ask::{Ask, Execute};
use guest_init::config::{
    File, GuestConfig, Payload, Platform, Root, StaticUnits, Stdio as GuestStdio, Stream, VERSION,
};

use self::assembly::Assembly;
use self::carrier::Tunnelling;
pub(super) use self::limits::limit;
use self::limits::most_cpus;
use self::way::{WAYS, Way};
use crate::config::{Confinement, SandboxConfig};
use crate::console::{Console, Ending, Patience, Signals, Stdio};
use crate::domain::Domain;
use crate::domain::qemu::{self, Authority, Emulation, Machine as Hardware, QemuDomain, Transport};
use crate::domain::template::Template;
use crate::driver::ability::{Abilities, emulation_of_environment, usable_emulation};
use crate::driver::container::SYSTEMD;
use crate::driver::{ANSWER, Activity, Carrier, Contents, Inside, Shared, Site, addresses};
use crate::error::{Error, Result};
use crate::guest;
use crate::guest::kernel::{self, Kernel, KernelRequest};
use crate::host::HostFacts;
use crate::hypervisor::{Hypervisor, Limit};
use crate::label::selinux::{self, Kind};
use crate::sys::atomic;
use crate::sys::command::Captured;
use crate::sys::enter::Entry;
use crate::sys::pidfd::Process;

/// The file in the sandbox's directory that has what the guest says on its console.
const LOG: &str = "guest.log";

/// How long an answer may take from a machine that is up: an emulated one on a busy host is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer may take that many machines are asked for, of which one may hang.
const GLANCE: Duration = Duration::from_secs(2);

/// How long it may take until a command runs.
const START: Duration = Duration::from_secs(60);

pub(super) fn check(config: &SandboxConfig) -> Result<()> {
    let confinement = Confinement::of_service(config);
    confinement.check_machine().map_err(Error::refused)?;
    // What depends on the kernel is checked when the machine is built.
    qemu::check_domain(&Domain::of_service(config), Authority::Root)
}

pub(super) fn build(
    config: &SandboxConfig,
    contents: Contents,
    facts: &HostFacts,
    site: Site<'_>,
    hypervisor: &dyn Hypervisor,
) -> Result<String> {
    let mut domain = Domain::of_service(config);
    let emulation = emulation()?;
    let kind = Kind::Machine {
        emulated: emulation == Emulation::Tcg,
    };
    let label = super::labelled(config, kind, &site, hypervisor)?;
    let kernel = Kernel::find(Path::new("/"), &KernelRequest::default())?;
    let abilities = Abilities::of_host(&kernel, Authority::Root)?;
    let mut assembly = Assembly::new(config, facts, &abilities)?;
    let has_balloon = kernel.has("virtio_balloon")?;
    assembly
        .features
        .extend(has_balloon.then_some(kernel::Feature::Balloon));
    domain.disks.extend(assembly.tree.take());
    let boot = kernel::prepare(
        Path::new(kernel::CACHE),
        &kernel,
        &assembly.features,
        &guest::find_init()?,
    )?;
    let mut files = contents.files;
    files.extend((emulation == Emulation::Tcg).then(patient_systemd));
    let guest = GuestConfig {
        version: VERSION,
        name: config.name.to_string(),
        hostname: config.hostname.clone(),
        debug: guest::is_debugged(),
        platform: Platform::Machine,
        idmap: None,
        // The kernel is its own.
        confinement: guest_init::config::Confinement::default(),
        staged: assembly.staged,
        root: Root::Empty,
        mounts: assembly.mounts,
        user_mounts: assembly.user_mounts,
        includes: vec![],
        masked: vec![],
        disks: vec![],
        ways: WAYS,
        shell: None,
        files,
        static_units: Some(StaticUnits {
            keep: contents.keep_units,
        }),
        max_pids: Some(config.resources.pids()),
        network: super::nics(config, hypervisor)?,
        payload: Payload::Init {
            command: vec![SYSTEMD.to_owned(), format!("--unit={}", contents.target)],
            environment: vec![],
        },
    };
    let initrd = stage(site.stage, &boot.initrd, &guest)?;
    if let Some(files) = &label.files {
        selinux::label(site.stage, files)?;
    }
    domain.security = label.domain;
    let hardware = Hardware {
        emulation,
        kernel: boot.kernel,
        initrd,
        command_line: kernel::command_line(false, None),
        channels: way::channels(&way::directory(site.stage)),
        console: qemu::Console::Log(site.stage.join(LOG)),
        serial: None,
        shares: assembly.shares,
        ends_itself: false,
        most_cpus: most_cpus(&config.resources),
        has_balloon,
    };
    qemu::check(&domain, &hardware, Authority::Root)?;
    let view = QemuDomain::new(&domain, &hardware, facts);
    Template::QemuDomain.render(&view, Some(site.templates))
}

/// Writes what the machine boots from, with its config in it: so it finds that also when it reboots, and whoever starts the
/// domain.
fn stage(stage: &Path, initrd: &Path, guest: &GuestConfig) -> Result<PathBuf> {
    let ways = way::directory(stage);
    fs::create_dir_all(&ways).map_err(Error::io("creating", &ways))?;
    // Passed through by QEMU, which runs as another user. Its sockets are root's.
    for (path, mode) in [(stage, 0o711), (&ways, 0o711)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, mode).map_err(Error::io("creating", path))?;
    }
    let text = serde_json::to_vec(guest).map_err(Error::step("writing the guest config"))?;
    let mut bytes = fs::read(initrd).map_err(Error::io("reading", initrd))?;
    bytes.extend(kernel::archive_of("guest.json", &text));
    let path = stage.join("initrd");
    atomic::replace(&path, &bytes, 0o644)?;
    Ok(path)
}

fn emulation() -> Result<Emulation> {
    Ok(emulation_of_environment()?.unwrap_or_else(usable_emulation))
}

pub(super) fn boot_time() -> Result<Duration> {
    Ok(Duration::from_secs(match emulation()? {
        Emulation::Kvm => 30,
        Emulation::Tcg => 180,
    }))
}

pub(super) fn needs_image() -> Result<Option<String>> {
    let kernel = Kernel::find(Path::new("/"), &KernelRequest::default())?;
    Abilities::of_host(&kernel, Authority::Root)?.no_owners()
}

pub(super) fn sharing(config: &SandboxConfig, facts: &HostFacts) -> Result<Vec<Shared>> {
    let kernel = Kernel::find(Path::new("/"), &KernelRequest::default())?;
    let abilities = Abilities::of_host(&kernel, Authority::Root)?;
    let assembly = Assembly::new(config, facts, &abilities)?;
    let staged = assembly.staged.iter();
    let is_read_only = staged.map(|staged| match staged {
        guest_init::config::Staged::Share { read_only, .. }
        | guest_init::config::Staged::Image { read_only, .. } => *read_only,
    });
    let shared = |(share, read_only): (qemu::Share, bool)| Shared {
        source: share.source,
        read_only,
        how: match (share.transport, read_only) {
            (Transport::Plan9 { .. }, true) => {
                "9p, owners as on the host; read by QEMU as the user that libvirt runs it as, which refuses to write"
            }
            (Transport::Plan9 { .. }, false) => {
                "9p, owners as on the host; written by QEMU as the user that libvirt runs it as"
            }
            (Transport::Virtiofs { .. }, true) => {
                "virtiofs, owners as on the host; the machine's kernel refuses to write, and nothing of the host"
            }
            (Transport::Virtiofs { .. }, false) => {
                "virtiofs, owners as on the host; written by a virtiofsd of root's"
            }
        },
    };
    let shares = assembly.shares.into_iter().zip(is_read_only).map(shared);
    let image = config.image_file().map(|source| Shared {
        source,
        read_only: false,
        how: "virtio disk, owners in its filesystem; mounted by the machine's kernel, and by nothing of the host meanwhile",
    });
    Ok(shares.chain(image).collect())
}

/// In an emulated machine all takes several times as long: units that say nothing of it get more time than systemd gives them.
fn patient_systemd() -> File {
    File {
        path: "/run/systemd/system.conf.d/10-emulated.conf".into(),
        mode: 0o644,
        content: "[Manager]\nDefaultTimeoutStartSec=300s\nDefaultDeviceTimeoutSec=300s\n"
            .to_owned(),
    }
}

/// A virtual machine that runs.
#[derive(Debug)]
pub(super) struct Machine {
    ways: PathBuf,
    /// QEMU; none if it has ended.
    process: Option<Process>,
    /// The way that was used last.
    way: RefCell<Option<Way>>,
}

impl Machine {
    /// The one whose directory is `stage`.
    pub(super) fn new(stage: &Path) -> Self {
        Self::at(way::directory(stage))
    }

    /// The one whose sockets are in `ways`.
    fn at(ways: PathBuf) -> Self {
        Self {
            process: way::process(&ways),
            ways,
            way: RefCell::new(None),
        }
    }

    /// Asks on a way that is attached; one that fails is not used again.
    fn ask(&self, ask: &Ask, patience: Duration) -> Result<Captured> {
        let captured = self.ask_within(ask, patience, ANSWER)?;
        captured.ok_or_else(|| Error::refused("the virtual machine does not answer"))
    }

    /// The same, but `None` where the end is not reached within `limit`: what is asked is given up then.
    fn ask_within(
        &self,
        ask: &Ask,
        patience: Duration,
        limit: Duration,
    ) -> Result<Option<Captured>> {
        let mut way = self.attached(patience)?;
        let captured = way.capture(ask, Instant::now() + limit)?;
        if captured.is_some() {
            *self.way.borrow_mut() = Some(way);
        }
        Ok(captured)
    }

    /// The way that was used last, or another one, attached.
    fn attached(&self, patience: Duration) -> Result<Way> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let kept = self.way.borrow_mut().take();
            let taken = match kept {
                Some(way) => Some(way),
                None => Way::take(&self.ways)?,
            };
            match taken {
                Some(mut way) => {
                    if way.attach(left.min(Duration::from_millis(100)))? {
                        return Ok(way);
                    }
                    if way.is_stale() {
                        way.give_up();
                    } else {
                        *self.way.borrow_mut() = Some(way);
                    }
                }
                None => thread::sleep(Duration::from_millis(50)),
            }
            if left.is_zero() {
                return Err(Error::refused(match self.way.borrow().is_some() {
                    true => {
                        "the virtual machine does not answer; it may still be booting, or hang: see what it says on its console"
                    }
                    false => {
                        "all ways into the virtual machine are in use; try again when fewer commands run in it"
                    }
                }));
            }
        }
    }

    fn read(&self, paths: &[&str]) -> Result<Vec<String>> {
        let paths = paths.iter().map(PathBuf::from).collect();
        let read = self.ask(&Ask::Read { paths }, GLANCE)?;
        serde_json::from_str(&read.stdout).map_err(Error::step("reading what the sandbox says"))
    }
}

fn asked(how: &Entry, command: Vec<String>, stdio: GuestStdio) -> Ask {
    Ask::Execute(Execute {
        command,
        user: how.user.clone(),
        directory: how.directory.clone(),
        environment: how.environment.clone(),
        stdio,
    })
}

/// A command of root's whose output is for a program.
fn captured(command: &[&str]) -> Ask {
    let command = command.iter().map(ToString::to_string).collect();
    let how = Entry {
        environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
        ..Entry::default()
    };
    let stdio = GuestStdio::Streams([Stream::None, Stream::Channel, Stream::Channel]);
    asked(&how, command, stdio)
}

impl Inside for Machine {
    fn is_alive(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| !process.wait(Duration::ZERO))
    }

    fn answers(&self) -> bool {
        match self.attached(Duration::from_millis(100)) {
            Ok(way) => {
                *self.way.borrow_mut() = Some(way);
                true
            }
            Err(_) => false,
        }
    }

    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>> {
        self.ask_within(&captured(command), PATIENCE, limit)
    }

    fn execute(&self, how: &Entry, command: &[String]) -> Result<u8> {
        let way = self.attached(PATIENCE)?;
        let signals = Signals::hold()?;
        let stdio = Stdio::of_process(how.terminal, false)?;
        let ask = asked(how, command.to_vec(), stdio.for_guest());
        let (link, _lock) = way.into_asked(&ask)?;
        let patience = Patience {
            start: START,
            run: None,
        };
        let conversation = Console::new(link, stdio, None, &signals, patience)?.converse()?;
        match conversation.ending {
            Ending::Exit(exit) => exit_status(&exit),
            Ending::Interrupted(signal) => Ok(128_u8.saturating_add(signal as u8)),
            Ending::Lost => Err(Error::refused("the sandbox has ended meanwhile")),
            Ending::Escaped | Ending::Silent | Ending::TimedOut => {
                Err(Error::refused("the virtual machine does not answer"))
            }
        }
    }

    fn addresses(&self) -> Vec<String> {
        let tables = self.read(&["/proc/net/fib_trie", "/proc/net/if_inet6"]);
        match tables.as_deref() {
            Ok([v4, v6]) => addresses::of_tables(v4, v6),
            Ok(_) => vec![],
            Err(error) => {
                log::debug!("asking for addresses: {error}");
                vec![]
            }
        }
    }

    fn carrier(&self) -> Option<Box<dyn Carrier>> {
        Some(Box::new(Tunnelling::new(&self.ways)))
    }

    fn activity(&self) -> Result<Activity> {
        let files = [
            "/proc/net/dev",
            "/proc/uptime",
            "/sys/fs/cgroup/init.scope/pids.current",
            "/sys/fs/cgroup/system.slice/pids.current",
            "/sys/fs/cgroup/user.slice/pids.current",
        ];
        let texts = self.read(&files)?;
        let text = |index: usize| texts.get(index).map_or("", String::as_str);
        let (net_received, net_sent) = super::parse_net_dev(text(0));
        let counts = texts.iter().skip(2);
        let counts: Vec<u64> = counts.filter_map(|text| text.trim().parse().ok()).collect();
        Ok(Activity {
            net_received,
            net_sent,
            processes: (!counts.is_empty()).then(|| counts.iter().sum()),
            uptime: super::parse_uptime(text(1)).unwrap_or_default(),
        })
    }

    fn limit_processes(&self, most: u64) -> std::result::Result<(), String> {
        let script = format!("echo {most} > /proc/sys/kernel/threads-max");
        let written = self.capture(&["/bin/sh", "-c", &script]);
        match written {
            Ok(written) if written.success => Ok(()),
            Ok(written) => Err(written.stderr),
            Err(error) => Err(error.to_string()),
        }
    }

    fn adapt(&self, limit: &Limit) -> std::result::Result<(), String> {
        limits::adapt(self, limit)
    }

    fn settle(&self) -> Result<()> {
        self.capture(&["sync"]).map(drop)
    }

    fn wake(&self) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.ask(&Ask::Clock { nanoseconds }, PATIENCE).map(drop)
    }
}

/// A failure of the guest's own is one of ours; a command that cannot be run has said why where there is a standard error.
fn exit_status(exit: &guest_init::wire::Exit) -> Result<u8> {
    use guest_init::wire::Exit;
    match exit {
        Exit::Failed { reason } => Err(Error::refused(reason.clone())),
        Exit::NotRun { reason, .. } => {
            log::error!("{reason}");
            Ok(exit.code())
        }
        Exit::Status { .. } | Exit::Signal { .. } => Ok(exit.code()),
    }
}

#[cfg(test)]
mod tests;
