//! libvirt, through the `virt` crate.
//!
//! `unsafe` for the one call that the crate does not wrap.
#![allow(unsafe_code)]

mod limit;

use std::ffi::CString;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::{Domain, DomainState as State};
use virt::error::{Error as VirtError, ErrorNumber};
use virt::network::Network;

use crate::error::{Error, Result};
use crate::hypervisor::parse::{hint, is_hang_up, parse_range, parse_subnets};
use crate::hypervisor::{DomainState, Hypervisor, Limit, Subnet, Usage};

/// A connection to a libvirt daemon. It is closed when this is dropped; long waits should not hold one.
#[derive(Debug)]
pub struct Libvirt {
    connection: Connect,
    uri: String,
    /// What a domain is started with that is to end with the connection.
    start_flags: u32,
}

impl Libvirt {
    /// Connects to `uri`.
    ///
    /// # Errors
    /// Where no daemon answers there; the message says how to start one.
    pub fn open(uri: &str) -> Result<Self> {
        // libvirt prints every error to stderr unless told otherwise; ours carry its text.
        virt::error::clear_error_callback();
        let connection = connect(uri).map_err(|error| Error::Libvirt {
            doing: format!("connecting to libvirt at '{uri}'"),
            reason: format!(
                "{}; is its daemon running? Start it with 'systemctl start libvirtd.socket' (or virtlxcd.socket \
                 and virtnetworkd.socket), without systemd with 'libvirtd -d'",
                text(&error)
            ),
        })?;
        Ok(Self {
            connection,
            uri: uri.to_owned(),
            start_flags: virt::sys::VIR_DOMAIN_START_AUTODESTROY,
        })
    }

    /// Connects to a driver that runs in this process, and gives it a thread to wait for its guests.
    ///
    /// # Errors
    /// Where the driver does not start.
    pub fn open_embedded(uri: &str) -> Result<Self> {
        virt::error::clear_error_callback();
        // Before any connection: what a driver waits for is told to the loop that is there then.
        virt::event::event_register_default_impl()
            .map_err(|error| failed(format_args!("starting '{uri}'"), &error))?;
        thread::spawn(|| while virt::event::event_run_default_impl().is_ok() {});
        Ok(Self {
            // It knows no domains that end with a connection.
            start_flags: virt::sys::VIR_DOMAIN_NONE,
            ..Self::open(uri)?
        })
    }

    fn find(&self, name: &str) -> Result<Option<Domain>> {
        match self.connection.lookup_domain_by_name(name) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(None),
            Err(error) => Err(failed(format_args!("looking up domain '{name}'"), &error)),
        }
    }

    fn network(&self, name: &str) -> Result<Network> {
        self.connection.lookup_network_by_name(name).map_err(|error| {
            if !is(&error, ErrorNumber::NoNetwork) {
                return failed(format_args!("looking up network '{name}'"), &error);
            }
            let known = self.connection.list_all_networks(0).unwrap_or_default();
            let mut names: Vec<String> = known.iter().filter_map(|network| network.name().ok()).collect();
            names.sort();
            let others = match names.as_slice() {
                [] => "there is none at all".to_owned(),
                names => format!("there is {}", names.join(", ")),
            };
            Error::not_found(format!(
                "libvirt has no network '{name}' ({others}); choose one with -N dhcp,source=NAME, or -N none"
            ))
        })
    }

    fn network_xml(&self, name: &str) -> Result<String> {
        let xml = self.network(name)?.xml_desc(0);
        xml.map_err(|error| failed(format_args!("looking at network '{name}'"), &error))
    }

    fn must_find(&self, name: &str) -> Result<Domain> {
        self.find(name)?.ok_or_else(|| {
            Error::not_found(format!("libvirt at '{}' has no domain '{name}'", self.uri))
        })
    }
}

/// Number of times, and pause between them, that a connection is tried again after the daemon has hung up.
const HANG_UPS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Connects to a daemon. A daemon that ends when idle (`--timeout` in its units) may accept a connection just before it
/// exits; its socket then starts it anew.
fn connect(uri: &str) -> Result<Connect, VirtError> {
    for _ in 0..HANG_UPS {
        match Connect::open(Some(uri)) {
            Err(error) if is_hang_up(error.message()) => thread::sleep(PAUSE),
            result => return result,
        }
    }
    Connect::open(Some(uri))
}

impl Hypervisor for Libvirt {
    fn define(&self, xml: &str) -> Result<()> {
        self.connection
            .define_domain_xml(xml)
            .map(drop)
            .map_err(|error| failed("defining the domain", &error))
    }

    fn undefine(&self, name: &str) -> Result<()> {
        let Some(domain) = self.find(name)? else {
            return Ok(());
        };
        match domain.undefine() {
            Err(error) if !is(&error, ErrorNumber::NoDomain) => {
                Err(failed(format_args!("undefining domain '{name}'"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn definition(&self, name: &str) -> Result<Option<String>> {
        let flags = virt::sys::VIR_DOMAIN_XML_INACTIVE | virt::sys::VIR_DOMAIN_XML_SECURE;
        let document = self.find(name)?.map(|domain| domain.xml_desc(flags));
        document
            .transpose()
            .map_err(|error| failed(format_args!("reading domain '{name}'"), &error))
    }

    fn start(&self, name: &str) -> Result<()> {
        let started = self.must_find(name)?.create();
        started.map_err(|error| not_started(format_args!("starting domain '{name}'"), &error))
    }

    fn run(&self, xml: &str, files: &[BorrowedFd<'_>]) -> Result<()> {
        let doing = "starting the sandbox";
        let xml = CString::new(xml).map_err(Error::step(doing))?;
        let mut numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let count = u32::try_from(numbers.len()).map_err(Error::step(doing))?;
        let flags = self.start_flags;
        // SAFETY: the connection lives as long as `self`, the text ends with a zero, and the array has `count` numbers
        // of files that are open for as long as they are borrowed.
        let domain = unsafe {
            let connection = self.connection.as_ptr();
            if numbers.is_empty() {
                virt::sys::virDomainCreateXML(connection, xml.as_ptr(), flags)
            } else {
                virt::sys::virDomainCreateXMLWithFiles(
                    connection,
                    xml.as_ptr(),
                    count,
                    numbers.as_mut_ptr(),
                    flags,
                )
            }
        };
        if domain.is_null() {
            return Err(not_started(doing, &VirtError::last_error()));
        }
        // SAFETY: libvirt gave the domain to us, and nobody else has it.
        drop(unsafe { Domain::from_ptr(domain) });
        Ok(())
    }

    fn destroy(&self, name: &str) -> Result<()> {
        let Some(domain) = self.find(name)? else {
            return Ok(());
        };
        match domain.destroy() {
            // It may have ended by itself in the meantime.
            Err(error)
                if !is(&error, ErrorNumber::OperationInvalid)
                    && !is(&error, ErrorNumber::NoDomain) =>
            {
                Err(failed(format_args!("ending domain '{name}'"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn destroy_own(&self, name: &str, uuid: uuid::Uuid) -> Result<()> {
        let Some(domain) = self.find(name)? else {
            return Ok(());
        };
        match domain.uuid_string() {
            Ok(text) if text != uuid.to_string() => Ok(()),
            Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(()),
            Err(error) => Err(failed(
                format_args!("asking for the identity of '{name}'"),
                &error,
            )),
            Ok(_) => self.destroy(name),
        }
    }

    fn suspend(&self, name: &str) -> Result<()> {
        let suspended = self.must_find(name)?.suspend();
        suspended.map_err(|error| failed(format_args!("freezing domain '{name}'"), &error))
    }

    fn resume(&self, name: &str) -> Result<()> {
        let Some(domain) = self.find(name)? else {
            return Ok(());
        };
        match domain.resume() {
            // It runs, or has ended.
            Err(error) if !is(&error, ErrorNumber::OperationInvalid) => Err(failed(
                format_args!("letting domain '{name}' run on"),
                &error,
            )),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn limit(&self, name: &str, limit: &Limit) -> Result<()> {
        let domain = self.must_find(name)?;
        limit::apply(&domain, name, limit)
    }

    fn usage(&self, name: &str) -> Result<Usage> {
        let domain = self.must_find(name)?;
        let asked = |error| failed(format_args!("asking what '{name}' uses"), &error);
        let info = domain.info().map_err(asked)?;
        let limit = domain.memory_parameters(virt::sys::VIR_DOMAIN_AFFECT_LIVE);
        // A container's devices together have an empty name.
        let io = domain.block_stats("").ok();
        let io = io.and_then(|io| {
            let bytes = |number: i64| u64::try_from(number).ok();
            Some((bytes(io.rd_bytes)?, bytes(io.wr_bytes)?))
        });
        let is_machine = self.uri.starts_with("qemu");
        let (memory, most_memory) = match is_machine.then(|| domain.memory_stats(0)) {
            // It is said to have all that it could use; what the host gives it is another thing.
            Some(Ok(stats)) => (resident(&stats).unwrap_or(info.memory), Some(info.max_mem)),
            Some(Err(_)) | None => (info.memory, limit.ok().and_then(|limit| limit.hard_limit)),
        };
        Ok(Usage {
            cpu: info.cpu_time,
            memory,
            most_memory,
            io,
        })
    }

    fn is_known(&self, uuid: &uuid::Uuid) -> Result<bool> {
        match self.connection.lookup_domain_by_uuid(*uuid) {
            Ok(_) => Ok(true),
            Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(false),
            Err(error) => Err(failed(format_args!("looking up domain {uuid}"), &error)),
        }
    }

    fn state(&self, name: &str) -> Result<DomainState> {
        let Some(domain) = self.find(name)? else {
            return Ok(DomainState::Missing);
        };
        let (state, _) = match domain.state() {
            Err(error) if is(&error, ErrorNumber::NoDomain) => return Ok(DomainState::Missing),
            result => result.map_err(|error| {
                failed(format_args!("asking for the state of '{name}'"), &error)
            })?,
        };
        let is_paused = state == State::Paused.into();
        let is_active = is_paused
            || [State::Running, State::Blocked, State::Shutdown]
                .iter()
                .any(|s| state == (*s).into());
        Ok(match domain.id() {
            Some(id) if is_paused => DomainState::Paused { id },
            Some(id) if is_active => DomainState::Running { id },
            Some(_) | None => DomainState::Stopped,
        })
    }

    fn capabilities(&self) -> Result<String> {
        let asked = self.connection.capabilities();
        asked.map_err(|error| failed("asking what libvirt can do", &error))
    }

    fn is_network_active(&self, name: &str) -> Result<bool> {
        self.network(name)?
            .is_active()
            .map_err(|error| failed(format_args!("looking at network '{name}'"), &error))
    }

    fn leased_range(&self, name: &str) -> Result<Option<RangeInclusive<Ipv4Addr>>> {
        Ok(parse_range(&self.network_xml(name)?))
    }

    fn subnets(&self, name: &str) -> Result<Vec<Subnet>> {
        Ok(parse_subnets(&self.network_xml(name)?))
    }

    fn start_network(&self, name: &str) -> Result<()> {
        let network = self.network(name)?;
        match network.create() {
            // Somebody else was faster.
            Err(_) if network.is_active().unwrap_or(false) => Ok(()),
            result => {
                result.map_err(|error| failed(format_args!("starting network '{name}'"), &error))
            }
        }
    }
}

/// Keeps a driver in this process from writing its warnings to standard error, which is the command's, unless the
/// environment says what is to be written where. libvirt looks at that once, so this comes before all else.
pub fn silence() {
    let variables = [
        "LIBVIRT_DEBUG",
        "LIBVIRT_LOG_OUTPUTS",
        "LIBVIRT_LOG_FILTERS",
    ];
    let is_said = variables
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if !is_said && threads == 1 {
        // SAFETY: no other thread is there to read the environment meanwhile.
        unsafe { std::env::set_var("LIBVIRT_DEBUG", ERRORS) };
    }
}

/// Errors alone, in the numbers of `LIBVIRT_DEBUG`.
const ERRORS: &str = "4";

/// Memory of the host that a virtual machine has, in KiB.
fn resident(stats: &[virt::domain::MemoryStat]) -> Option<u64> {
    let mut stats = stats.iter();
    let found = stats.find(|stat| stat.tag == virt::sys::VIR_DOMAIN_MEMORY_STAT_RSS);
    found.map(|stat| stat.val)
}

/// The major version of the libvirt that is linked; its daemon is of the same package.
///
/// # Errors
/// Where libvirt does not tell.
pub fn library_version() -> Result<u32> {
    let mut version: std::os::raw::c_ulong = 0;
    let none = std::ptr::null;
    // SAFETY: libvirt writes one number, and takes null for what is not asked.
    let result =
        unsafe { virt::sys::virGetVersion(&raw mut version, none(), std::ptr::null_mut()) };
    if result < 0 {
        return Err(failed(
            "asking for the version of libvirt",
            &VirtError::last_error(),
        ));
    }
    // A million for each major version.
    Ok(u32::try_from(version / 1_000_000).unwrap_or(u32::MAX))
}

fn is(error: &VirtError, number: ErrorNumber) -> bool {
    error.code() == number.into()
}

/// libvirt's text on one line.
fn text(error: &VirtError) -> String {
    error
        .message()
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
}

fn failed(doing: impl Display, error: &VirtError) -> Error {
    Error::Libvirt {
        doing: doing.to_string(),
        reason: text(error),
    }
}

fn not_started(doing: impl Display, error: &VirtError) -> Error {
    let mut reason = text(error);
    if let Some(hint) = hint(&reason) {
        reason = format!("{reason} ({hint})");
    }
    Error::Libvirt {
        doing: doing.to_string(),
        reason,
    }
}
