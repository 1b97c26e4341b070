//! Images of kernels, unpacked for QEMU.
//!
//! A bzImage unpacks itself, which takes an emulated CPU longer than the rest of the boot; QEMU starts the ELF in it directly, if that
//! has a PVH entry point. On other architectures QEMU starts what EFI or the boot loader would unpack, and knows only some formats.

use std::io;

use super::decompress::{self, Compression};

/// Type of the ELF note with the entry point for QEMU.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// First boot protocol with the place of the payload.
const PROTOCOL: u16 = 0x0208;
const SECTOR: usize = 512;

/// Returns the image in the form that QEMU starts fastest.
///
/// # Errors
/// Where an image that has to be unpacked cannot be.
pub(super) fn bootable(image: Vec<u8>) -> io::Result<Vec<u8>> {
    match (zboot_payload(&image), vmlinux(&image)) {
        (Some(payload), _) => Compression::of(payload)
            .ok_or_else(|| {
                let format = image.get(24..56).unwrap_or_default();
                let format = format.split(|byte| *byte == 0).next().unwrap_or_default();
                let format = format.escape_ascii();
                io::Error::other(format!("nothing here can unpack '{format}'"))
            })?
            .unpack(payload),
        (None, Some(elf)) => Ok(elf),
        (None, None) => decompress::unpacked(image),
    }
}

/// Returns the packed kernel in a program of EFI that unpacks it (Linux, drivers/firmware/efi/libstub/zboot-header.S).
fn zboot_payload(image: &[u8]) -> Option<&[u8]> {
    if !image.starts_with(b"MZ") || image.get(4..8)? != b"zimg" {
        return None;
    }
    let start = u32_at(image, 8)? as usize;
    image.get(start..start.checked_add(u32_at(image, 12)? as usize)?)
}

/// Extracts the ELF in the bzImage `image`; `None` if there is none that QEMU can start.
///
/// A missing ELF is no error: QEMU also starts the bzImage, but slower.
pub(super) fn vmlinux(image: &[u8]) -> Option<Vec<u8>> {
    let payload = payload(image)?;
    let elf = Compression::of(payload)?.unpack(payload).ok()?;
    has_pvh_entry(&elf).then_some(elf)
}

/// Reads the release of the bzImage `image`, as `uname -r` prints it. The first 64 KiB suffice.
pub(super) fn release(image: &[u8]) -> Option<String> {
    setup(image)?;
    let at = usize::from(u16_at(image, 0x20e)?);
    let text = image.get((at > 0).then_some(at + SECTOR)?..)?;
    let word = text
        .split(|byte| *byte == 0 || *byte == b' ')
        .next()
        .filter(|word| !word.is_empty())?;
    String::from_utf8(word.to_vec()).ok()
}

/// Returns the offset of the protected-mode part of a bzImage (Linux, Documentation/arch/x86/boot.rst).
fn setup(image: &[u8]) -> Option<usize> {
    let known = u16_at(image, 0x1fe)? == 0xaa55
        && image.get(0x202..0x206)? == b"HdrS"
        && u16_at(image, 0x206)? >= PROTOCOL;
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    known.then_some((sectors + 1) * SECTOR)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let start = setup(image)?.checked_add(u32_at(image, 0x248)? as usize)?;
    let end = start.checked_add(u32_at(image, 0x24c)? as usize)?;
    image.get(start..end)
}

/// Returns whether a 64-bit ELF for x86 has the note that QEMU needs to start it.
fn has_pvh_entry(elf: &[u8]) -> bool {
    program_notes(elf).is_some_and(|mut notes| notes.any(has_pvh_note))
}

/// Returns the PT_NOTE segments.
fn program_notes(elf: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    const ELFCLASS64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    const EM_X86_64: u16 = 62;
    const PT_NOTE: u32 = 4;
    if !elf.starts_with(ELFCLASS64_LITTLE) || u16_at(elf, 18)? != EM_X86_64 {
        return None;
    }
    let table = elf.get(usize::try_from(u64_at(elf, 0x20)?).ok()?..)?;
    let size = usize::from(u16_at(elf, 0x36)?).max(1);
    let count = usize::from(u16_at(elf, 0x38)?);
    let segment = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 8)?).ok()?;
        let end = start.checked_add(usize::try_from(u64_at(header, 32)?).ok()?)?;
        (u32_at(header, 0)? == PT_NOTE).then_some((start, end))
    };
    let notes = table.chunks_exact(size).take(count).filter_map(segment);
    Some(notes.filter_map(|(start, end)| elf.get(start..end)))
}

fn has_pvh_note(mut notes: &[u8]) -> bool {
    let mut next = || {
        let name_size = u32_at(notes, 0)? as usize;
        let size = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..)?.get(..name_size)?;
        let length = 12usize
            .checked_add(name_size.checked_next_multiple_of(4)?)?
            .checked_add(size.checked_next_multiple_of(4)?)?;
        notes = notes.get(length..).unwrap_or_default();
        Some(kind == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0")
    };
    std::iter::from_fn(&mut next).any(|found| found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::guest::kernel::decompress::tests::lz4;
    use proptest::prelude::*;

    /// Returns an ELF with one note.
    fn elf(name: &[u8; 4], kind: u32) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[0x20] = 64;
        elf[0x36] = 56;
        elf[0x38] = 1;
        elf[64] = 4;
        elf[64 + 8] = 120;
        elf[64 + 32] = 24 + 20;
        for (name, kind, content) in [(b"GNU\0", 3, 8u32), (name, kind, 4)] {
            for word in [4, content, kind] {
                elf.extend_from_slice(&word.to_le_bytes());
            }
            elf.extend_from_slice(name);
            elf.extend(vec![9; content as usize]);
        }
        elf
    }

    /// Returns a bzImage of release 6.1.0-test around `payload`.
    pub(in super::super) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[0x1f1] = 2;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image[0x300..0x313].copy_from_slice(b"6.1.0-test (a@b) #1");
        image.resize(3 * SECTOR + 16, 0);
        image.extend_from_slice(payload);
        image.extend_from_slice(b"checksum");
        image
    }

    /// Returns a payload as the kernel's build makes it: an ELF, compressed, with its length behind.
    pub(in super::super) fn packed_elf() -> (Vec<u8>, Vec<u8>) {
        let elf = elf(b"Xen\0", XEN_ELFNOTE_PHYS32_ENTRY);
        let length = u32::try_from(elf.len()).unwrap().to_le_bytes();
        (elf.clone(), [lz4(&elf), length.to_vec()].concat())
    }

    #[test]
    fn the_elf_in_a_bzimage_is_found() {
        let (elf, packed) = packed_elf();
        assert_eq!(vmlinux(&bzimage(&packed)), Some(elf));
    }

    #[test]
    fn an_image_without_a_bootable_elf_is_not_extracted() {
        let (elf_with_entry, packed) = packed_elf();
        assert_eq!(vmlinux(&elf_with_entry), None);
        assert_eq!(vmlinux(&bzimage(&lz4(&elf(b"Xen\0", 17)))), None);
        assert_eq!(vmlinux(&bzimage(&lz4(&elf(b"Foo\0", 18)))), None);
        assert_eq!(vmlinux(&bzimage(b"BZh91AY")), None);
        let mut old = bzimage(&packed);
        old[0x206] = 7;
        old[0x207] = 2;
        assert_eq!(vmlinux(&old), None);
    }

    /// Returns a program of EFI around `payload`.
    fn zboot(payload: &[u8], format: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 64];
        image[..2].copy_from_slice(b"MZ");
        image[4..8].copy_from_slice(b"zimg");
        image[8] = 64;
        image[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image[24..24 + format.len()].copy_from_slice(format);
        [&image, payload, b"length"].concat()
    }

    #[test]
    fn kernels_of_other_architectures_are_unpacked() {
        let kernel = b"MZ kernel kernel kernel kernel".to_vec();
        let zstd = zstd::encode_all(kernel.as_slice(), 0).unwrap();
        for image in [
            zboot(&zstd, b"zstd"),
            zboot(&lz4(&kernel), b"lz4"),
            zstd,
            kernel.clone(),
        ] {
            assert_eq!(bootable(image).unwrap(), kernel);
        }
        let unknown = bootable(zboot(b"\x89LZO", b"lzo\x1b")).unwrap_err();
        assert!(unknown.to_string().contains(r"'lzo\x1b'"), "{unknown}");
    }

    #[test]
    fn the_release_is_read_from_the_header() {
        assert_eq!(release(&bzimage(b"")).unwrap(), "6.1.0-test");
        assert_eq!(release(&elf(b"Xen\0", 18)), None);
    }

    #[test]
    fn a_kernel_cut_short_anywhere_is_no_kernel() {
        let image = bzimage(&packed_elf().1);
        for length in 0..image.len() - b"checksum".len() {
            assert_eq!(vmlinux(&image[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn damage_makes_no_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut image = bzimage(&packed_elf().1);
            let mut elf = packed_elf().0;
            for (at, byte) in damage {
                let at_image = at.index(image.len());
                image[at_image] = byte;
                let at_elf = at.index(elf.len());
                elf[at_elf] = byte;
            }
            let _ = bootable(image.clone());
            release(&image);
            has_pvh_entry(&elf);
        }
    }

    #[test]
    fn the_kernels_of_this_host_are_unpacked() {
        let images = crate::guest::kernel::tests::installed();
        if images.is_empty() || !cfg!(target_arch = "x86_64") {
            println!("skipped: no kernel for x86-64 in /boot");
        }
        for path in images {
            let Ok(image) = std::fs::read(&path) else {
                println!("skipped: '{}' cannot be read", path.display());
                continue;
            };
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(release(&image).unwrap(), name["vmlinuz-".len()..]);
            assert!(vmlinux(&image).is_some(), "{name}");
        }
    }
}
