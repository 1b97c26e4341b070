//! Ids of the host that sandboxes are mapped to. Every sandbox has its own, so that not even the kernel's accounting mixes two.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use guest_init::IDS_UNSUPPORTED;
use guest_init::config::IdMap;
use uuid::Uuid;

use crate::config::Idmap;
use crate::config::security::idmap::{IdRange, USUAL_COUNT};
use crate::domain::Filesystem;
use crate::error::{Error, Result};
use crate::host::SYSTEM_DIRS;
use crate::sys::file::atomic;
use crate::sys::file::entries::entries_except;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::process::command;

/// Names in `/etc/subuid` of the ranges that sandboxes may have.
const OWNERS: [&str; 2] = ["libvirt-sandbox", "root"];

/// First id and number of ids if `/etc/subuid` has no range for us: the upper half of systemd's range for containers (UIDS-GIDS).
const USUAL_POOL: (u32, u32) = (1_000_013_824, 1_879_048_192 - 1_000_013_824);

/// Name of the file in the directory of a sandbox that holds its range of ids.
const NOTE: &str = "ids";

/// Registry of the ranges of ids of all sandboxes of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Directories with a directory of each sandbox.
    pub directories: Vec<PathBuf>,
    /// `/etc`, with `subuid` and `subgid`.
    pub etc: PathBuf,
    /// File that is locked while ids are chosen.
    pub lock: PathBuf,
}

impl Registry {
    /// Returns the registry of the sandboxes in these directories.
    #[must_use]
    pub fn of(directories: &[&Path]) -> Self {
        Self {
            directories: directories.iter().map(|path| (*path).to_owned()).collect(),
            etc: "/etc".into(),
            lock: "/run/virt-sandbox-ids.lock".into(),
        }
    }

    /// Claims ids for the sandbox `uuid` with the directory `dir`: those that it had, or else free ones, which it keeps for as long as
    /// its directory is there.
    ///
    /// # Errors
    /// Where none are free, or the wanted range has ids of another sandbox.
    pub fn claim(&self, dir: &Path, uuid: Uuid, wanted: Option<IdRange>) -> Result<IdRange> {
        let _lock = Lock::acquire(&self.lock, Sharing::Exclusive, |_| {})?;
        let range = self.preview(dir, uuid, wanted)?;
        if noted(dir) != Some(range) {
            atomic::write(&dir.join(NOTE), format!("{range}\n").as_bytes(), 0o600)?;
        }
        Ok(range)
    }

    /// Returns the ids that [`claim`](Self::claim) would claim.
    pub fn preview(&self, dir: &Path, uuid: Uuid, wanted: Option<IdRange>) -> Result<IdRange> {
        let taken = self.taken(dir);
        let is_free = |range: &IdRange| !taken.iter().any(|(_, other)| range.overlaps(*other));
        match wanted {
            Some(range) => {
                if let Some((other, _)) = taken.iter().find(|(_, other)| range.overlaps(*other)) {
                    return Err(Error::refused(format!(
                        "the ids {range} are those of '{}' already; choose others with --idmap, or auto",
                        other.display()
                    )));
                }
                Ok(range)
            }
            None => {
                let (pool, foreign) = self.pool();
                let is_ours = |range: &IdRange| !foreign.iter().any(|other| range.overlaps(*other));
                let had = noted(dir).filter(is_free).filter(is_ours);
                let chosen =
                    had.or_else(|| choose(&pool, uuid, |range| is_free(range) && is_ours(range)));
                chosen.ok_or_else(|| {
                    Error::unsupported(format!(
                        "no {USUAL_COUNT} ids are free for the sandbox; give 'root' more in {0}/subuid and {0}/subgid",
                        self.etc.display()
                    ))
                })
            }
        }
    }

    /// Returns the ranges of other sandboxes, with their directories.
    fn taken(&self, but: &Path) -> Vec<(PathBuf, IdRange)> {
        entries_except(&self.directories, but)
            .filter_map(|dir| noted(&dir).map(|range| (dir, range)))
            .collect()
    }

    /// Returns the ranges for sandboxes, and those of others.
    fn pool(&self) -> (Vec<IdRange>, Vec<IdRange>) {
        let read = |name: &str| fs::read_to_string(self.etc.join(name)).unwrap_or_default();
        let (users, groups) = (read("subuid"), read("subgid"));
        let (ours, mut foreign) = split(&users);
        let (our_groups, foreign_groups) = split(&groups);
        foreign.extend(foreign_groups);
        let both: Vec<IdRange> = ours
            .iter()
            .flat_map(|user| our_groups.iter().filter_map(|group| common(*user, *group)))
            .filter(|range| range.count() >= USUAL_COUNT)
            .collect();
        match both.is_empty() {
            true => (
                IdRange::new(USUAL_POOL.0, USUAL_POOL.1)
                    .into_iter()
                    .collect(),
                foreign,
            ),
            false => (both, foreign),
        }
    }
}

/// Returns the range of the sandbox in `dir`.
#[must_use]
pub fn noted(dir: &Path) -> Option<IdRange> {
    let text = fs::read_to_string(dir.join(NOTE)).ok()?;
    text.trim().parse().ok()
}

/// Parses a subuid(5) into the ranges for sandboxes and those of others.
fn split(text: &str) -> (Vec<IdRange>, Vec<IdRange>) {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let range = IdRange::new(first.parse().ok()?, count.parse().ok()?)?;
        Some((OWNERS.contains(&name), range))
    });
    let (ours, foreign): (Vec<_>, Vec<_>) = ranges.partition(|(is_ours, _)| *is_ours);
    let ranges = |found: Vec<(bool, IdRange)>| found.into_iter().map(|(_, range)| range).collect();
    (ranges(ours), ranges(foreign))
}

fn common(one: IdRange, other: IdRange) -> Option<IdRange> {
    let first = one.first().max(other.first());
    let end = one.end().min(other.end());
    IdRange::new(first, end.checked_sub(first)?)
}

/// Chooses a free range of the pool; the same sandbox tends to get the same.
fn choose(pool: &[IdRange], uuid: Uuid, is_free: impl Fn(&IdRange) -> bool) -> Option<IdRange> {
    let slots: Vec<IdRange> = pool
        .iter()
        .flat_map(|range| {
            let count = range.count() / USUAL_COUNT;
            (0..count)
                .filter_map(|slot| IdRange::new(range.first() + slot * USUAL_COUNT, USUAL_COUNT))
        })
        .collect();
    let size = u128::try_from(slots.len()).ok().filter(|size| *size > 0)?;
    let begin = usize::try_from(uuid.as_u128() % size).ok()?;
    let (before, after) = slots.split_at(begin);
    after
        .iter()
        .chain(before)
        .find(|range| is_free(range))
        .copied()
}

/// Chooses the map of ids of a sandbox with the directory `dir`; `None` if it keeps the ids of the host. With `auto` it keeps them
/// also if the kernel or one of the `filesystems` cannot map ids, which is logged; but never once it has had ids of its own.
///
/// # Errors
/// Where a wanted range cannot be had, or the attempt fails for a reason that may pass.
pub fn decide(
    idmap: Idmap,
    filesystems: &[Filesystem],
    init: &Path,
    dir: &Path,
    claim: impl FnOnce(Option<IdRange>) -> Result<IdRange>,
) -> Result<Option<IdMap>> {
    let wanted = match idmap {
        Idmap::No => return Ok(None),
        Idmap::Auto => None,
        Idmap::Range(range) => Some(range),
    };
    // A missing directory does not mean that ids cannot be mapped. The staging root is made later.
    let mut shared = (filesystems.iter()).filter(|shared| shared.target != Path::new("/"));
    if let Some(missing) = shared.find(|shared| !shared.source.exists()) {
        let path = missing.source.display();
        return Err(Error::unsupported(format!(
            "'{path}' is missing, which the sandbox has; put it back, or take it out of the sandbox's configuration"
        )));
    }
    let had = noted(dir);
    let range = claim(wanted)?;
    let reason = match try_out(init, range, filesystems)? {
        Tried::Works => {
            return Ok(Some(IdMap {
                first: range.first(),
                count: range.count(),
            }));
        }
        Tried::Unsupported(reason) => reason,
    };
    if let (Some(range), _) | (None, Some(range)) = (wanted, had) {
        return Err(Error::refused(format!(
            "the sandbox cannot have the ids {range}{}: {reason}; use --idmap no (idmap = \"no\" in sandbox.toml) if its root \
             may be the host's",
            if had.is_some() { " that it had" } else { "" }
        )));
    }
    forget(dir)?;
    log::warn!(
        "the sandbox has no ids of its own ({reason}): its root is the host's root, held back by capabilities \
         and system calls alone; --idmap no says that this is known"
    );
    Ok(None)
}

/// Removes the note of ids that could not be had.
fn forget(dir: &Path) -> Result<()> {
    let note = dir.join(NOTE);
    match fs::remove_file(&note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("removing", &note)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Outcome of an attempt to give a sandbox its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tried {
    /// The sandbox can have the ids.
    Works,
    /// The kernel or a filesystem has no way to do this.
    Unsupported(String),
}

/// Returns why a sandbox cannot have ids of its own over these filesystems; `None` if it can.
///
/// # Errors
/// The attempt fails for a reason that may pass.
pub fn unsupported(
    init: &Path,
    range: IdRange,
    filesystems: &[Filesystem],
) -> Result<Option<String>> {
    match try_out(init, range, filesystems)? {
        Tried::Works => Ok(None),
        Tried::Unsupported(reason) => Ok(Some(reason)),
    }
}

/// Maps what the sandbox needs to own in a user namespace, in a process that is gone afterwards.
///
/// # Errors
/// Where it fails for a reason that may pass, which tells nothing about the host.
fn try_out(init: &Path, range: IdRange, filesystems: &[Filesystem]) -> Result<Tried> {
    let needed = filesystems.iter().filter(|filesystem| is_owned(filesystem));
    let (first, count) = (range.first().to_string(), range.count().to_string());
    let mut arguments: Vec<&OsStr> = vec!["try-ids".as_ref(), first.as_ref(), count.as_ref()];
    arguments.extend(needed.map(|filesystem| filesystem.source.as_os_str()));
    let doing = format!("giving the sandbox the ids {range}");
    let (status, tried) = command::capture_paths(init, arguments)
        .map_err(|error| Error::step(format!("{doing}: running '{}'", init.display()))(error))?;
    match status.code() {
        Some(0) => Ok(Tried::Works),
        Some(code) if code == i32::from(IDS_UNSUPPORTED) => {
            Ok(Tried::Unsupported(tried.stderr.trim().to_owned()))
        }
        Some(_) | None => Err(Error::refused(format!(
            "{doing}: {}; try again, or use --idmap no if its root may be the host's",
            tried.stderr.trim()
        ))),
    }
}

/// Returns whether the ids of a filesystem have to be mapped: root inside writes to it, or it has programs that change
/// their user. The staging root is not visible inside, and files of any other read-only filesystem belong to nobody if it cannot be
/// mapped.
fn is_owned(filesystem: &Filesystem) -> bool {
    let target = filesystem.target.as_path();
    let is_system = target.strip_prefix("/host").is_ok_and(|inside| {
        inside.as_os_str().is_empty() || SYSTEM_DIRS.iter().any(|name| inside == Path::new(name))
    });
    target != Path::new("/") && (is_system || !filesystem.read_only)
}

#[cfg(test)]
mod tests;
