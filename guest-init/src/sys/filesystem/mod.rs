//! Filesystem and partitions of a device, recognized by their first bytes.
//!
//! The host reads images to pass a partition to a container; the guest reads the disk of a virtual machine.

mod partition;

use std::fmt;
use std::io::{Read, Seek, SeekFrom};

pub use partition::{Partition, partitions};

/// Known filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Returns the kernel's driver, which is also the name of its module.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            // The ext4 driver also mounts the older versions (ext4(5)).
            Self::Ext2 | Self::Ext3 | Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Vfat => "vfat",
            Self::Iso9660 => "iso9660",
        }
    }

    /// Returns the mount option for a read-only mount without journal replay, which would write; `None` without a journal.
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

/// Returns the filesystem that begins at `start`; `None` if it is unknown or cannot be read.
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

/// Returns the filesystem of a whole device; `None` if it is unknown or cannot be read.
pub fn probe(device: &mut (impl Read + Seek)) -> Option<FsType> {
    probe_at(device, 0)
}

/// Reads a little-endian number of up to eight bytes.
fn le(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.get(at..at + length).unwrap_or_default();
    bytes
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Distinguishes ext2, ext3 and ext4 by features that the older drivers do not know, as e2fsprogs does.
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

/// Recognizes vfat by plausible parameters: other boot sectors have the same signature.
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

/// Filesystem of a device that is chosen to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Partition; `None` for the whole device.
    pub partition: Option<Partition>,
    /// Filesystem on it.
    pub filesystem: FsType,
}

/// Error in the choice of a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// Neither a filesystem nor partitions.
    #[error("no filesystem that is known, and no partitions")]
    Nothing,
    /// The requested partition does not exist, or has no known filesystem.
    #[error("partition {asked} has no filesystem that is known; there are: {present}")]
    Partition {
        /// Requested number.
        asked: u32,
        /// Partitions and their filesystems.
        present: String,
    },
    /// Not exactly one partition qualifies.
    #[error("say which partition is meant; there are: {present}")]
    Unclear {
        /// Partitions and their filesystems.
        present: String,
    },
}

/// Chooses the filesystem to mount: that of the whole device if it has one, else that of the partition `asked` for, else the only one
/// that is not vfat, which firmware boots from.
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
