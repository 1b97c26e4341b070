//! `cargo xtask syscalls`: writes the numbers of system calls that guest-init's filter knows.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// The table, in the workspace.
const TABLE: &str = "guest-init/src/seccomp/syscalls.txt";

/// Column of the table: an architecture by the name that `uname -m` prints, and its calls.
type Column = (&'static str, Vec<(&'static str, i32)>);

/// Returns the calls of an architecture's module.
macro_rules! calls {
    ($arch:ident) => {
        syscalls::$arch::Sysno::iter()
            .map(|call| (call.name(), call.id()))
            .collect()
    };
}

fn columns() -> [Column; 8] {
    [
        ("x86_64", calls!(x86_64)),
        ("i386", calls!(x86)),
        ("aarch64", calls!(aarch64)),
        ("arm", calls!(arm)),
        ("ppc64le", calls!(powerpc64)),
        ("s390x", calls!(s390x)),
        ("riscv64", calls!(riscv64)),
        ("loongarch64", calls!(loongarch64)),
    ]
}

/// Calls of ARM that are not in the kernel's table of all (arch/arm/include/uapi/asm/unistd.h).
const PRIVATE_OF_ARM: [(&str, i32); 6] = [
    ("breakpoint", 0xf0001),
    ("cacheflush", 0xf0002),
    ("usr26", 0xf0003),
    ("usr32", 0xf0004),
    ("set_tls", 0xf0005),
    ("get_tls", 0xf0006),
];

/// Returns whether the number is that of a call with 64-bit times, which architectures of 32 bits alone have (asm-generic/unistd.h).
fn is_of_32_bits(number: i32) -> bool {
    (403..=423).contains(&number)
}

/// Returns the kernel's name of a call.
fn kernels_name(name: &'static str) -> &'static str {
    match name {
        "r#break" => "break",
        // `__NR3264_fstatat`
        "fstatat" => "newfstatat",
        name => name,
    }
}

/// Returns the table: a line for each name, with its number on each architecture.
fn table() -> String {
    let columns = columns();
    let mut lines: BTreeMap<&str, [Option<i32>; 8]> = BTreeMap::new();
    for (index, (arch, calls)) in columns.iter().enumerate() {
        let private: &[(&str, i32)] = if *arch == "arm" { &PRIVATE_OF_ARM } else { &[] };
        for (name, number) in calls.iter().chain(private) {
            if is_of_32_bits(*number) && !["i386", "arm"].contains(arch) {
                continue;
            }
            lines.entry(kernels_name(name)).or_default()[index] = Some(*number);
        }
    }
    let arches = columns.map(|(arch, _)| arch).join(" ");
    let mut text = format!(
        "# Numbers of system calls, from the kernel's tables; `cargo xtask syscalls` writes this.\n# {arches}\n"
    );
    for (name, numbers) in lines {
        let word = |number: Option<i32>| number.map_or("-".to_owned(), |it| it.to_string());
        text.push_str(&format!("{name} {}\n", numbers.map(word).join(" ")));
    }
    text
}

fn main() -> Result<()> {
    let file = workspace().join(TABLE);
    std::fs::write(&file, table()).with_context(|| format!("writing '{}'", file.display()))?;
    println!("{TABLE}");
    Ok(())
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_the_crate_has() {
        let written = std::fs::read_to_string(workspace().join(TABLE)).unwrap();
        assert!(written == table(), "run `cargo xtask syscalls`");
    }
}
