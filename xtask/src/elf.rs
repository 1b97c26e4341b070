//! Run-time dependencies of a program, read from its ELF file, elf(5).

use anyhow::{Context, Result, bail};

const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// Run-time dependencies of a program.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// Whether it has a program interpreter, the dynamic loader.
    pub interpreter: bool,
    /// Number of shared libraries.
    pub libraries: usize,
}

/// Reads the program headers of a 64-bit ELF file of either byte order.
pub fn needs(file: &[u8]) -> Result<Needs> {
    if file.get(..5) != Some(b"\x7fELF\x02") {
        bail!("not a 64-bit ELF file");
    }
    let field = |offset: u64, size: usize| number(file, offset, size);
    let (table, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    let mut needs = Needs {
        interpreter: false,
        libraries: 0,
    };
    for index in 0..count {
        let header = table + index * size;
        match field(header, 4)? {
            PT_INTERP => needs.interpreter = true,
            // A static PIE has this segment, too, without libraries.
            PT_DYNAMIC => {
                let (start, length) = (field(header + 8, 8)?, field(header + 32, 8)?);
                for entry in (start..start + length).step_by(16) {
                    match field(entry, 8)? {
                        DT_NULL => break,
                        DT_NEEDED => needs.libraries += 1,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(needs)
}

fn number(file: &[u8], offset: u64, size: usize) -> Result<u64> {
    let start = usize::try_from(offset).context("a 64-bit offset")?;
    let bytes = file
        .get(start..start + size)
        .context("the file is cut short")?;
    let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    // e_ident[EI_DATA]: 2 is big-endian.
    Ok(if file[5] == 2 {
        bytes.iter().fold(0, add)
    } else {
        bytes.iter().rev().fold(0, add)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_dynamic_program() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&program).unwrap();
        assert!(needs.interpreter && needs.libraries > 0, "{needs:?}");
    }

    #[test]
    fn other_files_are_refused() {
        assert!(needs(b"#!/bin/sh\n").is_err());
        assert!(needs(b"\x7fELF\x02\x01").is_err());
    }
}
