//! Hypervisor of libvirt, through the `virt` crate.
//!
//! `unsafe` is needed for the calls that the crate does not wrap.
#![allow(unsafe_code)]

mod connect;
mod limit;

use std::ffi::CString;
use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;

use virt::connect::Connect;
use virt::domain::{Domain, DomainState as State};
use virt::error::{Error as VirtError, ErrorNumber};
use virt::network::Network;

use crate::error::{Error, Result};
use crate::hypervisor::parse::{self, hint};
use crate::hypervisor::{DomainState, Hypervisor, Limit, Subnet, Usage};

/// Connection to a libvirt daemon, closed on drop. Do not hold one over a long wait.
#[derive(Debug)]
pub struct Libvirt {
    connection: Connect,
    uri: String,
    /// Flags for a domain without a definition, which is to end with the connection.
    start_flags: u32,
}

impl Libvirt {
    /// Connects to the daemon at `uri`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) if libvirt has no driver for it on this host. If no daemon
    /// answers, the error says how to start one.
    pub fn open(uri: &str) -> Result<Self> {
        // libvirt prints every error to stderr by default; our errors carry its text.
        virt::error::clear_error_callback();
        let connection = connect::connect(uri)?;
        Ok(Self {
            connection,
            uri: uri.to_owned(),
            start_flags: virt::sys::VIR_DOMAIN_START_AUTODESTROY,
        })
    }

    /// Starts a driver in this process, with a thread for its event loop.
    pub fn open_embedded(uri: &str) -> Result<Self> {
        virt::error::clear_error_callback();
        // Before any connection: a driver registers its events with the loop that exists when it starts.
        virt::event::event_register_default_impl()
            .map_err(|error| failed(format_args!("starting '{uri}'"), &error))?;
        thread::spawn(|| while virt::event::event_run_default_impl().is_ok() {});
        Ok(Self {
            // The embedded driver has no autodestroy.
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
            let others = list(known.iter().filter_map(|network| network.name().ok()));
            Error::not_found(format!(
                "libvirt has no network '{name}' ({others}); choose one with -N dhcp,source=NAME, or -N none"
            ))
        })
    }

    fn network_xml(&self, name: &str) -> Result<String> {
        let xml = self.network(name)?.xml_desc(0);
        xml.map_err(|error| failed(format_args!("reading network '{name}'"), &error))
    }

    fn must_find(&self, name: &str) -> Result<Domain> {
        self.find(name)?.ok_or_else(|| {
            Error::not_found(format!("libvirt at '{}' has no domain '{name}'", self.uri))
        })
    }
}

/// Returns what libvirt has instead of a name that it does not know.
fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    match names.as_slice() {
        [] => "it has none at all".to_owned(),
        names => format!("it has {}", names.join(", ")),
    }
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
        // SAFETY: the connection lives as long as `self`, the text ends with a zero, and the array has `count` descriptors,
        // which stay open while they are borrowed.
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
        // SAFETY: libvirt returned the domain to us alone.
        drop(unsafe { Domain::from_ptr(domain) });
        Ok(())
    }

    fn destroy(&self, name: &str) -> Result<()> {
        let Some(domain) = self.find(name)? else {
            return Ok(());
        };
        match domain.destroy() {
            // The domain may have ended by itself in the meantime.
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
                format_args!("reading the identity of '{name}'"),
                &error,
            )),
            Ok(_) => self.destroy(name),
        }
    }

    fn freeze(&self, name: &str) -> Result<()> {
        let frozen = self.must_find(name)?.suspend();
        frozen.map_err(|error| failed(format_args!("freezing domain '{name}'"), &error))
    }

    fn thaw(&self, name: &str) -> Result<()> {
        let Some(domain) = self.find(name)? else {
            return Ok(());
        };
        match domain.resume() {
            // It runs, or has ended.
            Err(error) if !is(&error, ErrorNumber::OperationInvalid) => {
                Err(failed(format_args!("thawing domain '{name}'"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn limit(&self, name: &str, limit: &Limit) -> Result<()> {
        let domain = self.must_find(name)?;
        limit::apply(&domain, name, limit)
    }

    fn usage(&self, name: &str) -> Result<Usage> {
        let domain = self.must_find(name)?;
        let failed = |error| {
            failed(
                format_args!("reading the resource usage of '{name}'"),
                &error,
            )
        };
        let info = domain.info().map_err(failed)?;
        let limit = domain.memory_parameters(virt::sys::VIR_DOMAIN_AFFECT_LIVE);
        // A container's devices together have an empty name.
        let io = domain.block_stats("").ok();
        let io = io.and_then(|io| {
            let bytes = |number: i64| u64::try_from(number).ok();
            Some((bytes(io.rd_bytes)?, bytes(io.wr_bytes)?))
        });
        let is_machine = self.uri.starts_with("qemu");
        let (memory, most_memory) = match is_machine.then(|| domain.memory_stats(0)) {
            // libvirt reports all that the machine could use, not what the host has given it.
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
            result => result
                .map_err(|error| failed(format_args!("reading the state of '{name}'"), &error))?,
        };
        let is_frozen = state == State::Paused.into();
        let is_active = is_frozen
            || [State::Running, State::Blocked, State::Shutdown]
                .iter()
                .any(|s| state == (*s).into());
        Ok(match domain.id() {
            Some(id) if is_frozen => DomainState::Frozen { id },
            Some(id) if is_active => DomainState::Running { id },
            Some(_) | None => DomainState::Stopped,
        })
    }

    fn capabilities(&self) -> Result<String> {
        let asked = self.connection.capabilities();
        asked.map_err(|error| failed("reading libvirt's capabilities", &error))
    }

    fn is_network_active(&self, name: &str) -> Result<bool> {
        self.network(name)?
            .is_active()
            .map_err(|error| failed(format_args!("reading network '{name}'"), &error))
    }

    fn check_filter(&self, name: &str) -> Result<()> {
        match self.connection.lookup_nwfilter_by_name(name) {
            // A connection of a user has no filters at all, which the domain's check says better.
            Err(error) if is(&error, ErrorNumber::NoSupport) => Ok(()),
            Err(error) if is(&error, ErrorNumber::NoNwfilter) => {
                let known = self.connection.list_all_nw_filters(0).unwrap_or_default();
                let others = list(known.iter().filter_map(|filter| filter.name().ok()));
                Err(Error::not_found(format!(
                    "libvirt has no network filter '{name}' ({others})"
                )))
            }
            Err(error) => Err(failed(
                format_args!("looking up network filter '{name}'"),
                &error,
            )),
            Ok(_) => Ok(()),
        }
    }

    fn leased_range(&self, name: &str) -> Result<Option<RangeInclusive<Ipv4Addr>>> {
        Ok(parse::range(&self.network_xml(name)?))
    }

    fn subnets(&self, name: &str) -> Result<Vec<Subnet>> {
        Ok(parse::subnets(&self.network_xml(name)?))
    }

    fn start_network(&self, name: &str) -> Result<()> {
        let network = self.network(name)?;
        match network.create() {
            // Another process started it first.
            Err(_) if network.is_active().unwrap_or(false) => Ok(()),
            result => {
                result.map_err(|error| failed(format_args!("starting network '{name}'"), &error))
            }
        }
    }
}

/// Keeps a driver in this process from logging warnings to standard error, which belongs to the command, unless the
/// environment configures libvirt's log. libvirt reads the environment once, so call this first.
pub fn silence() {
    let variables = [
        "LIBVIRT_DEBUG",
        "LIBVIRT_LOG_OUTPUTS",
        "LIBVIRT_LOG_FILTERS",
    ];
    let is_configured = variables
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if !is_configured && threads == 1 {
        // SAFETY: this is the only thread, so nobody reads the environment at the same time.
        unsafe { std::env::set_var("LIBVIRT_DEBUG", ERRORS) };
    }
}

/// Value of `LIBVIRT_DEBUG` for errors only.
const ERRORS: &str = "4";

/// Returns the resident memory of a virtual machine on the host, in KiB.
fn resident(stats: &[virt::domain::MemoryStat]) -> Option<u64> {
    let mut stats = stats.iter();
    let found = stats.find(|stat| stat.tag == virt::sys::VIR_DOMAIN_MEMORY_STAT_RSS);
    found.map(|stat| stat.val)
}

/// Version of libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First part, which grows every year.
    pub major: u32,
    /// Second part.
    pub minor: u32,
    /// Third part: corrections.
    pub release: u32,
}

impl Display for Version {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// Returns the version of the linked libvirt; its daemon is of the same package.
pub fn library_version() -> Result<Version> {
    let mut version: std::os::raw::c_ulong = 0;
    let none = std::ptr::null;
    // SAFETY: libvirt writes one number, and accepts null for the others.
    let result =
        unsafe { virt::sys::virGetVersion(&raw mut version, none(), std::ptr::null_mut()) };
    if result < 0 {
        return Err(failed(
            "asking for the version of libvirt",
            &VirtError::last_error(),
        ));
    }
    // The version is major * 1,000,000 + minor * 1,000 + release.
    let version = u32::try_from(version).unwrap_or(u32::MAX);
    Ok(Version {
        major: version / 1_000_000,
        minor: version / 1_000 % 1_000,
        release: version % 1_000,
    })
}

fn is(error: &VirtError, number: ErrorNumber) -> bool {
    error.code() == number.into()
}

/// Returns the message of a libvirt error on one line.
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
