//! Two categories for each sandbox, which no other has: processes cannot read files with a category that they lack.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::sys::file::atomic;
use crate::sys::file::entries::entries_except;
use crate::sys::file::lock::{Lock, Sharing};

/// Number of categories in the policies of all distributions: `c0` to `c1023`.
const COUNT: u32 = 1024;

/// Name of the file with the categories, in the directory of a sandbox.
const NOTE: &str = "categories";

/// Pair of categories, the lower one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Categories(u32, u32);

impl Categories {
    /// Number of pairs.
    const PAIRS: u32 = COUNT * (COUNT - 1) / 2;

    /// Returns the pair number `index`: first those whose second category is 1, then 2, and so on.
    fn nth(index: u32) -> Self {
        let mut second = 1;
        let mut rest = index % Self::PAIRS;
        while rest >= second {
            rest -= second;
            second += 1;
        }
        Self(rest, second)
    }
}

impl FromStr for Categories {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (first, second) = text.split_once(',').ok_or(())?;
        let number = |text: &str| -> std::result::Result<u32, ()> {
            let number = text.strip_prefix('c').ok_or(())?;
            let number = number.parse().map_err(drop)?;
            (number < COUNT).then_some(number).ok_or(())
        };
        let (first, second) = (number(first)?, number(second)?);
        (first < second).then_some(Self(first, second)).ok_or(())
    }
}

impl fmt::Display for Categories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{},c{}", self.0, self.1)
    }
}

/// Registry of the categories in use on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Directories with one directory for each sandbox.
    pub directories: Vec<PathBuf>,
    /// Lock file, held while categories are chosen.
    pub lock: PathBuf,
}

impl Registry {
    /// Returns the categories noted in `dir`, the directory of the sandbox `uuid`, or notes free ones. They are the sandbox's as long
    /// as the directory exists.
    pub fn claim(&self, dir: &Path, uuid: Uuid) -> Result<Categories> {
        let _lock = Lock::acquire(&self.lock, Sharing::Exclusive, |_| {})?;
        let taken = self.taken(dir);
        if let Some(had) = read_note(dir).filter(|had| !taken.contains(had)) {
            return Ok(had);
        }
        let chosen = choose(uuid, |pair| !taken.contains(pair))
            .ok_or_else(|| Error::unsupported("no pair of SELinux categories is free"))?;
        atomic::write(&dir.join(NOTE), format!("{chosen}\n").as_bytes(), 0o600)?;
        Ok(chosen)
    }

    /// Returns the categories of other sandboxes.
    fn taken(&self, but: &Path) -> Vec<Categories> {
        entries_except(&self.directories, but)
            .filter_map(|dir| read_note(&dir))
            .collect()
    }
}

fn read_note(dir: &Path) -> Option<Categories> {
    fs::read_to_string(dir.join(NOTE)).ok()?.trim().parse().ok()
}

/// Chooses a free pair. The same sandbox tends to get the same pair again.
fn choose(uuid: Uuid, is_free: impl Fn(&Categories) -> bool) -> Option<Categories> {
    let count = Categories::PAIRS;
    let begin = u32::try_from(uuid.as_u128() % u128::from(count)).unwrap_or_default();
    (begin..count)
        .chain(0..begin)
        .map(Categories::nth)
        .find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_one_number() {
        assert_eq!(Categories::nth(0).to_string(), "c0,c1");
        assert_eq!(Categories::nth(1).to_string(), "c0,c2");
        assert_eq!(Categories::nth(2).to_string(), "c1,c2");
        assert_eq!(
            Categories::nth(Categories::PAIRS - 1).to_string(),
            "c1022,c1023"
        );
        let some: std::collections::HashSet<_> = (0..20_000).map(Categories::nth).collect();
        assert_eq!(some.len(), 20_000);
        for text in ["", "c1", "c1,c1", "c2,c1", "c1,c1024", "c-1,c2", "1,2"] {
            assert!(text.parse::<Categories>().is_err(), "{text}");
        }
        assert_eq!("c3,c1023".parse::<Categories>(), Ok(Categories(3, 1023)));
    }

    #[test]
    fn every_sandbox_has_its_own_categories_and_keeps_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let registry = Registry {
            directories: vec![root.join("services"), root.join("run")],
            lock: root.join("lock"),
        };
        let made = |name: &str| {
            let dir = root.join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        let (one, two) = (made("services/one"), made("run/two"));
        let uuid = Uuid::from_u128(7);
        let first = registry.claim(&one, uuid).unwrap();
        assert_eq!(first, Categories::nth(7));
        assert_eq!(registry.claim(&two, uuid).unwrap(), Categories::nth(8));
        assert_eq!(registry.claim(&one, Uuid::from_u128(9)).unwrap(), first);
        // A note copied from another sandbox does not count.
        fs::copy(one.join(NOTE), two.join(NOTE)).unwrap();
        assert_ne!(registry.claim(&two, uuid).unwrap(), first);
    }
}
