//! Rules of the source tree that the compiler cannot check.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Layers of modules, top down. A module may use those of the layers below its own.
const LAYERS: [&[&str]; 11] = [
    &["commands"],
    &["doctor"],
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

/// Most lines of a file.
const MOST_LINES: usize = 450;

/// Most files of one level in a folder.
const MOST_FILES: usize = 16;

/// First words of a doc comment that make no sense without the code below it.
const UNCLEAR_WORDS: [&str; 9] = [
    "What", "Who", "Whose", "Those", "These", "It", "Its", "That", "As",
];

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

/// Returns whether a file holds only unit tests.
fn is_test(path: &Path) -> bool {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"))
}

/// Returns a file's code without comments and without the unit tests at its end.
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

/// Returns the top-level module of a file, or `None` for `lib.rs` and the programs.
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

/// Collects the paths of a use tree or an expression, each after `prefix`, and returns the length of `text` that they take.
fn tree_paths(text: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    let skip_space = |at: usize| text.len() - text[at..].trim_start().len();
    loop {
        at = skip_space(at);
        if text[at..].starts_with('{') {
            at += 1;
            loop {
                at = skip_space(at);
                match text[at..].chars().next() {
                    Some(',') => at += 1,
                    None | Some('}') => return (at + 1).min(text.len()),
                    Some(_) => {
                        let taken = tree_paths(&text[at..], &path, paths);
                        // In `a as b` the first name counts.
                        let rest = &text[at + taken..];
                        at += taken + rest.find([',', '}']).unwrap_or(rest.len());
                    }
                }
            }
        }
        let name: String = text[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        at += name.len();
        if !name.is_empty() && name != "self" {
            path.push(name.clone());
        }
        let next = skip_space(at);
        if name.is_empty() || !text[next..].starts_with("::") {
            paths.push(path);
            return at;
        }
        at = next + 2;
    }
}

/// Returns the paths in `code` that begin at the crate or at a parent of `module`, relative to the crate's root.
fn used(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(is_name) {
                continue;
            }
            let mut rest = &code[at..];
            let mut base = match root {
                "crate::" => vec![],
                _ => module.to_vec(),
            };
            rest = rest.strip_prefix("crate::").unwrap_or(rest);
            while let Some(above) = rest.strip_prefix("super::") {
                rest = above;
                base.pop();
            }
            tree_paths(rest, &base, &mut found);
        }
    }
    found
}

/// Modules of one folder, and the others that each refers to.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Returns the references between the modules of each folder of a crate.
fn arrows(crate_root: &str) -> BTreeMap<PathBuf, Arrows> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(crate_root);
    let mut folders: BTreeMap<PathBuf, Arrows> = BTreeMap::new();
    for path in files(crate_root) {
        let inside = path.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Vec<String> = inside
            .iter()
            .map(|name| name.to_str().unwrap().to_owned())
            .collect();
        module.pop_if(|name| ["mod", "lib", "main"].contains(&name.as_str()));
        for used in used(&code(&path), &module) {
            let common = (module.iter().zip(&used))
                .take_while(|(own, other)| own == other)
                .count();
            let (Some(own), Some(other)) = (module.get(common), used.get(common)) else {
                continue;
            };
            let folder = module[..common]
                .iter()
                .fold(root.clone(), |folder, name| folder.join(name));
            let is_module =
                folder.join(format!("{other}.rs")).exists() || folder.join(other).is_dir();
            if is_module {
                let arrows = folders.entry(folder).or_default();
                arrows.entry(own.clone()).or_default().insert(other.clone());
            }
        }
    }
    folders
}

/// Returns all modules that can be reached from one.
fn reached(arrows: &Arrows, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![from.to_owned()];
    while let Some(module) = next.pop() {
        for other in arrows.get(&module).into_iter().flatten() {
            if seen.insert(other.clone()) {
                next.push(other.clone());
            }
        }
    }
    seen
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
        let own_path = [module.clone(), "file".to_owned()];
        for other in used(&code(&path), &own_path) {
            // Any other name is an item of lib.rs, or a macro.
            let Some(other) = other.first().filter(|other| **other != module) else {
                continue;
            };
            if layer(other).is_some_and(|other| other <= own) {
                broken.push(format!("{}: {module} uses {other}", name(&path)));
            }
        }
    }
    report(&broken);
}

#[test]
fn braced_and_plain_paths_are_seen() {
    let module = ["x".to_owned(), "y".to_owned()];
    let code = "use crate::{a::{self, b as c}, d};\ncrate::e::f();\nuse super::{g::h, i};\npub(super) fn j()";
    let seen: Vec<String> = used(code, &module)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(seen, ["a", "a::b", "d", "e::f", "x::g::h", "x::i"]);
}

#[test]
fn modules_of_a_folder_have_no_circles() {
    let mut broken = Vec::new();
    for (folder, arrows) in ["src", "guest-init/src"].into_iter().flat_map(arrows) {
        let folder = name(&folder);
        let circles: Vec<&String> = arrows
            .keys()
            .filter(|module| reached(&arrows, module).contains(*module))
            .collect();
        if !circles.is_empty() {
            broken.push(format!("{folder}: a circle of {circles:?}"));
        }
    }
    report(&broken);
}

#[test]
fn folders_have_few_files() {
    let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for path in files("src").into_iter().chain(files("guest-init/src")) {
        *folders
            .entry(path.parent().unwrap().to_owned())
            .or_default() += 1;
    }
    let broken: Vec<String> = folders
        .into_iter()
        .filter(|(_, files)| *files > MOST_FILES)
        .map(|(folder, files)| format!("{}: {files} files, at most {MOST_FILES}", name(&folder)))
        .collect();
    report(&broken);
}

#[test]
fn one_module_speaks_libvirt() {
    let mut broken = Vec::new();
    for path in files("src") {
        let libvirt = name(&path).starts_with("src/hypervisor/libvirt");
        // The programs call this crate `virt_sandbox::`.
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
        // systemd's names for kinds of virtualization are facts about units.
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

/// Every word in backticks in SECURITY.md that looks like the name of a test is one.
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

/// Returns the first word of every doc comment of a file, with its line.
fn first_words(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let doc = |line: &str| {
        let line = line.trim_start();
        let rest = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"))?;
        Some(rest.trim().to_owned())
    };
    let mut words = Vec::new();
    let mut is_first = true;
    for (at, line) in text.lines().enumerate() {
        let Some(doc) = doc(line) else {
            is_first = true;
            continue;
        };
        if is_first && let Some(word) = doc.split(|c: char| !c.is_alphanumeric()).next() {
            words.push((at + 1, word.to_owned()));
        }
        // A new paragraph begins anew.
        is_first = doc.is_empty();
    }
    words
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    let mut unclear = Vec::new();
    for path in ["src", "guest-init/src", "tests", "xtask"]
        .into_iter()
        .flat_map(files)
    {
        for (line, word) in first_words(&path) {
            if UNCLEAR_WORDS.contains(&word.as_str()) {
                unclear.push(format!("{}:{line}: {word} …", name(&path)));
            }
        }
    }
    report(&unclear);
}
