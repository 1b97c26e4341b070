//! An initramfs: a cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace).
//!
//! The archive is not compressed: unpacking takes an emulated CPU longer than reading.

use std::fmt::Write;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Alignment of an entry's name and content.
const ALIGNMENT: usize = 4;

/// An archive that is being written. The same calls make the same bytes.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Inode number of the next entry: the kernel makes hard links of entries with the same.
    entries: u32,
}

impl Archive {
    /// Adds a directory; its parents have to be added before.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with the given permission bits.
    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, FILE | permissions, (0, 0), content);
    }

    /// Adds a character device for root alone.
    pub(super) fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Returns the finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        // The format has 32 bits for a length; a guest with such a file could not be started anyway.
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let [
            owner,
            group,
            links,
            time,
            device_major,
            device_minor,
            checksum,
        ] = [0, 0, 1, 0, 0, 0, 0];
        let fields = [
            self.entries,
            mode,
            owner,
            group,
            links,
            time,
            length,
            device_major,
            device_minor,
            major,
            minor,
            name_length,
            checksum,
        ];
        let mut header = "070701".to_owned();
        for field in fields {
            // Writing to a string does not fail.
            let _ = write!(header, "{field:08X}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        self.entries += 1;
    }

    fn align(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry that was read back.
    #[derive(Debug, PartialEq, Eq)]
    pub(in super::super) struct Entry {
        pub(in super::super) name: String,
        pub(in super::super) mode: u32,
        pub(in super::super) device: (u32, u32),
        pub(in super::super) content: Vec<u8>,
    }

    /// Reads an archive as the kernel does.
    pub(in super::super) fn read(archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut numbers = std::collections::BTreeSet::new();
        let mut at = 0;
        loop {
            let header = std::str::from_utf8(&archive[at..at + 110]).unwrap();
            assert_eq!(&header[..6], "070701");
            let field = |n: usize| u32::from_str_radix(&header[6 + 8 * n..14 + 8 * n], 16).unwrap();
            assert_eq!([2, 3, 4, 5, 7, 8, 12].map(field), [0, 0, 1, 0, 0, 0, 0]);
            let name_end = at + 110 + field(11) as usize;
            let name = std::str::from_utf8(&archive[at + 110..name_end - 1]).unwrap();
            assert_eq!(archive[name_end - 1], 0);
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            at = end.next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(at, archive.len());
                return entries;
            }
            assert!(numbers.insert(field(0)), "a number twice");
            entries.push(Entry {
                name: name.to_owned(),
                mode: field(1),
                device: (field(9), field(10)),
                content: archive[start..end].to_vec(),
            });
        }
    }

    fn archive() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 5, 1);
        for content in ["", "1", "22", "333", "4444"] {
            archive.file(&format!("f{content}"), 0o644, content.as_bytes());
        }
        archive.file("init", 0o755, b"program");
        archive.finish()
    }

    #[test]
    fn an_archive_is_read_back() {
        let entries = read(&archive());
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "dev",
                "dev/console",
                "f",
                "f1",
                "f22",
                "f333",
                "f4444",
                "init"
            ]
        );
        assert_eq!((entries[0].mode, entries[0].device), (0o40755, (0, 0)));
        assert_eq!((entries[1].mode, entries[1].device), (0o20600, (5, 1)));
        assert_eq!(
            (entries[5].mode, &entries[5].content[..]),
            (0o100_644, &b"333"[..])
        );
        assert_eq!(
            (entries[7].mode, &entries[7].content[..]),
            (0o100_755, &b"program"[..])
        );
    }

    #[test]
    fn equal_archives_have_equal_bytes() {
        assert_eq!(archive(), archive());
    }
}
