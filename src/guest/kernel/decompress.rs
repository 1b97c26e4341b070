//! Compression of kernels and modules, detected by the first bytes.

use std::io::{self, Read};

/// Largest size of an unpacked kernel or module.
const MOST_BYTES: u64 = 1 << 30;

/// Exponent of the largest window that is accepted, 128 MiB: that of `zstd -22`, which kernels are packed with.
const WINDOW_LOG: u32 = 27;

/// Largest unpacked block of LZ4's legacy format.
const LZ4_BLOCK: usize = 8 << 20;

/// A format of the kernel's build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Lzma,
    /// The format of `lz4 -l`: blocks of a length each, and no end mark.
    Lz4Legacy,
    Zstd,
}

impl Compression {
    /// Detects the format of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 5] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x5d\0\0", Self::Lzma),
            (b"\x02\x21\x4c\x18", Self::Lz4Legacy),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        magics
            .into_iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| compression)
    }

    /// Unpacks the first stream of `bytes`, and ignores the bytes after it, such as the length that the kernel's build appends.
    ///
    /// # Errors
    /// Where the stream is cut short, wrong, or longer than a gibibyte.
    pub(super) fn unpack(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read(flate2::read::GzDecoder::new(bytes)),
            Self::Xz => read(lzma_rust2::XzReader::new(bytes, false)),
            Self::Lzma => read(lzma_rust2::LzmaReader::new_mem_limit(
                bytes,
                u32::MAX,
                None,
            )?),
            Self::Lz4Legacy => lz4_legacy(bytes),
            Self::Zstd => {
                let mut stream = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
                stream.window_log_max(WINDOW_LOG)?;
                read(stream)
            }
        }
    }
}

/// Unpacks `bytes` if they are compressed.
pub(super) fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match Compression::of(&bytes) {
        Some(compression) => compression.unpack(&bytes),
        None => Ok(bytes),
    }
}

fn read(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    stream.take(MOST_BYTES + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() as u64 > MOST_BYTES {
        return Err(invalid("it is larger than a kernel can be"));
    }
    Ok(unpacked)
}

fn lz4_legacy(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    let mut rest = bytes.get(4..).unwrap_or_default();
    // The four bytes that the kernel's build appends are no block: nothing follows them.
    while let Some((length, after)) = rest.split_first_chunk::<4>()
        && !after.is_empty()
    {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((packed, after)) = after.split_at_checked(length) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let written = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| invalid(error.to_string()))?;
        unpacked.extend_from_slice(&block[..written]);
        if unpacked.len() as u64 > MOST_BYTES {
            return Err(invalid("it is larger than a kernel can be"));
        }
        rest = after;
    }
    Ok(unpacked)
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// Packs `bytes` in LZ4's legacy format, which has no end mark.
    pub(in super::super) fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut packed = b"\x02\x21\x4c\x18".to_vec();
        for block in bytes.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            packed.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend_from_slice(&block);
        }
        packed
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// `printf 'virtio virtio virtio\n'` through `xz --x86 --lzma2 --check=crc32`, `lzma` and `zstd`.
    const SAMPLES: [(Compression, &[u8]); 3] = [
        (Compression::Xz, include_bytes!("testdata/sample.xz")),
        (Compression::Lzma, include_bytes!("testdata/sample.lzma")),
        (Compression::Zstd, include_bytes!("testdata/sample.zst")),
    ];
    const SAMPLE: &[u8] = b"virtio virtio virtio\n";

    #[test]
    fn every_format_is_unpacked_with_a_length_behind() {
        let made = [
            (Compression::Gzip, gzip(SAMPLE)),
            (Compression::Lz4Legacy, lz4(SAMPLE)),
        ];
        let read = SAMPLES.map(|(compression, bytes)| (compression, bytes.to_vec()));
        for (compression, mut bytes) in made.into_iter().chain(read) {
            assert_eq!(Compression::of(&bytes), Some(compression));
            assert_eq!(
                compression.unpack(&bytes).unwrap(),
                SAMPLE,
                "{compression:?}"
            );
            bytes.extend_from_slice(&21u32.to_le_bytes());
            assert_eq!(
                compression.unpack(&bytes).unwrap(),
                SAMPLE,
                "{compression:?}"
            );
        }
        assert_eq!(unpacked(SAMPLE.to_vec()).unwrap(), SAMPLE);
    }

    #[test]
    fn more_than_one_block_of_lz4_is_read() {
        let long = vec![7; LZ4_BLOCK + 5];
        assert_eq!(Compression::Lz4Legacy.unpack(&lz4(&long)).unwrap(), long);
    }

    #[test]
    fn a_stream_cut_short_is_an_error() {
        let read = SAMPLES.map(|(compression, bytes)| (compression, bytes.to_vec()));
        for (compression, bytes) in read.into_iter().chain([
            (Compression::Gzip, gzip(SAMPLE)),
            (Compression::Lz4Legacy, lz4(SAMPLE)),
        ]) {
            let half = &bytes[..bytes.len() / 2 + 3];
            assert!(compression.unpack(half).is_err(), "{compression:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_never_worse_than_an_error(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            for magic in [&b"\x1f\x8b\x08"[..], b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"] {
                let bytes = [magic, &garbage].concat();
                let _ = unpacked(bytes);
            }
        }
    }
}
