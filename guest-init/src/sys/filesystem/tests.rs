use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// Runs a program that makes filesystems or partitions; false if it is not installed.
fn run(program: &str, arguments: &[&str], input: &str) -> bool {
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIP: no {program}");
        return false;
    };
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    assert!(child.wait().unwrap().success(), "{program} {arguments:?}");
    true
}

fn image(directory: &Path, mebibytes: u64) -> String {
    let path = directory.join("image");
    let _ = fs::remove_file(&path);
    File::create(&path)
        .unwrap()
        .set_len(mebibytes << 20)
        .unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn filesystems_are_recognized() {
    let directory = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path().to_str().unwrap();
    for (program, arguments, size, expected) in [
        ("mkfs.ext2", &["-q", "-F"][..], 8, FsType::Ext2),
        ("mkfs.ext3", &["-q", "-F"], 32, FsType::Ext3),
        ("mkfs.ext4", &["-q", "-F"], 32, FsType::Ext4),
        ("mkfs.ext4", &["-q", "-F", "-b", "1024"], 32, FsType::Ext4),
        ("mkfs.xfs", &["-q"], 512, FsType::Xfs),
        ("mkfs.btrfs", &["-q"], 128, FsType::Btrfs),
        ("mkfs.vfat", &[], 8, FsType::Vfat),
        ("mkfs.vfat", &["-F", "32"], 64, FsType::Vfat),
    ] {
        let path = image(directory.path(), size);
        if run(program, &[arguments, &[&path]].concat(), "") {
            let found = probe(&mut File::open(path).unwrap());
            assert_eq!(found, Some(expected), "{program}");
        }
    }
    for (program, expected) in [
        ("mksquashfs", FsType::Squashfs),
        ("mkfs.erofs", FsType::Erofs),
        ("genisoimage", FsType::Iso9660),
    ] {
        let path = image(directory.path(), 0);
        let arguments: &[&str] = match program {
            "mksquashfs" => &[tree, &path, "-noappend"],
            "genisoimage" => &["-o", &path, tree],
            _ => &[&path, tree],
        };
        if run(program, arguments, "") {
            let found = probe(&mut File::open(path).unwrap());
            assert_eq!(found, Some(expected), "{program}");
        }
    }
}

/// Returns a device with bytes at given offsets.
fn device(size: usize, pieces: &[(usize, &[u8])]) -> Cursor<Vec<u8>> {
    let mut bytes = vec![0; size];
    for (at, piece) in pieces {
        bytes[*at..at + piece.len()].copy_from_slice(piece);
    }
    Cursor::new(bytes)
}

#[test]
fn filesystems_are_recognized_by_their_magic() {
    for (at, magic, expected) in [
        (0, &b"XFSB"[..], Some(FsType::Xfs)),
        (1024, &[0xE2, 0xE1, 0xF5, 0xE0], Some(FsType::Erofs)),
        (1080, &[0x53, 0xEF], Some(FsType::Ext2)),
        (0x8001, b"CD001", Some(FsType::Iso9660)),
        (0x1_0040, b"_BHRfS_M", Some(FsType::Btrfs)),
        (510, &[0x55, 0xAA], None),
        (0, b"LUKS\xba\xbe", None),
    ] {
        let mut device = device(1 << 17, &[(at, magic)]);
        assert_eq!(probe(&mut device), expected, "{magic:?}");
    }
    // The journal of another device.
    let mut journal = device(4096, &[(1080, &[0x53, 0xEF]), (1024 + 96, &[8])]);
    assert_eq!(probe(&mut journal), None);
    assert_eq!(probe(&mut Cursor::new(b"hsqs".to_vec())), None);
}

fn numbers(found: &[Partition]) -> Vec<(u32, u64, u64)> {
    let in_mebibytes = |p: &Partition| (p.number, p.start >> 20, p.size >> 20);
    found.iter().map(in_mebibytes).collect()
}

#[test]
fn partitions_are_numbered_as_the_kernel_does() {
    let directory = tempfile::tempdir().unwrap();
    let gpt = "label: gpt\n1: start=2048, size=2048\n3: start=8192, size=4096\n";
    let mbr = "label: dos\n1: start=2048, size=2048\n2: start=4096, size=61440, type=5\n\
               5: start=6144, size=2048\n6: start=10240, size=4096\n";
    for (script, expected) in [
        (gpt, &[(1, 1, 1), (3, 4, 2)][..]),
        (mbr, &[(1, 1, 1), (5, 3, 1), (6, 5, 2)]),
    ] {
        let path = image(directory.path(), 64);
        if run("sfdisk", &["-q", &path], script) {
            let found = partitions(&mut File::open(path).unwrap());
            assert_eq!(numbers(&found), expected);
        }
    }
}

/// A GPT for sectors of this size with partitions given by their first and last sector.
fn gpt(sector: usize, entries: &[(u32, u64, u64)]) -> Cursor<Vec<u8>> {
    let mut table = vec![0; 128 * 128];
    for (number, first, last) in entries {
        let at = (*number as usize - 1) * 128;
        table[at] = 1;
        table[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        table[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
    }
    let header = [(72, 2_u8), (80, 128), (84, 128)];
    let mut pieces: Vec<(usize, &[u8])> = vec![
        (450, &[0xEE]),
        (510, &[0x55, 0xAA]),
        (sector, b"EFI PART"),
        (2 * sector, &table),
    ];
    let numbers: Vec<(usize, [u8; 1])> =
        (header.iter().map(|(at, value)| (sector + at, [*value]))).collect();
    pieces.extend(numbers.iter().map(|(at, value)| (*at, value.as_slice())));
    device(4 << 20, &pieces)
}

#[test]
fn a_gpt_may_have_large_sectors() {
    let found = partitions(&mut gpt(4096, &[(2, 256, 511)]));
    assert_eq!(numbers(&found), [(2, 1, 1)]);
}

#[test]
fn an_ambiguous_choice_names_the_partitions() {
    let with = |filesystems: &[(u64, &[u8])]| {
        let entries: Vec<_> = (1..=filesystems.len() as u32)
            .map(|n| (n, u64::from(n) * 2048, u64::from(n) * 2048 + 1))
            .collect();
        let mut disk = gpt(512, &entries);
        for (number, (at, magic)) in (1..).zip(filesystems) {
            let at = ((number << 20) + at) as usize;
            disk.get_mut()[at..at + magic.len()].copy_from_slice(magic);
        }
        disk
    };
    let xfs: (u64, &[u8]) = (0, b"XFSB");
    let ext: (u64, &[u8]) = (1080, &[0x53, 0xEF]);
    let none: (u64, &[u8]) = (0, b"");
    let number = |chosen: Result<Chosen, ChooseError>| {
        chosen
            .map(|chosen| chosen.partition.map(|partition| partition.number))
            .map_err(|error| error.to_string())
    };
    assert_eq!(number(choose(&mut with(&[none, ext]), None)), Ok(Some(2)));
    assert_eq!(number(choose(&mut with(&[xfs, ext]), Some(1))), Ok(Some(1)));
    assert_eq!(
        number(choose(&mut with(&[xfs, ext, none]), None)).unwrap_err(),
        "say which partition is meant; there are: 1 (xfs), 2 (ext2), 3 (unknown)"
    );
    assert_eq!(
        number(choose(&mut with(&[xfs]), Some(2))).unwrap_err(),
        "partition 2 has no filesystem that is known; there are: 1 (xfs)"
    );
    let mut whole = device(4096, &[(0, b"XFSB")]);
    assert_eq!(number(choose(&mut whole, Some(3))), Ok(None));
    let error = choose(&mut device(4096, &[]), None).unwrap_err();
    assert_eq!(error, ChooseError::Nothing);
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(seed in proptest::collection::vec(any::<u8>(), 2048)) {
        let mut bytes = seed;
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        bytes[512..520].copy_from_slice(b"EFI PART");
        for at in [446, 462, 478, 494] {
            bytes[at] &= 0x80;
        }
        let _ = choose(&mut Cursor::new(bytes.clone()), Some(1));
        bytes[450] = 0xEE;
        let _ = choose(&mut Cursor::new(bytes), None);
    }
}
