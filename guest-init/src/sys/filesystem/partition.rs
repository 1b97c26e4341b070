//! Partition tables: GPT, and the MBR with its chain of logical partitions.

use std::io::{Read, Seek, SeekFrom};

use super::le;

/// Bytes of a sector in an MBR.
const SECTOR: u64 = 512;

/// Most partitions that are read, since a table may be damaged.
const MAX_PARTITIONS: u32 = 256;

/// A part of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Number, as in the kernel, from 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// Returns the partitions of a device, numbered as in the kernel. A table that cannot be read has none.
pub fn partitions(device: &mut (impl Read + Seek)) -> Vec<Partition> {
    let Some(first) = read(device, 0, SECTOR) else {
        return Vec::new();
    };
    let Some(entries) = mbr(&first) else {
        return Vec::new();
    };
    if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        let found = [512, 4096].into_iter().find_map(|size| gpt(device, size));
        return found.unwrap_or_default();
    }
    let mut found = Vec::new();
    let mut logical = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        if entry.is_extended() {
            chain(device, entry.start, &mut logical);
        } else if entry.kind != 0 {
            found.extend(entry.partition(number, 0));
        }
    }
    for (number, (base, entry)) in (5..).zip(logical) {
        found.extend(entry.partition(number, base));
    }
    found
}

/// Type of the MBR entry that covers a GPT.
const PROTECTIVE: u8 = 0xEE;

/// An entry of an MBR, in sectors.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    start: u64,
    size: u64,
}

impl Entry {
    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }

    fn partition(self, number: u32, base: u64) -> Option<Partition> {
        (self.size != 0).then_some(Partition {
            number,
            start: (base + self.start) * SECTOR,
            size: self.size * SECTOR,
        })
    }
}

/// Parses an MBR. A boot sector of a filesystem has the same signature, but other bytes in place of the boot flags.
fn mbr(sector: &[u8]) -> Option<[Entry; 4]> {
    let entries = [446, 462, 478, 494].map(|at| &sector[at..at + 16]);
    let is_one = le(sector, 510, 2) == 0xAA55 && entries.iter().all(|entry| entry[0] & 0x7F == 0);
    is_one.then(|| {
        entries.map(|entry| Entry {
            kind: entry[4],
            start: le(entry, 8, 4),
            size: le(entry, 12, 4),
        })
    })
}

/// Reads logical partitions. Each has a table of its own, which also locates the next table. A partition is located from its own table, a
/// table from the first one.
fn chain(device: &mut (impl Read + Seek), begin: u64, found: &mut Vec<(u64, Entry)>) {
    let mut table = begin;
    for _ in 0..MAX_PARTITIONS {
        let Some(entries) = read(device, table * SECTOR, SECTOR).and_then(|sector| mbr(&sector))
        else {
            return;
        };
        let data = entries.iter().find(|e| e.size != 0 && !e.is_extended());
        found.extend(data.map(|entry| (table, *entry)));
        match entries.iter().find(|e| e.size != 0 && e.is_extended()) {
            Some(next) => table = begin + next.start,
            None => return,
        }
    }
}

fn gpt(device: &mut (impl Read + Seek), sector_size: u64) -> Option<Vec<Partition>> {
    let header = read(device, sector_size, SECTOR)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let table = le(&header, 72, 8).checked_mul(sector_size)?;
    let count = u32::try_from(le(&header, 80, 4)).ok()?.min(MAX_PARTITIONS);
    let length = le(&header, 84, 4);
    if !(128..=4096).contains(&length) {
        return None;
    }
    let entries = read(device, table, u64::from(count) * length)?;
    let found = (1..).zip(entries.chunks_exact(usize::try_from(length).ok()?));
    let found = found.filter_map(|(number, entry)| {
        let (first, last) = (le(entry, 32, 8), le(entry, 40, 8));
        let is_used = entry[..16].iter().any(|byte| *byte != 0);
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        Some(Partition {
            number,
            start: first.checked_mul(sector_size)?,
            size: sectors.checked_mul(sector_size)?,
        })
        .filter(|_| is_used)
    });
    Some(found.collect())
}

fn read(device: &mut (impl Read + Seek), at: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    device.seek(SeekFrom::Start(at)).ok()?;
    device.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
