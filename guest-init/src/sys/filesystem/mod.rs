//! Which filesystem is on a device, and which partitions, read from their first bytes.
//!
//! Host and guest read images alike: the host where it hands a partition to a container, the guest where a virtual
//! machine has the whole disk.

mod partition;

use std::fmt;
use std::io::{Read, Seek, SeekFrom};

pub use partition::{Partition, partitions};

/// A filesystem that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FsType {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    Squashfs,
    Erofs,
    Vfat,
    Iso9660,
}

impl FsType {
    /// The kernel's driver for it, which is also the name of its module.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            // ext4(5): it mounts the older ones, too.
            Self::Ext2 | Self::Ext3 | Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Vfat => "vfat",
            Self::Iso9660 => "iso9660",
        }
    }

    /// The option to mount it read-only without replaying its journal, which would write, if it has one.
    #[must_use]
    pub fn without_journal(self) -> Option<&'static str> {
        match self {
            Self::Ext3 | Self::Ext4 => Some("noload"),
            Self::Xfs => Some("norecovery"),
            Self::Btrfs => Some("rescue=nologreplay"),
            Self::Ext2 | Self::Squashfs | Self::Erofs | Self::Vfat | Self::Iso9660 => None,
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4
            | Self::Xfs
            | Self::Btrfs
            | Self::Squashfs
            | Self::Erofs
            | Self::Vfat
            | Self::Iso9660 => self.driver(),
        })
    }
}

/// The filesystem that begins at `start`. What cannot be read is none.
pub fn probe_at(device: &mut (impl Read + Seek), start: u64) -> Option<FsType> {
    let mut at = |offset: u64| {
        let mut bytes = [0; 512];
        device
            .seek(SeekFrom::Start(start.checked_add(offset)?))
            .ok()?;
        device.read_exact(&mut bytes).ok()?;
        Some(bytes)
    };
    let first = at(0)?;
    if first.starts_with(b"XFSB") {
        return Some(FsType::Xfs);
    }
    if first.starts_with(b"hsqs") && le(&first, 28, 2) == 4 {
        return Some(FsType::Squashfs);
    }
    if let Some(block) = at(1024) {
        if le(&block, 56, 2) == 0xEF53
            && let Some(found) = ext(&block)
        {
            return Some(found);
        }
        if le(&block, 0, 4) == 0xE0F5_E1E2 {
            return Some(FsType::Erofs);
        }
    }
    if at(0x1_0000).is_some_and(|block| &block[64..72] == b"_BHRfS_M") {
        return Some(FsType::Btrfs);
    }
    if at(0x8000).is_some_and(|block| &block[1..6] == b"CD001") {
        return Some(FsType::Iso9660);
    }
    is_vfat(&first).then_some(FsType::Vfat)
}

/// The filesystem of a whole device. What cannot be read is none.
pub fn probe(device: &mut (impl Read + Seek)) -> Option<FsType> {
    probe_at(device, 0)
}

/// A number of up to eight bytes, the lowest first.
fn le(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.get(at..at + length).unwrap_or_default();
    bytes
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Told apart by features that the older drivers do not know, as e2fsprogs does.
fn ext(superblock: &[u8]) -> Option<FsType> {
    const HAS_JOURNAL: u64 = 0x4;
    /// The device holds the journal of another one.
    const JOURNAL_DEVICE: u64 = 0x8;
    /// Compression, types in directories, recovery needed, meta block groups.
    const OLD_INCOMPATIBLE: u64 = 0x17;
    /// Sparse superblocks, large files, B-trees.
    const OLD_READ_ONLY: u64 = 0x7;
    let [compatible, incompatible, read_only] = [92, 96, 100].map(|at| le(superblock, at, 4));
    if incompatible & JOURNAL_DEVICE != 0 {
        return None;
    }
    Some(
        if incompatible & !OLD_INCOMPATIBLE != 0 || read_only & !OLD_READ_ONLY != 0 {
            FsType::Ext4
        } else if compatible & HAS_JOURNAL != 0 {
            FsType::Ext3
        } else {
            FsType::Ext2
        },
    )
}

/// A boot sector says little; a plausible block of parameters tells it from code and a table of partitions.
fn is_vfat(sector: &[u8]) -> bool {
    let sector_size = le(sector, 11, 2);
    le(sector, 510, 2) == 0xAA55
        && matches!(sector[0], 0xEB | 0xE9)
        && (512..=4096).contains(&sector_size)
        && sector_size.is_power_of_two()
        && sector[13].is_power_of_two()
        && le(sector, 14, 2) != 0
        && matches!(sector[16], 1 | 2)
        && (sector[21] == 0xF0 || sector[21] >= 0xF8)
}

/// What of a device is to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The partition; none for the whole device.
    pub partition: Option<Partition>,
    /// What is on it.
    pub filesystem: FsType,
}

/// Why nothing of a device can be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// Neither a filesystem nor partitions.
    #[error("no filesystem that is known, and no partitions")]
    Nothing,
    /// The partition that was asked for is not there, or has no filesystem that is known.
    #[error("partition {asked} has no filesystem that is known; there are: {present}")]
    Partition {
        /// Its number.
        asked: u32,
        /// The partitions and what is on them.
        present: String,
    },
    /// Several could be meant, or none.
    #[error("say which partition is meant; there are: {present}")]
    Unclear {
        /// The partitions and what is on them.
        present: String,
    },
}

/// Chooses what to mount: the whole device if it has a filesystem; else the partition `asked` for; else the only one
/// with a filesystem that is not vfat, which is what firmware boots from.
///
/// # Errors
/// If that leaves nothing, or a choice.
pub fn choose(device: &mut (impl Read + Seek), asked: Option<u32>) -> Result<Chosen, ChooseError> {
    if let Some(filesystem) = probe(device) {
        let partition = None;
        return Ok(Chosen {
            partition,
            filesystem,
        });
    }
    let found: Vec<(Partition, Option<FsType>)> = partitions(device)
        .into_iter()
        .map(|partition| (partition, probe_at(device, partition.start)))
        .collect();
    let known = found.iter().filter_map(|(partition, filesystem)| {
        Some(Chosen {
            partition: Some(*partition),
            filesystem: (*filesystem)?,
        })
    });
    let numbered = |asked| move |chosen: &Chosen| chosen.partition.map(|p| p.number) == Some(asked);
    let candidates: Vec<Chosen> = match asked {
        Some(asked) => known.filter(numbered(asked)).collect(),
        None => known
            .filter(|chosen| chosen.filesystem != FsType::Vfat)
            .collect(),
    };
    let present = || {
        let describe = |(partition, filesystem): &(Partition, Option<FsType>)| match filesystem {
            Some(filesystem) => format!("{} ({filesystem})", partition.number),
            None => format!("{} (unknown)", partition.number),
        };
        found.iter().map(describe).collect::<Vec<_>>().join(", ")
    };
    match (candidates.as_slice(), asked) {
        ([one], _) => Ok(*one),
        _ if found.is_empty() => Err(ChooseError::Nothing),
        (_, Some(asked)) => Err(ChooseError::Partition {
            asked,
            present: present(),
        }),
        (_, None) => Err(ChooseError::Unclear { present: present() }),
    }
}

#[cfg(test)]
mod tests;
