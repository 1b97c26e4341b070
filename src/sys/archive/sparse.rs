//! GNU's sparse format 1.0: a file with holes is archived as a map followed by its data.
//!
//! The map is text, one number a line: the number of extents, then offset and length of each. It is padded to
//! a block.

use std::io::{self, Read};
use std::ops::Range;

use super::{BLOCK, pax};

/// Maximum number of extents that are accepted.
const MOST: u64 = 1 << 20;

/// Returns the padded map of a file of `size` bytes with data at `extents`.
pub(super) fn map(extents: &[Range<u64>], size: u64) -> Vec<u8> {
    // An empty extent at the end encodes the size of a file that ends with a hole.
    let end = Some(size..size).filter(|_| extents.last().is_none_or(|last| last.end < size));
    let all: Vec<&Range<u64>> = extents.iter().chain(&end).collect();
    let mut text = format!("{}\n", all.len());
    for extent in all {
        text.push_str(&format!(
            "{}\n{}\n",
            extent.start,
            extent.end - extent.start
        ));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK as usize), 0);
    text
}

/// Reads the map of a file of `size` bytes, and returns it with its length. `None` if it is invalid.
pub(super) fn read_map(
    from: &mut impl Read,
    size: u64,
) -> io::Result<Option<(Vec<Range<u64>>, u64)>> {
    let mut used = 0;
    let mut block = [0; BLOCK as usize];
    let mut at = block.len();
    let mut next = || -> io::Result<Option<u64>> {
        let mut digits = Vec::new();
        loop {
            if at == block.len() {
                from.read_exact(&mut block)?;
                used += BLOCK;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return Ok(pax::number(&digits)),
                _ if digits.len() > 20 => return Ok(None),
                byte => digits.push(byte),
            }
        }
    };
    let Some(count) = next()?.filter(|count| *count <= MOST) else {
        return Ok(None);
    };
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut done = 0;
    for _ in 0..count {
        let (Some(start), Some(length)) = (next()?, next()?) else {
            return Ok(None);
        };
        let end = start.checked_add(length).filter(|end| *end <= size);
        let Some(end) = end.filter(|_| start >= done) else {
            return Ok(None);
        };
        done = end;
        if length > 0 {
            extents.push(start..end);
        }
    }
    Ok(Some((extents, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_written() {
        for (extents, size) in [
            (vec![], 7),
            (vec![0..3, 9..10], 10),
            (vec![5..7, 8..9], 1 << 40),
            ((0..200).map(|n| n * 10..n * 10 + 1).collect(), 2000),
        ] {
            let text = map(&extents, size);
            let (read, used) = read_map(&mut text.as_slice(), size).unwrap().unwrap();
            assert_eq!((read, used), (extents, text.len() as u64));
        }
        for wrong in [
            "x\n",
            "1\n5\n6\n",
            "2\n4\n2\n5\n1\n",
            "9999999999\n",
            "1\n-1\n1\n",
        ] {
            let mut text = wrong.as_bytes().to_vec();
            text.resize(512, 0);
            assert_eq!(read_map(&mut text.as_slice(), 10).unwrap(), None, "{wrong}");
        }
    }
}
