//! Limits of a running domain.

use std::ffi::c_char;
use std::thread::sleep;
use std::time::{Duration, Instant};

use virt::domain::{Domain, MemoryParameters, SchedBandwidth, SchedulerInfo};
use virt::error::{Error as VirtError, ErrorNumber};

use crate::config::resources::IdSet;
use crate::error::{Error, Result};
use crate::hypervisor::Limit;
use crate::hypervisor::libvirt::{failed, is};

/// Time that a guest has to give memory back.
const BALLOON: Duration = Duration::from_secs(30);

type Done = std::result::Result<(), VirtError>;

/// Changes a limit of the running `domain` called `name`.
pub(super) fn apply(domain: &Domain, name: &str, limit: &Limit) -> Result<()> {
    let doing = format!("changing a limit of '{name}'");
    let live = virt::sys::VIR_DOMAIN_AFFECT_LIVE;
    let schedule =
        |info: SchedulerInfo| domain.set_scheduler_parameters_flags(&info, live).map(drop);
    let done = match limit {
        Limit::Memory(kib) => {
            let parameters = MemoryParameters {
                hard_limit: Some(*kib),
                ..MemoryParameters::default()
            };
            domain.set_memory_parameters(parameters, live).map(drop)
        }
        Limit::Balloon(kib) => return set_balloon(domain, &doing, *kib),
        Limit::VirtualCpus(count) => match domain.set_vcpus_flags(*count, live) {
            // libvirt waits some seconds until a guest has released a CPU; the request stands after that, too.
            Err(error) if is(&error, ErrorNumber::OperationTimeout) => Ok(()),
            set => set,
        },
        Limit::Pinning(cpus) => pin(domain, cpus),
        Limit::CpuShares(shares) => schedule(SchedulerInfo {
            cpu_shares: Some(*shares),
            ..SchedulerInfo::default()
        }),
        Limit::CpuQuota { quota, period } => schedule(SchedulerInfo {
            vcpu_bw: SchedBandwidth {
                period: Some(*period),
                // Negative: no limit.
                quota: Some(quota.map_or(-1, u64::cast_signed)),
            },
            ..SchedulerInfo::default()
        }),
        Limit::IoWeight(weight) => set_io_weight(domain, *weight),
    };
    done.map_err(|error| failed(doing, &error))
}

/// Asks the guest for memory, or gives it back, and waits for the guest. A guest that keeps more than asked gets back what it
/// has given: without free memory it would kill its services.
fn set_balloon(domain: &Domain, doing: &str, kib: u64) -> Result<()> {
    let live = virt::sys::VIR_DOMAIN_AFFECT_LIVE;
    let failed = |error| failed(doing, &error);
    let memory = || domain.info().map(|info| info.memory).map_err(failed);
    let set = |kib| domain.set_memory_flags(kib, live).map_err(failed);
    let before = memory()?;
    set(kib)?;
    let begin = Instant::now();
    loop {
        let now = memory()?;
        if now == kib {
            return Ok(());
        }
        if begin.elapsed() >= BALLOON {
            set(before)?;
            return Err(Error::refused(format!(
                "{doing}: its kernel does not do with less than {}M",
                now >> 10
            )));
        }
        sleep(Duration::from_millis(100));
    }
}

fn pin(domain: &Domain, cpus: &IdSet) -> Done {
    let live = virt::sys::VIR_DOMAIN_AFFECT_LIVE;
    let map = cpus.bits();
    for cpu in 0..domain.info()?.nr_virt_cpu {
        domain.pin_vcpu_flags(cpu, &map, live)?;
    }
    domain.pin_emulator(&map, live)
}

/// Sets the weight of block I/O, which the crate does not wrap.
fn set_io_weight(domain: &Domain, weight: u32) -> Done {
    let mut parameter = virt::sys::virTypedParameter {
        type_: virt::sys::VIR_TYPED_PARAM_UINT as i32,
        value: virt::sys::_virTypedParameterValue { ui: weight },
        field: [0; 80],
    };
    for (to, from) in parameter
        .field
        .iter_mut()
        .zip(virt::sys::VIR_DOMAIN_BLKIO_WEIGHT.to_bytes())
    {
        // `c_char` is unsigned on ARM, POWER, RISC-V and s390x.
        *to = *from as c_char;
    }
    // SAFETY: the domain lives as long as `domain`, and there is one parameter, whose name ends with a zero.
    let result = unsafe {
        virt::sys::virDomainSetBlkioParameters(
            domain.as_ptr(),
            &raw mut parameter,
            1,
            virt::sys::VIR_DOMAIN_AFFECT_LIVE,
        )
    };
    if result < 0 {
        return Err(VirtError::last_error());
    }
    Ok(())
}
