use std::process::Command;

use super::*;

fn found(image: &[u8], format: &str) -> Option<String> {
    let read = |offset: u64, length: usize| {
        let begin = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(image.len());
        let end = begin.saturating_add(length).min(image.len());
        Ok(image[begin..end].to_vec())
    };
    find_in(&read, format)
        .unwrap()
        .map(|reference| reference.to_string())
}

/// Builds a header with `fields` at their offsets.
fn header(length: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut header = vec![0; length];
    for (at, bytes) in fields {
        header[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

#[test]
fn qcow2_names_a_backing_file() {
    let backing: &[(usize, &[u8])] = &[
        (0, b"QFI\xfb\0\0\0\x03"),
        (8, &512_u64.to_be_bytes()),
        (16, &11_u32.to_be_bytes()),
        (512, b"/etc/shadow"),
    ];
    let image = header(1024, backing);
    for format in ["qcow2", "qcow"] {
        assert_eq!(
            found(&image, format).unwrap(),
            "its backing file '/etc/shadow'"
        );
    }
    let far = header(
        1024,
        &[backing[0], (8, &u64::MAX.to_be_bytes()), backing[2]],
    );
    assert_eq!(found(&far, "qcow2").unwrap(), "its backing file");
    let huge = header(
        1024,
        &[backing[0], backing[1], (16, &[0xff; 4]), backing[3]],
    );
    assert_eq!(
        found(&huge, "qcow2").unwrap(),
        "its backing file '/etc/shadow'"
    );
}

#[test]
fn qcow2_names_a_data_file() {
    let feature: (usize, &[u8]) = (72, &4_u64.to_be_bytes());
    let head: (usize, &[u8]) = (0, b"QFI\xfb\0\0\0\x03");
    let length: (usize, &[u8]) = (100, &104_u32.to_be_bytes());
    let format: (usize, &[u8]) = (104, b"\xe2\x79\x2a\xca\0\0\0\x05qcow2");
    let name: (usize, &[u8]) = (120, b"DATA\0\0\0\x06/v/\x1b[m");
    let image = header(1024, &[head, feature, length, format, name]);
    assert_eq!(
        found(&image, "qcow2").unwrap(),
        "its data file '/v/\\u{1b}[m'"
    );
    // The name may be missing, its offset nonsense, or its length overflow.
    for at in [0_u32, 104, 0xffff_fff0] {
        let image = header(1024, &[head, feature, (100, &at.to_be_bytes())]);
        assert_eq!(found(&image, "qcow2").unwrap(), "its data file");
    }
    let round = (104, &b"\xe2\x79\x2a\xca\xff\xff\xff\xff"[..]);
    let image = header(1024, &[head, feature, length, round]);
    assert_eq!(found(&image, "qcow2").unwrap(), "its data file");
    // In version 2 the same bytes are the length of an extension.
    let image = header(1024, &[(0, b"QFI\xfb\0\0\0\x02"), feature]);
    assert_eq!(found(&image, "qcow2"), None);
}

#[test]
fn qed_names_a_backing_file() {
    let fields: &[(usize, &[u8])] = &[
        (0, b"QED\0"),
        (16, &1_u64.to_le_bytes()),
        (56, &100_u32.to_le_bytes()),
        (60, &5_u32.to_le_bytes()),
        (100, b"a:b,c"),
    ];
    assert_eq!(
        found(&header(512, fields), "qed").unwrap(),
        "its backing file 'a:b,c'"
    );
    let features: (usize, &[u8]) = (16, &6_u64.to_le_bytes());
    assert_eq!(found(&header(512, &[fields[0], features]), "qed"), None);
}

#[test]
fn vmdk_names_extents_and_parents() {
    let text =
        b"# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"/tmp/victim\" 0\n";
    assert_eq!(
        found(text, "vmdk").unwrap(),
        "the file of an extent '/tmp/victim'"
    );
    let described: &[(usize, &[u8])] = &[(0, b"KDMV"), (28, &[1]), (512, text)];
    assert_eq!(
        found(&header(1024, described), "vmdk").unwrap(),
        "the file of an extent '/tmp/victim'"
    );
    // Unknown extents are refused.
    assert_eq!(found(b"anything", "vmdk").unwrap(), "the file of an extent");
    assert_eq!(found(b"", "vmdk").unwrap(), "the file of an extent");
    let own: &[(usize, &[u8])] = &[(0, b"KDMV"), (12, &[8]), (28, &[1]), (512, text)];
    assert_eq!(found(&header(1024, own), "vmdk"), None);
    let hint: (usize, &[u8]) = (700, b"\0parentFileNameHint=\"/etc/shadow\"\n");
    for magic in [&b"KDMV"[..], b"COWD"] {
        let child = header(1024, &[(0, magic), own[1], own[2], hint]);
        assert_eq!(found(&child, "vmdk").unwrap(), "its parent '/etc/shadow'");
    }
}

#[test]
fn other_formats_name_nothing() {
    // A raw image may begin with any bytes.
    let image = header(1024, &[(0, b"QFI\xfb\0\0\0\x03"), (8, &[1; 8])]);
    for format in ["raw", "vdi", "vpc", "bochs", "cloop", "dmg", "parallels"] {
        assert_eq!(found(&image, format), None, "{format}");
    }
    assert!(find_in(&|_, _| Ok(vec![]), "vhdx").is_err());
}

#[test]
fn short_and_random_headers_are_read_to_no_harm() {
    let mut state = 1_u64;
    for length in 0..700 {
        for format in ["qcow2", "qed", "vmdk"] {
            let mut image: Vec<u8> = (0..length)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let magic: &[u8] = match format {
                "vmdk" => b"KDMV",
                _ => b"QFI\xfb\0\0\0\x03",
            };
            for (to, from) in image.iter_mut().zip(magic) {
                *to = *from;
            }
            let _ = found(&image, format);
        }
    }
}

/// Images made by qemu-img are understood, with and without other files.
#[test]
fn images_of_qemu_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let make = |arguments: &[&str]| {
        let mut program = Command::new("qemu-img");
        let output = program.arg("create").args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    let find = |name: &str, format: &str| {
        let image = File::open(path(name)).unwrap();
        find(&image, format).unwrap().map(|found| found.to_string())
    };
    if !make(&["-f", "raw", &path("base"), "1M"]) {
        eprintln!("skipped: images_of_qemu_are_read: no qemu-img");
        return;
    }
    let base = path("base");
    for format in ["qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "parallels"] {
        assert!(make(&["-f", format, &path(format), "1M"]), "{format}");
        assert_eq!(find(format, format), None, "{format}");
    }
    assert!(make(&[
        "-f",
        "qcow2",
        "-o",
        "compat=0.10",
        &path("old"),
        "1M"
    ]));
    assert_eq!(find("old", "qcow2"), None);
    for format in ["qcow2", "qcow", "qed"] {
        let child = path("child");
        assert!(
            make(&["-f", format, "-b", &base, "-F", "raw", &child]),
            "{format}"
        );
        assert_eq!(
            find("child", format).unwrap(),
            format!("its backing file '{base}'")
        );
    }
    let parent = path("vmdk");
    assert!(make(&[
        "-f",
        "vmdk",
        "-b",
        &parent,
        "-F",
        "vmdk",
        &path("c.vmdk")
    ]));
    assert_eq!(
        find("c.vmdk", "vmdk").unwrap(),
        format!("its parent '{parent}'")
    );
    let data = format!("data_file={}", path("data"));
    assert!(make(&["-f", "qcow2", "-o", &data, &path("d.qcow2"), "1M"]));
    assert_eq!(
        find("d.qcow2", "qcow2").unwrap(),
        format!("its data file '{}'", path("data"))
    );
    for kind in [
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ] {
        let option = format!("subformat={kind}");
        let name = format!("{kind}.vmdk");
        assert!(
            make(&["-f", "vmdk", "-o", &option, &path(&name), "1M"]),
            "{kind}"
        );
        let found = find(&name, "vmdk").unwrap();
        assert!(found.starts_with("the file of an extent '"), "{found}");
    }
    for kind in ["monolithicSparse", "streamOptimized"] {
        let option = format!("subformat={kind}");
        assert!(
            make(&["-f", "vmdk", "-o", &option, &path(kind), "1M"]),
            "{kind}"
        );
        assert_eq!(find(kind, "vmdk"), None, "{kind}");
    }
}
