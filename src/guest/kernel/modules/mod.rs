//! Dependencies of a kernel's modules, from the files that depmod and the kernel's build write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A module that is loaded from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// Name, with `_` for every `-`.
    pub(super) name: String,
    /// File, `.ko` or compressed, below the directory of modules.
    pub(super) file: PathBuf,
}

/// Index of a kernel's modules.
#[derive(Debug, Default)]
pub(super) struct Index {
    files: BTreeMap<String, File>,
    built_in: BTreeSet<String>,
    /// Other names of built-in modules.
    built_in_aliases: BTreeSet<String>,
    /// Soft dependencies, by module.
    soft: BTreeMap<String, Vec<String>>,
    /// Patterns of aliases, and their modules.
    aliases: Vec<(String, String)>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    depends: Vec<String>,
}

impl Index {
    /// Reads the files `modules.*` in `directory`; only `modules.dep` has to be there.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        Self::read_those(directory, |_| true)
    }

    /// Reads only the names of the modules, for [`has`](Self::has): a tenth of the files.
    pub(super) fn read_names(directory: &Path) -> Result<Self> {
        Self::read_those(directory, |name| {
            ["modules.dep", "modules.builtin"].contains(&name)
        })
    }

    fn read_those(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let path = directory.join(name);
            if !wanted(name) {
                return Ok(String::new());
            }
            match fs::read(&path) {
                Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != "modules.dep" => {
                    Ok(String::new())
                }
                Err(error) => Err(Error::io("reading", &path)(error)),
            }
        };
        Ok(Self::parse(&Texts {
            dep: text("modules.dep")?,
            builtin: text("modules.builtin")?,
            builtin_modinfo: text("modules.builtin.modinfo")?,
            softdep: text("modules.softdep")?,
            alias: text("modules.alias")?,
        }))
    }

    fn parse(texts: &Texts) -> Self {
        let mut index = Self::default();
        for line in texts.dep.lines() {
            if let Some((path, depends)) = line.split_once(':') {
                let file = File {
                    path: path.into(),
                    depends: depends.split_whitespace().map(name_of).collect(),
                };
                index.files.insert(name_of(path), file);
            }
        }
        index.built_in.extend(texts.builtin.lines().map(name_of));
        for entry in texts.builtin_modinfo.split('\0') {
            if let Some((key, value)) = entry.split_once('=')
                && let Some((module, "alias")) = key.split_once('.')
            {
                index.built_in.insert(normal(module));
                index.built_in_aliases.insert(normal(value));
            }
        }
        for line in texts.softdep.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("softdep")
                && let Some(module) = words.next()
            {
                let before = words
                    .skip_while(|word| *word != "pre:")
                    .skip(1)
                    .take_while(|word| *word != "post:");
                let known = index.soft.entry(normal(module)).or_default();
                known.extend(before.map(normal));
            }
        }
        for line in texts.alias.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("alias")
                && let (Some(pattern), Some(module)) = (words.next(), words.next())
            {
                index.aliases.push((normal(pattern), normal(module)));
            }
        }
        index
    }

    /// Returns whether the kernel has `module`, as a file or built in.
    pub(super) fn has(&self, module: &str) -> bool {
        let name = normal(module);
        self.files.contains_key(&name) || self.built_in.contains(&name)
    }

    /// Returns `modules` and their dependencies, each once and after its dependencies, without those that are built in.
    ///
    /// # Errors
    /// Where a module is neither a file nor built in.
    pub(super) fn closure<'a>(
        &self,
        modules: impl IntoIterator<Item = &'a str>,
    ) -> std::result::Result<Vec<Module>, MissingModule> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for module in modules {
            self.visit(&normal(module), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> std::result::Result<(), MissingModule> {
        if !seen.insert(name.to_owned()) || self.built_in.contains(name) {
            return Ok(());
        }
        let file = self
            .files
            .get(name)
            .ok_or_else(|| MissingModule(name.to_owned()))?;
        let soft = self.soft.get(name).into_iter().flatten();
        for provider in soft.filter_map(|wanted| self.provider(wanted)) {
            self.visit(provider, seen, order)?;
        }
        // depmod lists the deepest last.
        for depends in file.depends.iter().rev() {
            self.visit(depends, seen, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            file: file.path.clone(),
        });
        Ok(())
    }

    /// Returns the module for a soft dependency: a module, or an alias such as `crypto-crc32c`.
    ///
    /// Of several it is the one that works on every CPU, since the guest's is not known here.
    fn provider(&self, wanted: &str) -> Option<&str> {
        if self.built_in.contains(wanted) || self.built_in_aliases.contains(wanted) {
            return None;
        }
        if let Some((name, _)) = self.files.get_key_value(wanted) {
            return Some(name);
        }
        let mut providers = self
            .aliases
            .iter()
            .filter(|(pattern, module)| matches(pattern, wanted) && self.files.contains_key(module))
            .map(|(_, module)| module.as_str())
            .collect::<Vec<_>>();
        providers.sort_by_key(|module| (!module.ends_with("_generic"), *module));
        providers.first().copied()
    }
}

/// Name of a module that the kernel has neither as a file nor built in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct MissingModule(pub String);

/// Texts of the files `modules.*`.
#[derive(Debug, Default)]
struct Texts {
    dep: String,
    builtin: String,
    builtin_modinfo: String,
    softdep: String,
    alias: String,
}

/// Replaces `-` with `_` in a module's name: the kernel does not tell them apart.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Returns the name of a module's file: `virtio_net` of `kernel/drivers/net/virtio-net.ko.xz`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normal(file.split(".ko").next().unwrap_or(file))
}

/// Returns whether `text` matches `pattern` with `*`, `?` and `[…]`, as fnmatch(3).
fn matches(pattern: &str, text: &str) -> bool {
    fn rest(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', after)), _) => (0..=text.len()).any(|skip| rest(after, &text[skip..])),
            (Some(_), None) => false,
            (Some((b'?', after)), Some((_, text))) => rest(after, text),
            (Some((b'[', after)), Some((first, text))) => {
                let Some(end) = after.iter().skip(1).position(|byte| *byte == b']') else {
                    return *first == b'[' && rest(after, text);
                };
                let (set, after) = (&after[..=end], &after[end + 2..]);
                in_set(set, *first) && rest(after, text)
            }
            (Some((wanted, after)), Some((first, text))) => wanted == first && rest(after, text),
        }
    }
    rest(pattern.as_bytes(), text.as_bytes())
}

/// Returns whether `byte` is in `set`, the inside of a `[…]`.
fn in_set(set: &[u8], byte: u8) -> bool {
    let (set, negated) = match set {
        [b'!' | b'^', set @ ..] if !set.is_empty() => (set, true),
        _ => (set, false),
    };
    let mut rest = set;
    let mut found = false;
    while let [first, after @ ..] = rest {
        // In a normalised pattern a range is written with '_'.
        (found, rest) = match after {
            [b'-' | b'_', last, after @ ..] => (found || (*first..=*last).contains(&byte), after),
            _ => (found || *first == byte, after),
        };
    }
    found != negated
}

#[cfg(test)]
mod tests;
