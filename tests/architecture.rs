//! The rules of the source tree that no compiler holds.

// Helpers of a test are part of it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules, top down; one may use those of the groups below its own.
const LAYERS: [&[&str]; 10] = [
    &["commands"],
    &["service", "run"],
    &["tree", "driver"],
    &["facts"],
    &["console", "guest", "hypervisor", "label"],
    &["domain"],
    &["host", "ports"],
    &["config"],
    &["sys"],
    &["error"],
];

/// The most lines of a file that is still read in one go.
const MOST_LINES: usize = 450;

fn files(below: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(below),
        &mut found,
    );
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR"))
        .unwrap()
        .display()
        .to_string()
}

/// Whether a file holds nothing but unit tests.
fn is_test(path: &Path) -> bool {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"))
}

/// The product's code: without comments and without the unit tests at the end of a file.
fn code(path: &Path) -> String {
    if is_test(path) {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or("");
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// The top-level module a file belongs to, `None` for `lib.rs` and the programs.
fn module(path: &Path) -> Option<String> {
    let inside = path
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    let first = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "bin"].contains(&first)).then(|| first.to_owned())
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The names after `crate::`, one or a braced list of paths.
fn used(code: &str) -> Vec<String> {
    let identifier = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && c.is_alphabetic() => {
                    found.push(identifier(&list[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn report(broken: &[String]) {
    assert!(
        broken.is_empty(),
        "{} broken:\n  {}",
        broken.len(),
        broken.join("\n  ")
    );
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut broken = Vec::new();
    for path in files("src") {
        let Some(module) = module(&path) else {
            continue;
        };
        let Some(own) = layer(&module) else {
            broken.push(format!(
                "{}: the module '{module}' has no layer",
                name(&path)
            ));
            continue;
        };
        for other in used(&code(&path)) {
            // What is not a module is an item of lib.rs, or a macro.
            if other != module && layer(&other).is_some_and(|other| other <= own) {
                broken.push(format!("{}: {module} uses {other}", name(&path)));
            }
        }
    }
    report(&broken);
}

#[test]
fn braced_and_plain_paths_are_seen() {
    assert_eq!(
        used("use crate::{a::{b, c}, d};\ncrate::e::f();"),
        ["a", "d", "e"]
    );
}

#[test]
fn one_module_speaks_libvirt() {
    let mut broken = Vec::new();
    for path in files("src") {
        let libvirt = name(&path).starts_with("src/hypervisor/libvirt");
        // `virt_sandbox::` is this crate, as its programs see it.
        if !libvirt
            && code(&path)
                .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .any(|word| word.starts_with("virt::"))
        {
            broken.push(name(&path));
        }
    }
    report(&broken);
}

#[test]
fn no_service_knows_its_driver() {
    let mut broken = Vec::new();
    for path in ["src/service", "src/tree", "src/facts"]
        .into_iter()
        .flat_map(files)
    {
        // systemd's own names for kinds of virtualization are facts of units.
        if name(&path).starts_with("src/facts/unit/") {
            continue;
        }
        let code = code(&path).to_lowercase();
        for driver in ["lxc", "qemu", "kvm"] {
            if code.contains(driver) {
                broken.push(format!("{}: {driver}", name(&path)));
            }
        }
    }
    report(&broken);
}

#[test]
fn one_module_runs_commands() {
    let mut broken = Vec::new();
    for path in files("src") {
        let code = code(&path);
        let imported = code.contains("std::process::Command")
            || code
                .split("std::process::{")
                .skip(1)
                .any(|list| list.split('}').next().unwrap_or("").contains("Command"));
        if imported && module(&path).as_deref() != Some("sys") {
            broken.push(name(&path));
        }
    }
    report(&broken);
}

/// Words in backticks that look like the name of a test, in SECURITY.md.
#[test]
fn promises_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let is_test = |word: &&str| {
        word.matches('_').count() > 1
            && !word.contains(|c: char| !c.is_ascii_lowercase() && c != '_' && !c.is_ascii_digit())
    };
    let named: Vec<&str> = promises
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(is_test)
        .collect();
    assert!(named.len() > 50, "{} tests are named", named.len());
    let sources: String = ["src", "guest-init", "tests"]
        .into_iter()
        .flat_map(files)
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let missing: Vec<String> = (named.iter())
        .filter(|name| {
            !sources.contains(&format!("fn {name}(")) && !sources.contains(&format!("fn {name}<"))
        })
        .map(|name| format!("SECURITY.md names the test '{name}', which does not exist"))
        .collect();
    report(&missing);
}

#[test]
fn files_are_short_and_finished() {
    let mut broken = Vec::new();
    for path in files("src").into_iter().chain(files("guest-init/src")) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > MOST_LINES && !is_test(&path) {
            broken.push(format!(
                "{}: {lines} lines, at most {MOST_LINES}",
                name(&path)
            ));
        }
        if text.contains("TODO") {
            broken.push(format!("{}: a TODO", name(&path)));
        }
    }
    report(&broken);
}
