//! Compression of archives.

use std::io::{self, BufRead, Write};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use zstd::stream::read::Decoder as ZstdDecoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::ArchiveError;

/// Compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    None,
    /// Format of `gzip`.
    Gzip,
    /// Format of `zstd`.
    Zstd,
}

impl Compression {
    /// Returns the compression that the name of a file implies.
    #[must_use]
    pub fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz" | "tgz") => Self::Gzip,
            Some("zst" | "tzst") => Self::Zstd,
            Some(_) | None => Self::None,
        }
    }

    /// Calls `write` with a compressing stream, and finishes the stream.
    pub fn write<W: Write, E: From<ArchiveError>>(
        self,
        to: W,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<W, E> {
        match self {
            Self::None => {
                let mut to = io::BufWriter::with_capacity(1 << 16, to);
                write(&mut to)?;
                let written = to.into_inner().map_err(io::IntoInnerError::into_error);
                Ok(written.map_err(ArchiveError::Write)?)
            }
            Self::Gzip => {
                let mut to = GzEncoder::new(to, flate2::Compression::default());
                write(&mut to)?;
                Ok(to.finish().map_err(ArchiveError::Write)?)
            }
            Self::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                let mut to = ZstdEncoder::new(to, level).map_err(ArchiveError::Write)?;
                write(&mut to)?;
                Ok(to.finish().map_err(ArchiveError::Write)?)
            }
        }
    }
}

/// Decompresses a stream; its first bytes tell the format: gzip, zstd or none.
pub fn decompressed<'r>(mut from: impl BufRead + 'r) -> io::Result<Box<dyn io::Read + 'r>> {
    let begin = from.fill_buf()?;
    if begin.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(MultiGzDecoder::new(from)))
    } else if begin.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(ZstdDecoder::with_buffer(from)?))
    } else {
        Ok(Box::new(from))
    }
}
