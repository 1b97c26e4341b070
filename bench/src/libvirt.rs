//! Plain libvirt: the smallest possible domain, run through its API.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use test_harness::guest::{COMMAND_LINE, DONE};
use virt::connect::Connect;

use crate::bare::Parts;
use crate::memory;
use crate::run::most_of;

/// Time-out of a guest, after which it counts as hung.
const MOST: Duration = Duration::from_secs(180);
/// Time-out of a container: libvirt sometimes misses the end of one that ends while it is being started.
const MOST_CONTAINER: Duration = Duration::from_secs(5);

/// Connection to one of libvirt's drivers.
#[derive(Debug, Clone)]
pub struct Libvirt(Connect);

impl Libvirt {
    pub fn open(uri: &str) -> Result<Self> {
        // Otherwise the bindings print an error for each domain that is gone.
        virt::error::clear_error_callback();
        Ok(Self(
            Connect::open(Some(uri)).with_context(|| format!("connecting to '{uri}'"))?,
        ))
    }

    /// Returns the milliseconds from the creation of a container to its end.
    pub fn container(&self, command: &[&str]) -> Result<f64> {
        let xml = container(command);
        let take = || -> Result<f64> {
            let begin = Instant::now();
            self.run(&xml, MOST_CONTAINER, || {})?;
            Ok(begin.elapsed().as_secs_f64() * 1000.0)
        };
        take().or_else(|_| take())
    }

    /// Returns the peak memory of a container.
    pub fn container_memory(&self, command: &[&str]) -> Result<f64> {
        let before = memory::containers();
        let mut most = 0.0;
        self.run(&container(command), MOST_CONTAINER, || {
            most = f64::max(most, memory::container(&before).unwrap_or(0.0));
        })?;
        most_of(most)
    }

    /// Returns the milliseconds from the creation of a guest to its end.
    pub fn guest(&self, parts: &Parts) -> Result<f64> {
        let begin = Instant::now();
        self.run_guest(parts, "", || {})?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    /// Returns the peak memory of a guest that runs for a second.
    pub fn guest_memory(&self, parts: &Parts) -> Result<f64> {
        let mut most = 0.0;
        self.run_guest(parts, "sleep 1", || {
            most = f64::max(most, memory::guests().unwrap_or(0.0));
        })?;
        most_of(most)
    }

    fn run_guest(&self, parts: &Parts, words: &str, meanwhile: impl FnMut()) -> Result<()> {
        let console = parts.directory.join("serial");
        self.run(&guest(parts, words, &console), MOST, meanwhile)?;
        // A guest that panics also ends.
        let said = fs::read_to_string(&console).context("reading the guest's console")?;
        if !said.contains(DONE) {
            bail!("the guest did not get to its end");
        }
        Ok(())
    }

    /// Runs a domain to its end.
    fn run(&self, xml: &str, most: Duration, mut meanwhile: impl FnMut()) -> Result<()> {
        let begin = Instant::now();
        let domain = self
            .0
            .create_domain_xml(xml, 0)
            .context("creating a domain")?;
        // libvirt returns an error for a transient domain that has ended.
        while domain.is_active().unwrap_or(false) {
            meanwhile();
            if begin.elapsed() > most {
                // Only the reason is of interest.
                let _ = domain.destroy();
                bail!("a domain hangs");
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn container(command: &[&str]) -> String {
    let mut words = String::new();
    for word in &command[1..] {
        words += &format!("<initarg>{word}</initarg>");
    }
    format!(
        "<domain type='lxc'><name>bench</name><memory unit='MiB'>64</memory>\
         <os><type>exe</type><init>{}</init>{words}</os><devices>\
         <filesystem type='mount'><source dir='/'/><target dir='/'/><readonly/></filesystem>\
         <console type='pty'/></devices></domain>",
        command[0]
    )
}

fn guest(parts: &Parts, words: &str, console: &Path) -> String {
    format!(
        "<domain type='qemu'><name>bench</name><memory unit='MiB'>256</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>{COMMAND_LINE} -- {words}</cmdline></os><features><acpi/></features><devices>\
         <controller type='usb' model='none'/><memballoon model='none'/>\
         <serial type='file'><source path='{}'/></serial></devices></domain>",
        parts.kernel.display(),
        parts.initramfs.display(),
        console.display(),
    )
}
